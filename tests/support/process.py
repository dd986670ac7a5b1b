"""Gateways in separate processes, and their log lines."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from eventstreams.tasks import background
from tests.support.client import Answer, Stream, connected
from tests.support.gateway import SSE, Site
from tests.support.waiting import PATIENCE_S


class Gateway:
    """A gateway process that listens on `port` and has written `lines` to its log."""

    def __init__(self, process: Process, troubled: Collection[str] = ()) -> None:
        """Wrap a process. `troubled` are the loggers that may report errors."""
        self.process = process
        self._troubled = troubled
        self.port = 0
        self.lines: list[dict[str, Any]] = []
        self._listening = asyncio.Event()

    async def ask(self, target: str) -> Answer:
        async with connected(self.port) as client:
            await client.send("GET", target)
            head = await client.head()
            return Answer(head, await client.body(head))

    async def unreachable(self) -> list[str]:
        """Return the partitions that /readyz reports as unreachable."""
        reported: list[str] = (await self.ask("/readyz")).json()["unreachable"]
        return reported

    async def metric(self, port: int, name: str) -> float:
        async with connected(port) as client:
            await client.send("GET", "/metrics")
            body = (await client.body(await client.head())).decode()
        return sum(float(line.split()[-1]) for line in body.splitlines() if line.startswith(name))

    async def listening(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._listening.wait()

    async def listen(self) -> None:
        """Read everything that the process writes, so that it never blocks on its output."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            assert b"Traceback" not in line, line
            record: dict[str, Any] = json.loads(line)
            mild = record["level"] in ("info", "warning")
            assert mild or record["logger"] in self._troubled, record
            self.lines.append(record)
            if record["message"].startswith("listening"):
                self.port = int(record["url"].rpartition(":")[2])
                self._listening.set()


def over_kafka(bootstrap: str, **settings: Any) -> dict[str, Any]:
    """Return the settings of a log on Kafka."""
    kafka = {"bootstrap_servers": bootstrap.split(","), "request_timeout_s": 2.0, **settings}
    return {"backend": "kafka", "kafka": kafka}


@asynccontextmanager
async def serving_over(
    folder: Path,
    log: Mapping[str, Any],
    streams: Mapping[str, Sequence[str] | Mapping[str, Any]],
    *,
    before: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    troubled: Collection[str] = (),
    **sections: Any,
) -> AsyncIterator[Gateway]:
    """Run a gateway.

    `streams` are the topics of each stream, or its whole configuration. `before` is a command that
    starts the command that follows it.
    """
    catalogue = {
        name: dict(stream) if isinstance(stream, Mapping) else {"topics": [*stream]}
        for name, stream in streams.items()
    }
    (folder / "streams.yaml").write_text(yaml.safe_dump({"streams": catalogue}))
    config = folder / "eventstreams.yaml"
    config.write_text(yaml.safe_dump({"log": dict(log), **sections}))
    process = await started(
        *("--config", str(config), "--port", "0"), before=before, environment=environment
    )
    gateway = Gateway(process, troubled)
    try:
        async with background(gateway.listen()):
            await gateway.listening()
            yield gateway
    finally:
        await kill(process)


def configured(folder: Path, site: Site, topic: str, **sections: Any) -> Path:
    """Write the settings and the catalogue of a gateway over the site's log."""
    log = msgspec.to_builtins(site.settings)
    (folder / "streams.yaml").write_text(yaml.safe_dump({"streams": {"s": {"topics": [topic]}}}))
    config = folder / "eventstreams.yaml"
    config.write_text(yaml.safe_dump({"catalogue": "streams.yaml", "log": log, **sections}))
    return config


async def started(
    *arguments: str, before: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Process:
    """Start `eventstreams serve`. `before` is a command that starts the command that follows it."""
    return await asyncio.create_subprocess_exec(
        *before,
        *(sys.executable, "-m", "eventstreams", "serve", *arguments),
        stderr=PIPE,
        env={**os.environ, "PYTHONWARNINGS": "error", **(environment or {})},
    )


class RestartedGateway:
    """A gateway process that a test kills and starts again with the same settings."""

    def __init__(self, config: Path, *, patience_s: float) -> None:
        self.url = ""
        self.up = asyncio.Event()
        """Set while the gateway listens at `url`."""
        self._config = config
        self._patience_s = patience_s
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._process = await started("--config", str(self._config))
        self._reading = asyncio.create_task(self._read(self._process))
        async with asyncio.timeout(self._patience_s):
            await self.up.wait()

    async def kill(self) -> None:
        assert self._process is not None
        assert self._reading is not None
        self.up.clear()
        await kill(self._process)
        await self._reading

    async def _read(self, process: Process) -> None:
        """Read its output, because it would block on a full pipe."""
        assert process.stderr is not None
        async for line in process.stderr:
            assert b"Traceback" not in line, line
            if url := json.loads(line).get("url"):
                self.url = url
                self.up.set()


async def logged(
    process: Process, message: str, *, patience_s: float = PATIENCE_S
) -> dict[str, Any]:
    """Wait for a line of the process's log and return it."""
    assert process.stderr is not None
    async with asyncio.timeout(patience_s):
        while line := await process.stderr.readline():
            record: dict[str, Any] = json.loads(line)
            assert record["level"] in ("info", "warning"), record
            if record["message"].startswith(message):
                return record
    raise AssertionError(f"it ended without saying {message!r}")


async def kill(process: Process) -> None:
    """Kill the process if it still runs, and wait for its end."""
    if process.returncode is None:
        process.kill()
    await process.wait()


async def exit_status(process: Process, *, patience_s: float = PATIENCE_S) -> int:
    async with asyncio.timeout(patience_s):
        return await process.wait()


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[tuple[Process, int]]:
    """Run a gateway process; yield it and the port that it reports."""
    process = await started("--config", str(config), "--port", "0")
    try:
        url = (await logged(process, "listening"))["url"]
        yield process, int(url.rpartition(":")[2])
    finally:
        await kill(process)


@asynccontextmanager
async def streaming(
    port: int, target: str = "/v2/stream/s", *, last_event_id: str = ""
) -> AsyncIterator[Stream]:
    """Yield an open stream, past the comment that begins it."""
    async with connected(port) as client:
        await client.send("GET", target, {**SSE, "Last-Event-ID": last_event_id})
        stream = Stream(client, await client.head())
        assert stream.head.status == 200
        await stream.opened()
        yield stream


@contextmanager
def running_workers(config: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a gateway in a separate process; yield it and its URL."""
    command = [sys.executable, "-m", "eventstreams", "serve", "--config", str(config), *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                url = json.loads(line).get("url")
                if url:
                    yield process, url
                    break
            else:
                pytest.fail("it ended without listening")
        finally:
            process.kill()
