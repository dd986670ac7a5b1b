"""A bystander that sends requests and posts while `abuse` attacks, each time as a new client would.

Its argument: {"port", "pid": the gateway's process, "stream": the stream to post to}. For the first
line on its standard input it prints the outcomes of its requests: a list of [kind, time of sending
(s since 1970), duration in ms, status or 0 if there was no answer].

It waits for an answer until the gateway has used so much processor time that it prefers others. On
a machine that does other work, time alone would not show that. Each client makes few requests at
once, because the gateway promises room to clients that use little of it.
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
import orjson
import uvloop

from bench import child
from bench.machine import exact_cpu_s
from eventstreams.tasks import background

_EVERY_S = 0.2
_GATEWAY_S_MAX = 2.5
"""The seconds of processor time after which the gateway should have answered."""
_PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.25
_AT_ONCE = 3
"""How many requests of one client may be in progress. A post takes 16 KiB of the 64 KiB that a
client may have in progress however much others post."""
_ADDRESSES = ("127.0.3.1", "127.0.3.2")


class Plan(msgspec.Struct, frozen=True):
    port: int
    pid: int
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
        places = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                await places.acquire()
                task = group.create_task(once(what, request, address))
                task.add_done_callback(lambda _: places.release())
                # After a delay it continues at the same pace: a burst would meet limits on rates.
                due = max(due + _EVERY_S, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

    async def once(what: str, request: bytes, address: str) -> None:
        sent_s, began = time.time(), time.perf_counter()
        status = await _ask(plan, request, address)
        found.append((what, sent_s, (time.perf_counter() - began) * 1000, status))

    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with background(again("healthz", get, _ADDRESSES[0]), again("post", post, _ADDRESSES[1])):
        child.say({"port": plan.port})
        await reader.readline()
        child.say({"found": found})
        await reader.read()


async def _ask(plan: Plan, request: bytes, address: str) -> int:
    asking = asyncio.create_task(_status(plan.port, request, address))
    try:
        used_s, began_s = exact_cpu_s(plan.pid), time.monotonic()
        while not (await asyncio.wait({asking}, timeout=_LOOK_EVERY_S))[0]:
            if exact_cpu_s(plan.pid) - used_s > _GATEWAY_S_MAX:
                return 0
            if time.monotonic() - began_s > _PATIENCE_S:
                return 0
        return asking.result()
    except OSError:  # the gateway has ended
        return 0
    finally:
        asking.cancel()


async def _status(port: int, request: bytes, address: str) -> int:
    """Return the status of the answer; 0 if the connection ends without one."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n")
            return int(head.split(b" ", 2)[1])
        finally:
            writer.transport.abort()
    except (OSError, EOFError):
        return 0


if __name__ == "__main__":
    main()
