"""A bystander that sends requests and posts while `abuse` attacks, each time as a new client would.

Its argument: {"port", "stream": to which it posts}. For the first line on its standard input it
prints what became of its requests: a list of [what, when it was sent (s since the epoch), how long
the answer took in ms, its status or 0 where none came].
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
import orjson
import uvloop

from bench import child
from eventstreams.tasks import background

_EVERY_S = 0.2
_PATIENCE_S = 10.0
_ADDRESSES = ("127.0.3.1", "127.0.3.2")


class Plan(msgspec.Struct, frozen=True):
    port: int
    stream: str


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_stand_by(plan))


async def _stand_by(plan: Plan) -> None:
    event = {"$schema": "/test/event/1.0.0", "meta": {"stream": plan.stream}, "test": "innocent"}
    body = orjson.dumps(event)
    post = b"POST /v1/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    post += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    get = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    found: list[tuple[str, float, float, int]] = []

    async def again(what: str, request: bytes, address: str) -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(once(what, request, address))
                due += _EVERY_S
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def once(what: str, request: bytes, address: str) -> None:
        sent_s, began = time.time(), time.perf_counter()
        status = await _ask(plan.port, request, address)
        found.append((what, sent_s, (time.perf_counter() - began) * 1000, status))

    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with background(again("healthz", get, _ADDRESSES[0]), again("post", post, _ADDRESSES[1])):
        child.say({"port": plan.port})
        await reader.readline()
        child.say({"found": found})
        await reader.read()


async def _ask(port: int, request: bytes, address: str) -> int:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(address, 0)
            )
            try:
                writer.write(request)
                head = await reader.readuntil(b"\r\n")
                return int(head.split(b" ", 2)[1])
            finally:
                writer.transport.abort()
    except (TimeoutError, OSError, EOFError):
        return 0


if __name__ == "__main__":
    main()
