"""A gateway process over a log that is in trouble, and its settings: it is impatient."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from eventstreams.tasks import background
from tests.web.client import PATIENCE_S, Answer, connected


class Gateway:
    """It listens on `port`, and has said `lines` of log."""

    def __init__(self, process: Process, troubled: Collection[str] = ()) -> None:
        """`troubled`: the loggers that may tell of an error."""
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
        """Partitions that /readyz names."""
        told: list[str] = (await self.ask("/readyz")).json()["unreachable"]
        return told

    async def metric(self, port: int, name: str) -> float:
        async with connected(port) as client:
            await client.send("GET", "/metrics")
            body = (await client.body(await client.head())).decode()
        return sum(float(line.split()[-1]) for line in body.splitlines() if line.startswith(name))

    async def listening(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._listening.wait()

    async def listen(self) -> None:
        """Takes all that it says, so that it never waits for somebody to read it."""
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
    """The log's section."""
    kafka = {"bootstrap_servers": bootstrap.split(","), "request_timeout_s": 2.0, **settings}
    return {"backend": "kafka", "kafka": kafka}


@asynccontextmanager
async def serving(
    folder: Path,
    log: Mapping[str, Any],
    streams: Mapping[str, Sequence[str] | Mapping[str, Any]],
    *,
    before: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    troubled: Collection[str] = (),
    **sections: Any,
) -> AsyncIterator[Gateway]:
    """`streams`: the topics of each, or its whole configuration; `before`: a command that starts
    the one that follows it."""
    catalogue = {
        name: dict(stream) if isinstance(stream, Mapping) else {"topics": [*stream]}
        for name, stream in streams.items()
    }
    (folder / "streams.yaml").write_text(yaml.safe_dump({"streams": catalogue}))
    config = folder / "eventstreams.yaml"
    config.write_text(yaml.safe_dump({"log": dict(log), **sections}))
    command = (sys.executable, "-m", "eventstreams", "serve", "--config", str(config))
    process = await asyncio.create_subprocess_exec(
        *before,
        *command,
        *("--port", "0"),
        stderr=PIPE,
        env={**os.environ, "PYTHONWARNINGS": "error", **(environment or {})},
    )
    gateway = Gateway(process, troubled)
    try:
        async with background(gateway.listen()):
            await gateway.listening()
            yield gateway
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
