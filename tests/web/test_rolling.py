"""Rolling restarts on one port, with clients that give up after any status but 200.

EVENTSTREAMS_TEST_LONG=1 restarts 20 times instead of twice, and has both versions of the client on
Kafka too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.backends import Kafka, Sqlite
from tests.support.gateway import Site
from tests.support.process import configured, exit_status, kill, logged, started
from tests.support.programs import needed
from tests.support.thoroughness import LONG

pytestmark = pytest.mark.anyio

CLIENTS = 60
RESTARTS = 20 if LONG else 2
SERVED_S = 1.0
"""The interval of restarts. Clients reconnect over 8 s, some during the next restart."""
DRAIN_S = 3.0
"""A process ends its streams over the first four fifths of this time. The rest is for clients that
read slowly because the machine is busy."""
PATIENCE_S = 120.0
"""Without an event for any client. However slow the machine is, clients that are connected receive
something; a client that is lost does not return in this time."""
MODULES = Path(__file__).parent.parent.parent / ".clients" / "npm" / "node_modules"
PROGRAM = Path(__file__).parent / "event_sources.mjs"


class EventSources:
    """Clients in a process of Node, and what they have said."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._said = asyncio.Event()
        self.faults: list[str] = []
        self.opened = 0
        self.at = -1
        self.received = 0
        self.repeats = 0
        """Events that eventsource 2 dispatched a second time; see event_sources.mjs."""
        self.states: list[tuple[int, int, int | None]] = []
        """Of each client: its number, its `readyState` and its newest event."""
        self.ended = False

    async def read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said: dict[str, Any] = json.loads(line)
            self.opened = said.get("open", self.opened)
            self.at = said.get("at", self.at)
            self.received = said.get("received", self.received)
            self.repeats = said.get("repeats", self.repeats)
            self.states = said.get("states", self.states)
            if "fault" in said:
                self.faults.append(said["fault"])
            self._said.set()
        self.ended = True
        self._said.set()

    async def until(self, *, opened: int = 0, at: int = -1) -> None:
        """Wait until so many clients were connected, and all clients have the event `at`."""
        progress, moved_s = (0, 0), time.monotonic()
        while self.opened < opened or self.at < at:
            if progress != (self.opened, self.received):
                progress, moved_s = (self.opened, self.received), time.monotonic()
            assert not self.faults
            assert not self.ended, "Node has ended; its standard error says why"
            if time.monotonic() - moved_s > PATIENCE_S:
                pytest.fail(f"no progress in {PATIENCE_S:g} s: {await self._behind(at)}")
            await self._news()

    async def _behind(self, at: int) -> list[tuple[int, int, int | None]]:
        """Return the states of the clients that lack the event `at`."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        while not self.states:
            assert not self.ended
            await self._news()
        return [state for state in self.states if state[2] is None or state[2] < at]

    async def _news(self) -> None:
        await self._said.wait()
        self._said.clear()


@asynccontextmanager
async def event_sources(url: str, package: str) -> AsyncIterator[EventSources]:
    if not (MODULES / package).exists():
        if os.environ.get("CI"):
            pytest.fail(f"no npm {package}, and in CI it may not be missing", pytrace=False)
        pytest.skip(f"npm {package} is not installed; scripts/test installs it")
    process = await asyncio.create_subprocess_exec(
        *(needed("node"), str(PROGRAM), url, str(CLIENTS), package),
        env={**os.environ, "CLIENT_MODULES": str(MODULES)},
        stdin=PIPE,
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
    """Reads one event after another, from any of the gateways."""

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


CASES = [
    pytest.param(kind, package, marks=kind.marks, id=f"{kind.name}-{package}")
    for kind, packages in (
        (Sqlite, ["eventsource", "eventsource2"]),
        (Kafka, ["eventsource", "eventsource2"] if LONG else ["eventsource"]),
    )
    for package in packages
]


@pytest.mark.parametrize(("site", "package"), CASES, indirect=["site"])
async def test_rolling_restarts_lose_nothing(site: Site, tmp_path: Path, package: str) -> None:
    topic = await site.topic()
    # Beyond `drain_s`, a client that does not read is cut within an event. npm eventsource 2 keeps
    # the part that it has of it for its next connection, and so may dispatch that event twice;
    # event_sources.mjs counts such repeats and lets nothing else pass.
    config = configured(tmp_path, site, topic, fanout={"drain_s": DRAIN_S})
    process = await started("--config", str(config), "--port", "0")
    try:
        port = (await logged(process, "listening"))["url"].rpartition(":")[2]
        url = f"http://127.0.0.1:{port}/v2/stream/s"
        feed = Feed(site, topic)
        async with event_sources(url, package) as clients:
            await clients.until(opened=CLIENTS)
            await feed.one()  # a client with an id resumes by it
            await clients.until(at=0)
            stop = asyncio.Event()
            feeding = asyncio.create_task(feed.run(stop))
            for _ in range(RESTARTS):
                await asyncio.sleep(SERVED_S)
                process.send_signal(signal.SIGTERM)
                assert await exit_status(process, patience_s=PATIENCE_S) == 0
                process = await started("--config", str(config), "--port", port)
                await logged(process, "listening", patience_s=PATIENCE_S)
            stop.set()
            await feeding
            await clients.until(at=feed.last)
            assert not clients.faults
            assert package == "eventsource2" or not clients.repeats
            print(f"{clients.repeats} repeats of events that were cut")
    finally:
        await kill(process)
