"""Serves the description of the service, its pages, its health and its readiness."""

from __future__ import annotations

import importlib.util
import mimetypes
from pathlib import Path
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

import eventstreams
from eventstreams.config.reloader import CatalogueWatcher
from eventstreams.errors import ConfigError
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.outages import names
from eventstreams.model.catalogue import Catalogue
from eventstreams.web.openapi import OpenApi
from eventstreams.web.query import Query

_ROBOTS = "User-agent: *\nDisallow: /\n"
_ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


_SWAGGER_UI = {
    "swagger-ui.css": "swagger_style.css",
    "swagger-ui-bundle.js": "swagger_bundle.js",
}
"""The files of Swagger UI that the API reference needs, by the names that they have in offapi."""


class Health:
    """Reports whether this gateway should get clients."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def state(self) -> dict[str, Any]:
        """Return `ready`, and each condition on its own.

        `unreachable` names the partitions whose streams wait or are refused, while others are
        served.
        """
        hub = self._hub
        return {
            "ready": hub.ready,
            "log": "ok" if hub.trouble is None else str(hub.trouble),
            "unreachable": names(hub.unreachable),
            "fed": hub.following,
            "draining": hub.leaving,
        }


def page_routes(
    *,
    openapi: OpenApi,
    catalogue_watcher: CatalogueWatcher,
    health: Health,
    homepage: str | None,
    static: Path,
) -> list[BaseRoute]:
    """Return the routes. /_info/home redirects to `homepage`; `static` is the folder of pages."""
    if not mimetypes.inited:
        mimetypes.init()  # otherwise the first request for a page reads the system's tables
    info = {
        "name": "eventstreams",
        "version": eventstreams.__version__,
        "description": "Live event streams over HTTP",
        "home": homepage,
    }

    async def root(request: Request) -> Response:
        parameters = {name for name, _ in Query(request.scope).pairs}
        if "spec" in parameters:
            return Response(await openapi.read(), media_type="application/json")
        if "doc" in parameters:
            return FileResponse(static / "doc.html")
        return RedirectResponse("/v2/ui", 303)

    async def streams(_: Request) -> Response:
        return _json(_listed(catalogue_watcher.catalogue))

    async def get_info(_: Request) -> Response:
        return _json(info)

    async def info_field(request: Request) -> Response:
        field = request.path_params["field"]
        if field not in ("name", "version"):
            raise HTTPException(404)
        return _json({field: info[field]})

    async def home(_: Request) -> Response:
        if homepage is None:
            return PlainTextResponse("No home page is configured\n", 404)
        return RedirectResponse(homepage, 301)

    async def robots(_: Request) -> Response:
        return PlainTextResponse(_ROBOTS)

    async def healthz(_: Request) -> Response:
        """Respond at once, which shows only that the event loop runs."""
        return _json({"status": "ok"})

    async def readyz(_: Request) -> Response:
        state = health.state()
        return _json(state, 200 if state["ready"] else 503)

    async def rc(_: Request) -> Response:
        return RedirectResponse("/?doc", 301)

    async def ui(_: Request) -> Response:
        return RedirectResponse("/v2/ui/", 301)

    return [
        Route("/", root),
        Route("/v2/streams", streams),
        Route("/_info", get_info),
        Route("/_info/", get_info),
        Route("/_info/home", home, methods=_ALL_METHODS),
        Route("/_info/{field}", info_field),
        Route("/robots.txt", robots),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/rc", rc),
        Route("/v2/ui", ui),
        *swagger_routes(),
        Mount("/v2/ui", StaticFiles(directory=static, html=True)),
    ]


def swagger_routes() -> list[Route]:
    """Return the routes of Swagger UI, whose files come from the package offapi.

    Raises ConfigError if it is not installed.
    """
    spec = importlib.util.find_spec("offapi")  # importing it would read all of its 9 MB
    if spec is None or spec.submodule_search_locations is None:
        raise ConfigError(["The package offapi, which holds Swagger UI, is not installed"])
    folder = Path(spec.submodule_search_locations[0])

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _SWAGGER_UI:
            raise HTTPException(404)
        return FileResponse(folder / _SWAGGER_UI[name])

    return [Route("/v2/ui/swagger/{name}", file)]


def _json(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


def _listed(catalogue: Catalogue) -> dict[str, Any]:
    """Return the catalogue in its own order, in the form of EventStreamConfig's API."""
    return {
        "streams": {
            name: {
                "stream": name,
                "topics": list(stream.topics),
                "topics_allowed": sorted(stream.topics_allowed),
                "stream_aliases": list(stream.aliases),
                "schema_title": stream.schema_title,
                "description": stream.description,
                **({} if stream.scope is None else {"scope": stream.scope}),
                **({"display_fields": fields} if (fields := stream.display_fields) else {}),
            }
            for name, stream in catalogue.streams.items()
        }
    }
