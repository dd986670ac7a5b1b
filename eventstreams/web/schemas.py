"""Serves GET /v1/schemas/…: the schemas of events, with references resolved.

A full version never changes, so clients may cache it forever; `latest` and the list change.
"""

from __future__ import annotations

import asyncio
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
from eventstreams.schemas.uri import SchemaUri

_FOR_EVER = "public, max-age=31536000, immutable"
_SHORTLY = "public, max-age=10"
_YAML = ("application/yaml", "application/x-yaml", "text/yaml")
_LATEST = "latest"
_UriList = tuple[tuple[SchemaUri, ...], dict[str, bytes]]
"""The released versions, and the same as JSON and YAML."""


def schema_routes(store: SchemaStore) -> list[Route]:
    texts = _Texts()
    uris: _UriList = ((), {"json": b"[]", "yaml": b"[]"})

    async def listed(request: Request) -> Response:
        nonlocal uris
        found = await store.uris()
        if uris[0] is not found:
            uris = (found, _list(found))
        _, kind = _kind("", request.headers.get("accept", ""))
        headers = {"cache-control": _SHORTLY, "vary": "accept"}
        return Response(uris[1][kind], media_type=f"application/{kind}", headers=headers)

    async def get(request: Request) -> Response:
        uri, kind = _kind("/" + request.path_params["uri"], request.headers.get("accept", ""))
        title, _, version = uri[1:].rpartition("/")
        compiled = await _find(store, uri, title if version == _LATEST else None)
        text, digest = await texts.get(compiled, kind)
        etag = f'"{digest}-{kind}"'
        headers = {
            "cache-control": _SHORTLY if version == _LATEST else _FOR_EVER,
            "etag": etag,
            "vary": "accept",
        }
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(text, media_type=f"application/{kind}", headers=headers)

    return [
        Route("/v1/schemas", listed),
        Route("/v1/schemas/", listed),
        Route("/v1/schemas/{uri:path}", get),
    ]


def _list(uris: tuple[SchemaUri, ...]) -> dict[str, bytes]:
    texts = [orjson.dumps(str(uri)) for uri in uris]  # a JSON string is one of YAML, too
    as_yaml = b"".join(b"- %b\n" % text for text in texts)
    return {"json": b"[%b]" % b",".join(texts), "yaml": as_yaml or b"[]"}


def _kind(uri: str, accept: str) -> tuple[str, str]:
    for kind in ("json", "yaml"):
        if uri.endswith(f".{kind}"):
            return uri.removesuffix(f".{kind}"), kind
    return uri, "yaml" if accept.startswith(_YAML) else "json"


async def _find(store: SchemaStore, uri: str, title: str | None) -> Compiled:
    """Return the schema at `uri`, or the newest of `title` if given. Raises ServiceProblem."""
    try:
        return await (store.get(uri) if title is None else store.latest(title))
    except (SchemaNotFound, BadSchemaUri) as error:
        shown = uri if len(uri) <= 200 else uri[:200] + "…"
        raise NoSuchSchema(f"No schema exists at schema_uri {shown}") from error
    except SchemaError as error:
        raise BrokenSchema(str(error)) from error


class _Texts:
    """A cache of schemas as JSON and YAML.

    A version never changes, and converting a large one to YAML takes longer than the event loop may
    wait, so each is converted once, in a thread.
    """

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str], tuple[bytes, str]] = {}
        """Text and digest by URI and kind. Its size is limited by that of the repository."""

    async def get(self, compiled: Compiled, kind: str) -> tuple[bytes, str]:
        """Return the text and a digest of the schema, which is the same for both kinds."""
        key = (str(compiled.schema.uri), kind)
        if key not in self._texts:
            self._texts[key] = await asyncio.to_thread(_written, compiled.schema.document, kind)
        return self._texts[key]


def _written(document: Any, kind: str) -> tuple[bytes, str]:
    as_json = to_text(document, "json").encode()
    text = as_json if kind == "json" else to_text(document, kind).encode()
    return text, hashlib.sha256(as_json).hexdigest()[:32]
