"""A flood of malformed requests leaves a process working and unchanged.

EVENTSTREAMS_TEST_LONG=1 sends 100,000 of them instead of 5,000; EVENTSTREAMS_TEST_SEED=N makes it
another flood.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.hostile.mutation import malformed
from tests.hostile.raw import Pulse
from tests.support.client import connected
from tests.support.gateway import ask
from tests.support.intake import ERRORS, SHIPPED, TEST
from tests.support.issuer import SECRET
from tests.support.process import Gateway, serving_over
from tests.support.target import ADMIN_KEY, COOKIE, SECRET_STREAM
from tests.support.thoroughness import LONG
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

COUNT = 100_000 if LONG else 5_000
SEED = int(os.environ.get("EVENTSTREAMS_TEST_SEED", "1"))
AT_ONCE = 64
QUIET_S = 0.2
"""How long a client waits for a response; it disconnects because its request was incomplete."""
GROWTH_BYTES = 8 * 2**20 + 128 * COUNT
"""Bounded memory that is kept on purpose (tails, compiled filters), and that of the allocator. A
leaked connection takes several KiB."""
_STATUS = re.compile(rb"(?:^|\n)HTTP/1\.1 (\d{3})")


class Flood:
    def __init__(self, port: int, pulse: Pulse) -> None:
        self._port = port
        self._pulse = pulse
        self.statuses: Counter[int] = Counter()
        self.sent = 0

    async def send(self, requests: Iterator[bytes]) -> None:
        """Several tasks share the iterator."""
        for request in requests:
            self.sent += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(request)
            said = await self._pulse.received(reader, QUIET_S)
            self.statuses.update(int(status) for status in _STATUS.findall(said))
            assert b"Traceback" not in said, request
            assert b" 500 " not in said.partition(b"\r\n")[0], request
            writer.transport.abort()


@asynccontextmanager
async def process(folder: Path) -> AsyncIterator[Gateway]:
    (folder / "secret").write_bytes(SECRET)
    (folder / "admin").write_text(ADMIN_KEY)
    streams: dict[str, Any] = {
        TEST: {"schema_title": "test/event"},
        ERRORS: {"schema_title": "error"},
        SECRET_STREAM: {"schema_title": "test/event", "scope": "read:secret"},
    }
    access = {
        "hs256_secret_file": str(folder / "secret"),
        "admin_key_file": str(folder / "admin"),
        "cookie": COOKIE,
    }
    log = {"backend": "sqlite", "data_dir": str(folder / "data"), "sqlite": {"sync": "normal"}}
    intake = {"error_stream": ERRORS, "body_timeout_s": 1.0, "canary_every_s": None}
    async with serving_over(
        folder,
        log,
        streams,
        schemas=[str(SHIPPED)],
        access=access,
        intake=intake,
        http={"access_log": False},
        fanout={"tail_bytes_max": 2**16, "cache_bytes_max": 2**18},
    ) as gateway:
        yield gateway


async def at_rest(gateway: Gateway) -> tuple[int, int]:
    """Return the memory in bytes and the open files, once no client is left."""
    its = psutil.Process(gateway.process.pid)
    async with asyncio.timeout(PATIENCE_S):
        while [c for c in its.net_connections("tcp") if c.status != psutil.CONN_LISTEN]:
            await asyncio.sleep(0.05)
    return its.memory_full_info().pss, its.num_fds()


async def test_a_flood_of_malformed_requests_leaves_nothing_behind(tmp_path: Path) -> None:
    async with process(tmp_path) as gateway:
        pulse = Pulse(gateway.port)
        flood = Flood(gateway.port, pulse)
        measured: list[tuple[int, int]] = []
        for tenth in range(10):
            requests = malformed(SEED * 10 + tenth, COUNT // 10)
            async with pulse.running(), asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(flood.send(requests))
            measured.append(await at_rest(gateway))
        async with connected(gateway.port) as client:
            assert (await ask(client, "GET", "/healthz")).status == 200
        said = [line for line in gateway.lines if line["message"] != "listening"]
    print(f"{flood.sent} sent; answers {dict(sorted(flood.statuses.items()))}; at rest {measured}")
    assert flood.sent == COUNT // 10 * 10
    assert {400, 401, 404, 413, 415} <= flood.statuses.keys(), "every kind of refusal occurred"
    assert sum(flood.statuses.values()) > flood.sent * 0.2, "many are answered"
    assert 500 not in flood.statuses
    assert measured[-1][0] - measured[1][0] < GROWTH_BYTES
    assert measured[-1][1] <= measured[1][1] + 3
    assert not [line for line in said if line["level"] != "info"], said[:3]
