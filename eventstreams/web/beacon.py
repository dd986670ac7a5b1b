"""Serves GET and POST /beacon/event, to which clients of EventLogging send their events.

The whole event is in the query, percent-encoded. A client gets 204 at once, before its event is
handled, because these clients do not read responses. Only a request that exceeds a limit gets
another response, 429 or 503.
"""

from __future__ import annotations

import contextlib
import time

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventstreams.errors import ClientError
from eventstreams.legacy.beacon import Beacon
from eventstreams.metrics import Metrics
from eventstreams.web.address import Proxies
from eventstreams.web.answers import not_found, preflight, refusal
from eventstreams.web.events import sender_of

PATHS = ("/beacon/event", "/beacon/event/")

_NOT_CACHED = {"cache-control": "no-store"}
"""A 204 may be cached unless it forbids that, and a second equal event must not be lost."""


class BeaconPage:
    """An ASGI application, because events are handled after the response was sent."""

    def __init__(self, *, beacon: Beacon, proxies: Proxies, metrics: Metrics) -> None:
        self._beacon = beacon
        self._proxies = proxies
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "POST"):
            await self._take(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await preflight("GET, POST")(scope, receive, send)
        else:
            await not_found(scope)(scope, receive, send)

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        query: bytes = scope["query_string"]
        sender = sender_of(scope, self._proxies)
        admission = self._beacon.intake.admission
        with contextlib.ExitStack() as until_done:
            try:
                lease = until_done.enter_context(admission.lease(sender.site))
                lease.cover(len(query))
            except ClientError as error:
                await refusal(scope, error, self._metrics)(scope, receive, send)
                self._count(error.status, began)
                return
            received = Response(status_code=204, headers=_NOT_CACHED)
            await received(scope, receive, send)
            self._count(204, began)
            await self._beacon.take(query, sender, lease, until_done.pop_all())

    def _count(self, status: int, began: float) -> None:
        self._metrics.intake_requests.labels(str(status)).inc()
        self._metrics.intake_seconds.observe(time.monotonic() - began)
