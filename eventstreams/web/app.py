"""The ASGI application: passes streams and posts to their endpoints, and the rest to Starlette.

Streams add the common headers themselves, so that a waiting client has no wrapper around it.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from eventstreams.errors import ClientError, InvalidParameter
from eventstreams.metrics import Metrics
from eventstreams.turns import Turns
from eventstreams.web.access import PATH as TICKET
from eventstreams.web.address import Proxies
from eventstreams.web.answers import Headers, not_found, preflight, refusal, with_headers
from eventstreams.web.beacon import PATHS as BEACON
from eventstreams.web.events import PATHS as EVENTS
from eventstreams.web.events import TEST_PATH as TEST_EVENTS
from eventstreams.web.operators import PATH as ADMIN
from eventstreams.web.query import PARAMETERS_MAX
from eventstreams.web.request import PREFIX

_WITH_SLASH = ("/", "/v2/ui/")
"""Paths that keep their final slash."""


class App:
    def __init__(
        self,
        *,
        streams: ASGIApp | None,
        events: ASGIApp | None,
        beacon: ASGIApp | None,
        routes: Sequence[BaseRoute],
        headers: Headers,
        proxies: Proxies,
        turns: Turns,
        metrics: Metrics,
    ) -> None:
        """Set the applications and routes. An application is None if that part is not served.

        `routes` are all others. `headers` are sent with every response.
        """
        self._proxies = proxies
        self._turns = turns
        self._metrics = metrics
        self._streams = streams
        self._events = events
        self._beacon = beacon
        self._headers = headers
        self._rest = Starlette(
            routes=routes,
            exception_handlers={
                404: self._not_found,
                405: self._not_found,
                ClientError: self._refused,
            },
        )
        self._rest.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        path = scope["path"]
        if self._beacon is not None and path in BEACON:  # its query is one event, not parameters
            await self._beacon(scope, receive, with_headers(send, self._headers))
            return
        if path.endswith("/") and path not in _WITH_SLASH and not path.startswith(PREFIX):
            path = path.removesuffix("/")  # as Express does, which Wikimedia's service uses
            scope = {**scope, "path": path}
        answer: Response | Starlette
        if scope["query_string"].count(b"&") >= PARAMETERS_MAX:
            error = InvalidParameter(f"The query has more than {PARAMETERS_MAX} parameters")
            answer = refusal(scope, error, self._metrics)
        elif self._streams is not None and path.startswith(PREFIX):
            await self._streams(scope, receive, send)
            return
        elif self._events is not None and path in (*EVENTS, TEST_EVENTS):
            await self._events(scope, receive, with_headers(send, self._headers))
            return
        elif scope["method"] == "OPTIONS" and path != TICKET and not path.startswith(ADMIN):
            answer = preflight("GET, HEAD, OPTIONS")
        else:
            answer = self._rest
        work = answer(scope, receive, with_headers(send, self._headers))
        await self._turns.run(self._proxies.site(scope), work)  # all of its time is charged

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ClientError)
        return refusal(request.scope, error, self._metrics)

    async def _not_found(self, request: Request, _: Exception) -> Response:
        return not_found(request.scope)
