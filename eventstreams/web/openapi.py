"""Builds the OpenAPI document at /?spec: openapi.yaml with the streams of the catalogue.

`OpenApi.read` returns the document as JSON, and rebuilds it only when the catalogue or one of the
schemas has changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

import eventstreams
from eventstreams.config.reloader import CatalogueWatcher
from eventstreams.config.yaml_file import read_own_yaml
from eventstreams.errors import SchemaError
from eventstreams.fanout.spec import Format
from eventstreams.model.catalogue import Catalogue, Stream
from eventstreams.schemas.store import SchemaStore
from eventstreams.web.request import MEDIA_TYPES

_TEMPLATE: dict[str, Any] = read_own_yaml(Path(__file__).with_name("openapi.yaml"))
_STREAMS = "/v2/stream/{streams}"

_NDJSON = [kind for kind, format_ in MEDIA_TYPES.items() if format_ is Format.NDJSON]

Schemas = Mapping[str, dict[str, Any]]
"""The newest schemas of some streams' events, by title."""


class OpenApi:
    def __init__(self, catalogue_watcher: CatalogueWatcher, schemas: SchemaStore) -> None:
        self._catalogue_watcher = catalogue_watcher
        self._schemas = schemas
        self._made: _Made | None = None

    async def read(self) -> bytes:
        """Return the document as JSON."""
        catalogue = self._catalogue_watcher.catalogue
        schemas = await self._schemas_of(catalogue)
        made = self._made
        if made is None or not made.describes(catalogue, schemas):
            self._made = made = _Made(catalogue, schemas, document(catalogue, schemas))
        return made.text

    async def _schemas_of(self, catalogue: Catalogue) -> Schemas:
        """Return the newest schema of each title that a stream names, without broken ones."""
        found: dict[str, dict[str, Any]] = {}
        for stream in catalogue.streams.values():
            title = stream.schema_title
            if title is None or title in found:
                continue
            try:
                found[title] = (await self._schemas.latest(title)).schema.document
            except SchemaError:
                continue
        return found


class _Made(NamedTuple):
    """An encoded document, and what it describes."""

    catalogue: Catalogue
    schemas: Schemas
    text: bytes

    def describes(self, catalogue: Catalogue, schemas: Schemas) -> bool:
        """Return whether the document describes these very objects, which never change.

        Comparing the schemas by value would take milliseconds for each request.
        """
        return (
            self.catalogue is catalogue
            and self.schemas.keys() == schemas.keys()
            and all(self.schemas[title] is schema for title, schema in schemas.items())
        )


def document(catalogue: Catalogue, schemas: Schemas) -> bytes:
    """Return the document as JSON.

    Clients of Wikimedia's service read all names in the first parameter of the first path.
    """
    paths = dict(_TEMPLATE["paths"])
    operation: dict[str, Any] = paths.pop(_STREAMS)["get"]
    names, *parameters = operation["parameters"]
    items = {"type": "string", "enum": catalogue.names}
    names = {**names, "schema": {"type": "array", "items": items}}
    every = {_STREAMS: {"get": {**operation, "parameters": [names, *parameters]}}}
    of_one = {**operation, "parameters": parameters}
    for name in catalogue.names:
        stream = catalogue.get(name)
        every[f"/v2/stream/{name}"] = {"get": {**of_one, **_differences(name, stream, schemas)}}
    components = {_component(title): _standard(schema) for title, schema in schemas.items()}
    return orjson.dumps(
        {
            **_TEMPLATE,
            "info": {**_TEMPLATE["info"], "version": eventstreams.__version__},
            "paths": {**every, **paths},
            "components": {**_TEMPLATE["components"], "schemas": components},
        }
    )


def _differences(name: str, stream: Stream, schemas: Schemas) -> dict[str, Any]:
    """Return the parts of an operation that are specific to one stream or alias."""
    own: dict[str, Any] = {
        "summary": f"{name} events",
        "description": _description(name, stream),
    }
    if name != stream.name:
        own["x-alias-of"] = stream.name
    if stream.scope is not None:
        own["security"] = [{"token": []}, {"ticket": []}]
    title = stream.schema_title
    if title is not None and title in schemas:
        responses = _TEMPLATE["paths"][_STREAMS]["get"]["responses"]
        event: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{_component(title)}"}}
        if examples := schemas[title].get("examples"):
            event["example"] = examples[0]
        content = {**responses["200"]["content"], **dict.fromkeys(_NDJSON, event)}
        own["responses"] = {**responses, "200": {**responses["200"], "content": content}}
    return own


def _description(name: str, stream: Stream) -> str:
    parts = [stream.description or f"Events of {stream.name}."]
    if name != stream.name:
        parts.append(f"(NOTE: This stream is an alias of {stream.name})")
    if stream.scope:
        parts.append(f"Needs a token with the scope {stream.scope}.")
    if stream.schema_title:
        parts.append(f"Schema title: {stream.schema_title}")
    return "\n\n".join(parts)


def _component(title: str) -> str:
    return title.replace("/", ".")


def _standard(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with the official name of its draft: Wikimedia's schemas write https."""
    dialect = schema.get("$schema", "")
    if not re.fullmatch(r"https://json-schema\.org/draft-0[4-7]/schema#?", dialect):
        return schema
    return {**schema, "$schema": f"http{dialect.removeprefix('https')}"}
