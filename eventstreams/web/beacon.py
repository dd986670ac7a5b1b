"""GET and POST /beacon/event: where clients of EventLogging send their events.

The whole event is in the query, percent-encoded. A client gets 204 at once and never learns what
became of its event, because these clients read no answer. Only a request
for which there is no room gets another answer, 429 or 503.
"""

from __future__ import annotations

import contextlib
import time

from starlette.types import Receive, Scope, Send

from eventstreams.errors import ClientError
from eventstreams.legacy.beacon import Beacon
from eventstreams.metrics import Metrics
from eventstreams.web.address import Proxies
from eventstreams.web.answers import Headers, answer, not_found, refuse
from eventstreams.web.events import sender_of

PATHS = ("/beacon/event", "/beacon/event/")

_METHODS = b"GET, POST"
_NOT_CACHED = (b"cache-control", b"no-store")
"""Two events may be the same, and a 204 may be cached unless it says otherwise."""


class BeaconPage:
    def __init__(
        self, *, beacon: Beacon, proxies: Proxies, metrics: Metrics, headers: Headers
    ) -> None:
        self._beacon = beacon
        self._proxies = proxies
        self._metrics = metrics
        self._headers = [
            (name, _METHODS if name == b"access-control-allow-methods" else value)
            for name, value in headers
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        if scope["method"] == "OPTIONS":
            allow = [(b"allow", _METHODS), (b"access-control-allow-methods", _METHODS)]
            await answer(send, 200, [*self._headers, *allow], _METHODS, b"text/plain")
        elif scope["method"] in ("GET", "POST"):
            await self._take(scope, send)
        else:
            await not_found(scope, send, self._headers)

    async def _take(self, scope: Scope, send: Send) -> None:
        began = time.monotonic()
        query: bytes = scope["query_string"]
        sender = sender_of(scope, self._proxies)
        admission = self._beacon.intake.admission
        with contextlib.ExitStack() as until_done:
            try:
                lease = until_done.enter_context(admission.lease(sender.site))
                lease.cover(len(query))
            except ClientError as error:
                self._metrics.refused.labels(type(error).__name__).inc()
                await refuse(scope, send, self._headers, error)
                self._count(error.status, began)
                return
            await answer(send, 204, [*self._headers, _NOT_CACHED], b"", None)
            self._count(204, began)
            await self._beacon.take(query, sender, lease, until_done.pop_all())

    def _count(self, status: int, began: float) -> None:
        self._metrics.intake_requests.labels(str(status)).inc()
        self._metrics.intake_seconds.observe(time.monotonic() - began)
