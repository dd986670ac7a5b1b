"""GET /v1/schemas/…: the schemas that events name, without references.

A full version never changes, so it may be kept for ever; `latest` and the list may not.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eventstreams.errors import (
    BadSchemaUri,
    BrokenSchema,
    NoSuchSchema,
    SchemaError,
    SchemaNotFound,
)
from eventstreams.schemas.store import Compiled, SchemaStore
from eventstreams.schemas.text import to_text

_FOR_EVER = "public, max-age=31536000, immutable"
_SHORTLY = "public, max-age=10"
_YAML = ("application/yaml", "application/x-yaml", "text/yaml")
_LATEST = "latest"


def schema_routes(store: SchemaStore) -> list[Route]:
    async def listed(_: Request) -> Response:
        uris = [str(uri) for uri in await store.uris()]
        return Response(
            orjson.dumps(uris), media_type="application/json", headers={"cache-control": _SHORTLY}
        )

    async def get(request: Request) -> Response:
        uri, kind = _kind("/" + request.path_params["uri"], request.headers.get("accept", ""))
        title, _, version = uri[1:].rpartition("/")
        compiled = await _find(store, uri, title if version == _LATEST else None)
        document = compiled.schema.document
        etag = f'"{_digest(document)[:32]}-{kind}"'
        headers = {
            "cache-control": _SHORTLY if version == _LATEST else _FOR_EVER,
            "etag": etag,
            "vary": "accept",
        }
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(to_text(document, kind), media_type=f"application/{kind}", headers=headers)

    return [
        Route("/v1/schemas", listed),
        Route("/v1/schemas/", listed),
        Route("/v1/schemas/{uri:path}", get),
    ]


def _kind(uri: str, accept: str) -> tuple[str, str]:
    for kind in ("json", "yaml"):
        if uri.endswith(f".{kind}"):
            return uri.removesuffix(f".{kind}"), kind
    return uri, "yaml" if accept.startswith(_YAML) else "json"


async def _find(store: SchemaStore, uri: str, title: str | None) -> Compiled:
    """`title`: the newest version of it is wanted. Raises ServiceProblem."""
    try:
        return await (store.get(uri) if title is None else store.latest(title))
    except (SchemaNotFound, BadSchemaUri) as error:
        shown = uri if len(uri) <= 200 else uri[:200] + "…"
        raise NoSuchSchema(f"No schema exists at schema_uri {shown}") from error
    except SchemaError as error:
        raise BrokenSchema(str(error)) from error


def _digest(document: Any) -> str:
    return hashlib.sha256(to_text(document, "json").encode()).hexdigest()
