"""The ASGI application: stream routes straight to their endpoint, everything else by Starlette."""

from __future__ import annotations

import mimetypes
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventstreams.declarations import Declarations
from eventstreams.errors import ClientError, InvalidParameter
from eventstreams.schemas.store import SchemaStore
from eventstreams.settings import HttpSettings
from eventstreams.turns import Turns
from eventstreams.web import describe
from eventstreams.web.access import PATH as TICKET
from eventstreams.web.address import Proxies
from eventstreams.web.admin import PATH as ADMIN
from eventstreams.web.answers import Headers, answer, not_found, refuse
from eventstreams.web.beacon import PATHS as BEACON
from eventstreams.web.cursor import CursorPage
from eventstreams.web.events import PATHS as EVENTS
from eventstreams.web.events import TEST_PATH as TEST_EVENTS
from eventstreams.web.explain import PATH as EXPLAIN
from eventstreams.web.health import Health
from eventstreams.web.request import PARAMETERS_MAX, PREFIX
from eventstreams.web.schemas import schema_routes
from eventstreams.web.selftest import selftest
from eventstreams.web.spec import Spec
from eventstreams.web.stream_configs import stream_config_routes

_WITH_SLASH = ("/", "/v2/ui/")
"""Paths of which the last slash is a part."""


class App:
    def __init__(
        self,
        *,
        streams: ASGIApp | None,
        explain: ASGIApp | None,
        events: ASGIApp | None,
        beacon: ASGIApp | None,
        ticket: ASGIApp | None,
        admin: ASGIApp | None,
        declarations: Declarations,
        schemas: SchemaStore,
        health: Health,
        settings: HttpSettings,
        static: Path,
        headers: Headers,
        proxies: Proxies,
        turns: Turns,
    ) -> None:
        """The applications are None where that part is not served."""
        self._proxies = proxies
        self._turns = turns
        self._streams = streams
        self._explain = explain
        self._events = events
        self._beacon = beacon
        self._ticket = ticket
        self._admin = admin
        self._headers = headers
        self._rest = Starlette(
            routes=[
                *_routes(Spec(declarations, schemas), health, settings, static),
                *stream_config_routes(declarations),
                *schema_routes(schemas),
            ],
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
        if self._beacon is not None and scope["path"] in BEACON:
            await self._beacon(scope, receive, send)  # its query has no parameters
            return
        path = scope["path"]
        if path.endswith("/") and path not in _WITH_SLASH and not path.startswith(PREFIX):
            path = path.removesuffix("/")  # as upstream's web framework has it
            scope = {**scope, "path": path}
        if scope["query_string"].count(b"&") >= PARAMETERS_MAX:
            error = InvalidParameter(f"The query has more than {PARAMETERS_MAX} parameters")
            await self._in_turn(scope, refuse(scope, send, self._headers, error))
        elif self._streams is not None and path.startswith(PREFIX):
            await self._streams(scope, receive, send)
        elif self._events is not None and path in (*EVENTS, TEST_EVENTS):
            await self._events(scope, receive, send)
        else:
            await self._in_turn(scope, self._page(path, scope, receive, send))

    async def _in_turn(self, scope: Scope, work: Coroutine[Any, Any, None]) -> None:
        """Answer within turns of the client, which is charged with all that it takes."""
        await self._turns.run(self._proxies.site(scope), work)

    async def _page(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is no stream and posts nothing."""
        if self._explain is not None and path == EXPLAIN and scope["method"] in ("GET", "HEAD"):
            await self._explain(scope, receive, send)
        elif self._ticket is not None and path == TICKET:
            await self._ticket(scope, receive, send)
        elif self._admin is not None and (path == ADMIN or path.startswith(f"{ADMIN}/")):
            await self._admin(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            allow = (b"access-control-allow-methods", b"GET, HEAD, OPTIONS")
            await answer(send, 200, [*self._headers, allow], b"", None)
        else:
            await self._rest(scope, receive, self._with_headers(send))

    def _with_headers(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        return sending

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ClientError)
        return _Refusal(request.scope, error)

    async def _not_found(self, request: Request, _: Exception) -> Response:
        return _Page(request.scope)


class _Page(Response):
    """The 404 page, in the place where Starlette wants a response."""

    def __init__(self, scope: Scope) -> None:
        super().__init__()
        self._scope = scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await not_found(self._scope, send, [])


class _Refusal(_Page):
    """The same of a request that can't be answered as asked."""

    def __init__(self, scope: Scope, error: ClientError) -> None:
        super().__init__(scope)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await refuse(self._scope, send, [], self._error)


def _json(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


def _routes(
    spec: Spec, health: Health, settings: HttpSettings, static: Path
) -> list[Route | Mount]:
    mimetypes.init()  # else the first page that is asked for reads the system's tables
    info = describe.info(settings.homepage)

    async def root(request: Request) -> Response:
        if "spec" in request.query_params:
            return _json(await spec.openapi())
        if "doc" in request.query_params:
            return FileResponse(static / "doc.html")
        return RedirectResponse("/v2/ui", 303)

    async def get_streams(_: Request) -> Response:
        return _json(describe.streams(spec.catalogue))

    async def get_info(_: Request) -> Response:
        return _json(info)

    async def get_info_field(request: Request) -> Response:
        field = request.path_params["field"]
        if field not in ("name", "version"):
            raise HTTPException(404)
        return _json({field: info[field]})

    async def home(_: Request) -> Response:
        if settings.homepage is None:
            return PlainTextResponse("No home page is configured\n", 404)
        return RedirectResponse(settings.homepage, 301)

    async def robots(_: Request) -> Response:
        return PlainTextResponse(describe.ROBOTS)

    async def healthz(_: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(_: Request) -> Response:
        state = health.state()
        return _json(state, 200 if state["ready"] else 503)

    async def rc(_: Request) -> Response:
        return RedirectResponse("/?doc", 301)

    async def ui(_: Request) -> Response:
        return RedirectResponse("/v2/ui/", 301)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    return [
        Route("/", root),
        Route("/v2/streams", get_streams),
        Route("/v2/cursor", CursorPage(), methods=["GET"]),
        Route("/v2/selftest", selftest),
        Route("/_info", get_info),
        Route("/_info/", get_info),
        Route("/_info/home", home, methods=methods),
        Route("/_info/{field}", get_info_field),
        Route("/robots.txt", robots),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/rc", rc),
        Route("/v2/ui", ui),
        Mount("/v2/ui", StaticFiles(directory=static, html=True)),
    ]
