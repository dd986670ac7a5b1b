"""Posts events to an intake from a separate process, and reports the outcomes.

Its argument: {"port", "stream", "connections", "batch": events in one request, "seconds"} to post
as fast as answers arrive; or with "rate", to post that many single events a second, and also wait
for each on an SSE stream. When done it prints one line: events accepted, requests not answered with
201, and the times in ms from POST to SSE.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from statistics import median, quantiles
from typing import Any

import msgspec
import orjson
import uvloop

from bench import child

_LAST_S = 5.0
"""The time within which the last events must arrive."""


class Plan(msgspec.Struct, frozen=True):
    port: int
    stream: str
    seconds: float
    connections: int = 1
    batch: int = 1
    rate: float = 0.0


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        child.say(runner.run(_latency(plan) if plan.rate else _rate(plan)))
    sys.stdin.read()


class _Connection:
    """A persistent connection that carries one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def post(self, body: bytes) -> int:
        self.writer.write(
            b"POST /v1/events HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        await self._reader.readexactly(length)
        return int(head.split(b" ", 2)[1])


async def _connect(port: int) -> _Connection:
    return _Connection(*await asyncio.open_connection("127.0.0.1", port))


def _event(stream: str, text: str) -> dict[str, Any]:
    return {"$schema": "/test/event/1.0.0", "meta": {"stream": stream}, "test": text}


async def _rate(plan: Plan) -> dict[str, Any]:
    body = orjson.dumps([_event(plan.stream, f"event {n}") for n in range(plan.batch)])
    connections = [await _connect(plan.port) for _ in range(plan.connections)]
    for connection in connections:
        await connection.post(body)  # schemas are loaded at the first event
    accepted = other = 0
    began = time.monotonic()

    async def work(connection: _Connection) -> None:
        nonlocal accepted, other
        while time.monotonic() - began < plan.seconds:
            if await connection.post(body) == 201:
                accepted += plan.batch
            else:
                other += 1

    await asyncio.gather(*(work(connection) for connection in connections))
    took_s = time.monotonic() - began
    for connection in connections:
        connection.writer.close()
    return {"accepted": accepted, "other": other, "per_s": accepted / took_s}


async def _latency(plan: Plan) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", plan.port)
    writer.write(f"GET /v2/stream/{plan.stream} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
    await reader.readuntil(b":ok\n\n")
    sent: dict[str, int] = {}
    took_ms: list[float] = []

    async def listen() -> None:
        while line := await reader.readline():
            if line.startswith(b"data: "):
                text = orjson.loads(line[6:])["test"]
                took_ms.append((time.monotonic_ns() - sent.pop(text)) / 1e6)

    listening = asyncio.create_task(listen())
    connection = await _connect(plan.port)
    accepted = other = 0
    began = time.monotonic()
    count = int(plan.seconds * plan.rate)
    for n in range(count):
        await asyncio.sleep(max(0.0, began + n / plan.rate - time.monotonic()))
        sent[str(n)] = time.monotonic_ns()
        if await connection.post(orjson.dumps(_event(plan.stream, str(n)))) == 201:
            accepted += 1
        else:
            other += 1
    until = time.monotonic() + _LAST_S
    while sent and time.monotonic() < until:
        await asyncio.sleep(0.01)
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    writer.close()
    connection.writer.close()
    return {
        "accepted": accepted,
        "other": other,
        "missing": len(sent),
        "p50_ms": median(took_ms),
        "p99_ms": quantiles(took_ms, n=100)[98],
    }


if __name__ == "__main__":
    main()
