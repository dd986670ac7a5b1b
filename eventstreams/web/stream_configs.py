"""Serves GET /v1/stream-configs[/{a|b}]: the stream settings for producers and consumers.

The response is `{name: settings}`, as EventGate serves it; `constraints` are those of
EventStreamConfig's own API.
"""

from __future__ import annotations

import re

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eventstreams.config.reloader import CatalogueWatcher
from eventstreams.errors import InvalidParameter
from eventstreams.model.stream_config import parse_constraints
from eventstreams.web.query import Query

_NAMES_MAX = 250
_PARAMETERS = ("streams", "constraints")
_MEDIAWIKI = ("action", "format", "formatversion", "all_settings", "uselang", "origin")
"""Parameters of MediaWiki's API that clients of EventStreamConfig send. They change nothing here:
the response always has all settings, in JSON."""
_CACHE = "public, max-age=10"


def stream_config_routes(catalogue_watcher: CatalogueWatcher) -> list[Route]:
    async def get(request: Request) -> Response:
        query = Query(request.scope)
        query.expect((*_PARAMETERS, *_MEDIAWIKI))
        text = request.path_params.get("streams") or query.one("streams") or ""
        names = [name for name in re.split(r"[|,]", text) if name]
        if len(names) > _NAMES_MAX:
            raise InvalidParameter(f"streams has {len(names)} names; at most {_NAMES_MAX}")
        constraints = query.one("constraints")
        try:
            wanted = parse_constraints(constraints) if constraints else {}
        except ValueError as error:
            raise InvalidParameter(f"constraints: {error}") from error
        found = catalogue_watcher.configs.select(names or None, wanted)
        return Response(
            orjson.dumps(found),
            media_type="application/json",
            headers={"cache-control": _CACHE},
        )

    paths = ("/v1/stream-configs", "/v1/stream-configs/", "/v1/stream-configs/{streams}")
    return [Route(path, get) for path in paths]
