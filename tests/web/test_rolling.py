"""Process after process on one port, under clients that take any status but 200 for the end.

EVENTSTREAMS_TEST_RESTARTS says how often the process is replaced; by default so seldom that every
run of the suite can have it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.programs import needed
from tests.web.gateway import Site
from tests.web.test_process import configured, exit_status, logged, started

pytestmark = pytest.mark.anyio

CLIENTS = 60
RESTARTS = int(os.environ.get("EVENTSTREAMS_TEST_RESTARTS", "2"))
SERVED_S = 3.0
"""Of each process. Clients return over 8 s, so some do during and some after the next restart."""
PATIENCE_S = 120.0
MODULES = Path(__file__).parent.parent.parent / ".clients" / "npm" / "node_modules"
PROGRAM = Path(__file__).parent / "event_sources.mjs"


class EventSources:
    """Clients in a process of Node, and what they have said."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.faults: list[str] = []
        self.opened = 0
        self.at = -1

    async def read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said: dict[str, Any] = json.loads(line)
            self.opened = said.get("open", self.opened)
            self.at = said.get("at", self.at)
            if "fault" in said:
                self.faults.append(said["fault"])

    async def until(self, *, opened: int = 0, at: int = -1) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.opened < opened or self.at < at:
                assert not self.faults
                await asyncio.sleep(0.02)


@asynccontextmanager
async def event_sources(url: str, package: str) -> AsyncIterator[EventSources]:
    if not (MODULES / package).exists():
        if os.environ.get("CI"):
            pytest.fail(f"no npm {package}, and in CI it may not be missing", pytrace=False)
        pytest.skip(f"npm {package} is not installed; scripts/test installs it")
    process = await asyncio.create_subprocess_exec(
        *(needed("node"), str(PROGRAM), url, str(CLIENTS), package),
        env={**os.environ, "CLIENT_MODULES": str(MODULES)},
        stdout=PIPE,
    )
    clients = EventSources(process)
    reading = asyncio.create_task(clients.read())
    try:
        yield clients
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


class Feed:
    """One event after the other, whoever serves."""

    def __init__(self, site: Site, topic: str) -> None:
        self._site = site
        self._topic = topic
        self.last = -1

    async def one(self) -> None:
        self.last += 1
        await self._site.produce(self._topic, {"n": self.last})

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.one()
            await asyncio.sleep(0.03)


@pytest.mark.parametrize("package", ["eventsource", "eventsource2"])
async def test_restarts_close_no_client_for_good_and_lose_nothing(
    site: Site, tmp_path: Path, package: str
) -> None:
    topic = await site.topic()
    config = configured(tmp_path, site, topic, fanout={"drain_s": 2.0})
    process = await started("--config", str(config), "--port", "0")
    try:
        port = (await logged(process, "listening"))["url"].rpartition(":")[2]
        url = f"http://127.0.0.1:{port}/v2/stream/s"
        feed = Feed(site, topic)
        async with event_sources(url, package) as clients:
            await clients.until(opened=CLIENTS)
            await feed.one()  # whoever has an id resumes by it
            await clients.until(at=0)
            stop = asyncio.Event()
            feeding = asyncio.create_task(feed.run(stop))
            for _ in range(RESTARTS):
                await asyncio.sleep(SERVED_S)
                process.send_signal(signal.SIGTERM)
                assert await exit_status(process) == 0
                process = await started("--config", str(config), "--port", port)
                await logged(process, "listening")
            stop.set()
            await feeding
            await clients.until(at=feed.last)
            assert not clients.faults
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
