"""GET /v2/selftest: a short stream that shows whether a proxy in between buffers.

Ten events, a fifth of a second apart, each with the time it was sent. Where they arrive all at once
something between here and the client holds them back. Low traffic, so sse-starlette serves it; the
hot path does not go through it (a task group and a timer for every client).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.requests import Request
from starlette.responses import Response

# At import it patches uvicorn's signal handler; the server ends what is open by itself.
AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]

_EVENTS = 10
_EVERY_S = 0.2


async def selftest(_: Request) -> Response:
    return EventSourceResponse(_events(), ping=0, headers={"x-accel-buffering": "no"})


async def _events() -> AsyncIterator[ServerSentEvent]:
    for n in range(_EVENTS):
        if n:
            await asyncio.sleep(_EVERY_S)
        data = {"sent_ms": int(time.time() * 1000), "event": n + 1, "of": _EVENTS}
        yield ServerSentEvent(orjson.dumps(data).decode(), event="message", sep="\n")
