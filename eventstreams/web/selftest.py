"""Serves GET /v2/selftest, a short stream that shows whether a proxy buffers responses.

It sends ten events, a fifth of a second apart, each with the time at which it was sent. If they all
arrive at once, a proxy between the gateway and the client buffers them. It has few clients, so it
uses sse-starlette, which needs a task group and a timer for every client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from eventstreams.web.address import Proxies
from eventstreams.web.limits import Limits

# On import, the library patches uvicorn's signal handler; our server ends open streams itself.
AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]

_EVENTS = 10
_EVERY_S = 0.2


class SelfTest:
    """An ASGI application. Its streams count against the limits like any other stream."""

    def __init__(self, *, limits: Limits, proxies: Proxies) -> None:
        self._limits = limits
        self._proxies = proxies

    def routes(self) -> list[Route]:
        return [Route("/v2/selftest", self, methods=["GET"])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises as `Limits.lease`."""
        with await self._limits.lease(self._proxies.client(scope)):
            stream = EventSourceResponse(_events(), ping=0, headers={"x-accel-buffering": "no"})
            await stream(scope, receive, send)


async def _events() -> AsyncIterator[ServerSentEvent]:
    for n in range(_EVENTS):
        if n:
            await asyncio.sleep(_EVERY_S)
        data = {"sent_ms": int(time.time() * 1000), "event": n + 1, "of": _EVENTS}
        yield ServerSentEvent(orjson.dumps(data).decode(), event="message", sep="\n")
