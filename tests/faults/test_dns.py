"""With a silent name server, from the start or later, the gateway is alive, reports what it cannot
do, does the rest, and can be stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eventstreams.config.settings import SqliteSettings
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Record
from eventstreams.tasks import background
from tests.support.client import Stream, connected
from tests.support.gateway import SSE
from tests.support.issuer import Pair
from tests.support.kafka_tools import eventually, opened, topic_with
from tests.support.process import Gateway, over_kafka, serving_over
from tests.support.programs import needed
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


class NameServer:
    """A name server for the gateway. While it answers, every name is 127.0.0.1."""

    address = "127.0.0.77"

    def __init__(self, sock: socket.socket) -> None:
        self.answers = False
        self._sock = sock

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            question, who = await loop.sock_recvfrom(self._sock, 512)
            if self.answers:
                await loop.sock_sendto(self._sock, _answer(question), who)


def _answer(question: bytes) -> bytes:
    """Return a response (RFC 1035): the question, and for type A an address."""
    end = question.index(0, 12) + 5
    asked = question[12:end]
    is_a = asked[-4:-2] == b"\0\1"
    head = question[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + bytes(4)
    record = b"\xc0\x0c\0\1\0\1" + bytes(4) + b"\0\4" + socket.inet_aton("127.0.0.1")
    return head + asked + (record if is_a else b"")


@pytest.fixture
async def name_server() -> AsyncIterator[NameServer]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((NameServer.address, 53))
        except OSError as error:
            pytest.skip(f"can't be a name server: {error}")
        sock.setblocking(False)
        server = NameServer(sock)
        async with background(server.run()):
            yield server


@asynccontextmanager
async def asking_it(
    folder: Path, log: Mapping[str, Any], streams: Mapping[str, Any], **sections: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway that uses this name server, and waits minutes for it."""
    resolver = folder / "resolv.conf"
    resolver.write_text(f"nameserver {NameServer.address}\noptions timeout:30 attempts:5\n")
    mounted = f'mount --bind {resolver} "$(readlink -f /etc/resolv.conf)" && exec "$@"'
    needed("unshare")
    if os.getuid() != 0:
        pytest.skip("another resolv.conf needs root")
    before = ("unshare", "--mount", "sh", "-c", mounted, "sh")
    async with serving_over(folder, log, streams, before=before, **sections) as gateway:
        yield gateway


async def told_to_end(gateway: Gateway) -> None:
    gateway.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        assert await gateway.process.wait() == 0


async def test_without_dns_the_gateway_is_alive_but_not_ready(
    name_server: NameServer, tmp_path: Path
) -> None:
    """A lookup cannot be cancelled and takes minutes, but the gateway must end."""
    async with asking_it(
        tmp_path,
        over_kafka("kafka.test:9092", request_timeout_s=1.0),
        {"s": ["t"]},
        fanout={"log_patience_s": 0.5, "drain_s": 0.5},
    ) as gateway:
        for _ in range(3):
            assert (await gateway.ask("/healthz")).status == 200
            ready = await gateway.ask("/readyz")
            assert (ready.status, ready.json()["ready"]) == (503, False)
            assert (await gateway.ask("/v2/stream/s")).status == 503
        (tmp_path / "streams.yaml").write_text("streams: {other: {topics: [t]}}\n")
        gateway.process.send_signal(signal.SIGHUP)  # which also needs a thread

        async def read_again() -> bool:
            return (await gateway.ask("/v2/stream/other")).status == 503

        await eventually(read_again)
        await told_to_end(gateway)


async def test_unresolved_hosts_affect_only_their_users(
    name_server: NameServer, tmp_path: Path
) -> None:
    """Many requests need keys at the same time; others arrive meanwhile and are counted."""
    token = {"Authorization": f"Bearer {Pair('EdDSA', 'k').token(scope='read')}"}
    log = SqliteLog(directory=tmp_path / "data", settings=SqliteSettings(sync="normal"))
    await log.start()
    try:
        async with asking_it(
            tmp_path,
            {"backend": "sqlite", "data_dir": str(tmp_path / "data")},
            {"s": ["t"], "closed": {"topics": ["c"], "scope": "read"}},
            access={"jwks_url": "https://keys.test/keys"},
            shared={"redis_url": "redis://redis.test"},
            limits={"client_ip_connections": 2},
            fanout={"drain_s": 0.5},
            troubled=["eventstreams.access.key_sets"],
        ) as gateway:

            async def needs_keys(n: int) -> None:
                async with connected(gateway.port) as client:
                    headers = {**SSE, **token, "X-Client-IP": f"192.0.2.{n}"}
                    await client.send("GET", "/v2/stream/closed", headers)
                    head = await client.head()
                    assert head.status == 503
                    assert int(head.get("retry-after") or 0) > 0

            async with asyncio.TaskGroup() as tasks:
                for n in range(20):
                    tasks.create_task(needs_keys(n))
                for n in range(10):
                    async with reading(gateway, f"198.51.100.{n}") as stream:
                        await log.append([Record("t", b'{"n":%d}' % n)])
                        assert (await stream.frame()).document["n"] == n
            assert (await gateway.ask("/readyz")).status == 200
            await told_to_end(gateway)
    finally:
        await log.aclose()


@pytest.mark.kafka
async def test_a_silent_name_server_affects_no_known_host(
    kafka: str, name_server: NameServer, tmp_path: Path
) -> None:
    topic = await topic_with(kafka)
    name_server.answers = True
    by_name = f"kafka.test:{kafka.rpartition(':')[2]}"
    async with (
        opened(kafka) as log,
        asking_it(
            tmp_path, over_kafka(by_name), {"s": [topic]}, fanout={"refresh_s": 0.2, "drain_s": 0.5}
        ) as gateway,
    ):

        async def ready() -> bool:
            return (await gateway.ask("/readyz")).status == 200

        await eventually(ready)
        async with reading(gateway, "192.0.2.1") as there:
            name_server.answers = False
            for n in range(20):
                await log.append([Record(topic, b'{"n":%d}' % n)])
                assert (await there.frame()).document["n"] == n
                async with reading(gateway, "192.0.2.2", "?since=earliest") as comes:
                    assert len(await comes.frames(n + 1)) == n + 1
            assert await ready()
        await told_to_end(gateway)


@asynccontextmanager
async def reading(gateway: Gateway, address: str, query: str = "") -> AsyncIterator[Stream]:
    async with connected(gateway.port) as client:
        await client.send("GET", f"/v2/stream/s{query}", {**SSE, "X-Client-IP": address})
        stream = Stream(client, await client.head())
        assert stream.head.status == 200
        await stream.opened()
        yield stream
