"""GET /v1/stream-configs[/{a|b}]: what producers and consumers are told of streams.

The answer is `{name: settings}`, which is what EventGate serves; `constraints` are those of
EventStreamConfig's own API.
"""

from __future__ import annotations

import re

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eventstreams.declarations import Declarations
from eventstreams.errors import InvalidParameter
from eventstreams.model.stream_config import parse_constraints

_NAMES_MAX = 250
_CACHE = "public, max-age=10"


def stream_config_routes(declarations: Declarations) -> list[Route]:
    async def get(request: Request) -> Response:
        text = request.path_params.get("streams") or request.query_params.get("streams") or ""
        names = [name for name in re.split(r"[|,]", text) if name]
        if len(names) > _NAMES_MAX:
            raise InvalidParameter(f"streams has {len(names)} names; at most {_NAMES_MAX}")
        constraints = request.query_params.get("constraints")
        try:
            wanted = parse_constraints(constraints) if constraints else {}
        except ValueError as error:
            raise InvalidParameter(f"constraints: {error}") from error
        found = declarations.configs.select(names or None, wanted)
        return Response(
            orjson.dumps(found),
            media_type="application/json",
            headers={"cache-control": _CACHE},
        )

    paths = ("/v1/stream-configs", "/v1/stream-configs/", "/v1/stream-configs/{streams}")
    return [Route(path, get) for path in paths]
