"""Streams through real proxies, with the very configurations that we ship."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventstreams.settings import LimitSettings
from tests.programs import needed
from tests.web.client import PATIENCE_S
from tests.web.gateway import Served, Site
from tests.wire import Frame, frames_of

pytestmark = pytest.mark.anyio
FOLDER = Path(__file__).parents[2] / "config" / "proxy"
OURS = "127.0.0.1:8092"
BEATS = {"heartbeat_s": 0.2}
"""HAProxy finds out that a client has gone when it has something to write."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


class Proxy:
    """A process in front of a gateway; it can be killed and started again at the same port."""

    def __init__(self, kind: str, folder: Path, behind: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: Process | None = None
        shipped = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[kind]
        text = (FOLDER / shipped).read_text()
        assert OURS in text
        text = text.replace(OURS, f"127.0.0.1:{behind}")
        if kind == "nginx":
            assert "listen 80;" in text
            text = text.replace("listen 80;", f"listen 127.0.0.1:{self.port};")
            paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            temporary = "".join(f"{path}_temp_path {folder}/{path};\n" for path in paths)
            text = (
                f"pid {folder}/pid;\nerror_log {folder}/error.log;\ndaemon off;\n"
                f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{text}}}\n"
            )
            self._command = ["nginx", "-e", f"{folder}/error.log", "-c", str(folder / shipped)]
        else:
            assert "bind :80\n" in text
            text = text.replace("bind :80\n", f"bind 127.0.0.1:{self.port}\n")
            self._command = ["haproxy", "-q", "-db", "-f", str(folder / shipped)]
        (folder / shipped).write_text(text)

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            needed(self._command[0]),
            *self._command[1:],
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            start_new_session=True,
        )
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@asynccontextmanager
async def before(kind: str, gateway: Served, folder: Path) -> AsyncIterator[Proxy]:
    async with asyncio.timeout(PATIENCE_S):
        while (await gateway.get("/readyz")).status != 200:  # HAProxy sends nobody there before
            await asyncio.sleep(0.01)
    proxy = await asyncio.to_thread(Proxy, kind, folder, gateway.port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.kill()


@pytest.fixture(params=["nginx", "haproxy"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Reader:
    """A client that takes what comes, however it is cut into pieces."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._pieces = answer.aiter_bytes()
        self.body = b""

    async def frames(self, count: int) -> list[Frame]:
        async with asyncio.timeout(PATIENCE_S):
            while len(found := self._events()) < count:
                self.body += await anext(self._pieces)
        return found

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.body:
                self.body += await anext(self._pieces)

    async def rest(self) -> list[Frame]:
        """All that still comes from a proxy that is gone."""
        async with asyncio.timeout(PATIENCE_S):
            with suppress(httpx.HTTPError):
                async for piece in self._pieces:
                    self.body += piece
        return self._events()

    def _events(self) -> list[Frame]:
        return [frame for frame in frames_of(self.body) if frame.event == "message"]


@asynccontextmanager
async def reading(proxy: Proxy, target: str, **headers: str) -> AsyncIterator[Reader]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {"accept": "text/event-stream", "accept-encoding": "identity", **names}
    async with (
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
        client.stream("GET", proxy.url + target, headers=sent) as answer,
    ):
        yield Reader(answer)


def numbers(frames: list[Frame]) -> list[int]:
    return [json.loads(frame.data)["n"] for frame in frames]


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_each_event_passes_while_the_stream_is_open(
    embedded: Site, tmp_path: Path, kind: str, coding: str
) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        before(kind, gateway, tmp_path) as proxy,
        reading(
            proxy,
            f"/v2/stream/s?compress={coding.replace('identity', 'none')}",
            accept_encoding=coding,
        ) as reader,
    ):
        assert reader.answer.headers.get("content-encoding", "identity") == coding
        assert reader.answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        await reader.until(b":ok")
        for n in range(3):
            await embedded.produce(topic, {"n": n})
            assert numbers(await reader.frames(n + 1)) == list(range(n + 1))


async def test_the_selftest_shows_that_nothing_is_held_back(
    embedded: Site, tmp_path: Path, kind: str
) -> None:
    async with (
        embedded.gateway({"s": [await embedded.topic()]}) as gateway,
        before(kind, gateway, tmp_path) as proxy,
        reading(proxy, "/v2/selftest") as reader,
    ):
        await reader.frames(1)
        came_ms = time.time() * 1000
        frames = await reader.frames(10)
    assert came_ms < json.loads(frames[-1].data)["sent_ms"], "before the last was sent"


async def test_a_quiet_stream_is_kept_open_by_heartbeats(
    embedded: Site, tmp_path: Path, kind: str
) -> None:
    async with (
        embedded.gateway({"s": [await embedded.topic()]}, heartbeat_s=0.2) as gateway,
        before(kind, gateway, tmp_path) as proxy,
        reading(proxy, "/v2/stream/s") as reader,
    ):
        await reader.until(b":ok\n\n:\n:\n")


async def test_who_is_cut_with_the_proxy_resumes_and_loses_nothing(
    embedded: Site, tmp_path: Path, kind: str
) -> None:
    topic = await embedded.topic()
    got: list[int] = []
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        before(kind, gateway, tmp_path) as proxy,
    ):
        headers: dict[str, str] = {}
        target = "/v2/stream/s?since=earliest"
        for round_ in range(4):
            async with reading(proxy, target, **headers) as reader:
                await embedded.produce(topic, *({"n": 10 * round_ + n} for n in range(10)))
                frames = await reader.frames(7)
                await proxy.kill()
                frames = await reader.rest()
            got += numbers(frames)
            headers = {"last_event_id": frames[-1].id or ""}
            await proxy.start()
        async with reading(proxy, target, **headers) as reader:
            got += numbers(await reader.frames(40 - len(got))) if len(got) < 40 else []
    assert got == list(range(40))


async def test_a_client_counts_by_its_own_address_whatever_it_writes(
    embedded: Site, tmp_path: Path, kind: str
) -> None:
    limits = LimitSettings(client_ip_connections=1)
    invented: list[dict[str, Any]] = [
        {"x_client_ip": "192.0.2.1"},
        {"x_forwarded_for": "192.0.2.2"},
        {},
    ]
    async with (
        embedded.gateway({"s": [await embedded.topic()]}, limits=limits, **BEATS) as gateway,
        before(kind, gateway, tmp_path) as proxy,
    ):
        async with reading(proxy, "/v2/stream/s", x_client_ip="192.0.2.9") as first:
            await first.until(b":ok")
            for headers in invented:
                async with reading(proxy, "/v2/stream/s", **headers) as other:
                    assert other.answer.status_code == 429
        await gateway.until("clients", 0)


async def test_a_client_that_hangs_up_is_let_go_behind_the_proxy_too(
    embedded: Site, tmp_path: Path, kind: str
) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"s": [topic]}, **BEATS) as gateway,
        before(kind, gateway, tmp_path) as proxy,
    ):
        async with reading(proxy, "/v2/stream/s") as reader:
            await reader.until(b":ok")
            assert gateway.count("clients") == 1
        await gateway.until("clients", 0)
