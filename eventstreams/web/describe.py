"""What the service says of itself: catalogue, OpenAPI document, name and version, robots."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import eventstreams
from eventstreams.model.stream import Catalogue, Stream
from eventstreams.web import operations
from eventstreams.web.operations import REFUSALS, content, unlabelled
from eventstreams.web.parameters import PARAMETERS

ROBOTS = "User-agent: *\nDisallow: /\n"
DESCRIPTION = "Topics of a log, out as Server-Sent Events"
_LIMITS_OF_THE_DOCUMENT = """
What the schemas of this document do not say:

- Ids, times, filters, lists of fields, constraints and names of streams have a syntax of their own.
  A value that fits its schema but not that syntax is refused with 400.
- Unknown query parameters are ignored.
- `POST /v1/events?hasty=true` accepts events before they are validated.
- A method that a path does not have gets the page for 404, as in Wikimedia's EventStreams.
- Errors with `message`, `origin` and `name` have no Content-Type, as there; they are under `*/*`.
- The schema of `text/event-stream` describes the whole body, not each event.
"""


def info(homepage: str | None) -> dict[str, Any]:
    return {
        "name": "eventstreams",
        "version": eventstreams.__version__,
        "description": DESCRIPTION,
        "home": homepage,
    }


def streams(catalogue: Catalogue) -> dict[str, Any]:
    """The catalogue in its own order, in the form of EventStreamConfig's API."""
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
            }
            for name, stream in catalogue.streams.items()
        }
    }


def openapi(
    catalogue: Catalogue, schemas: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """OpenAPI 3. The first parameter of the first path lists every name: clients read it there.

    `schemas`: title -> the newest schema of streams' events.
    """
    schemas = schemas or {}
    names: dict[str, Any] = {
        "name": "streams",
        "in": "path",
        "description": "Streams or aliases, separated by commas",
        "required": True,
        "style": "simple",
        "explode": False,
        "schema": {"type": "array", "items": {"type": "string", "enum": catalogue.names}},
    }
    paths: dict[str, Any] = {
        "/v2/stream/{streams}": {"get": _operation([names], "Events of one or more streams", None)}
    }
    for name in catalogue.names:
        stream = catalogue.get(name)
        paths[f"/v2/stream/{name}"] = {
            "get": _operation(
                [],
                f"{name} events",
                _description(name, stream),
                _of_schema(stream.schema_title, schemas),
                stream.scope,
            )
        }
    paths["/v2/streams"] = {
        "get": {
            "tags": ["Streams"],
            "summary": "The stream catalogue",
            "x-monitor": False,
            "responses": {
                "200": {
                    "description": "Streams by name",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                }
            },
        }
    }
    paths["/v2/cursor"] = {
        "get": {
            "tags": ["Service"],
            "summary": "What an id says, in either of its forms",
            "x-monitor": False,
            "parameters": [
                {
                    "name": "id",
                    "in": "query",
                    "description": "The id of an event: a JSON array, or a token (v1.…)",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1},
                }
            ],
            "responses": {
                "200": {
                    "description": "Its partitions with offsets and times, and its other form",
                    "content": {"application/json": content({"type": "object"})},
                },
                "400": unlabelled("No id, or one that a stream would refuse, too", problem=True),
            },
        }
    }
    paths["/v2/explain"] = {
        "get": {
            "tags": ["Service"],
            "summary": "What a request for streams would do: start, filter, share of new events",
            "x-monitor": False,
            "parameters": [
                {
                    "name": "streams",
                    "in": "query",
                    "description": "Names of streams, with commas between them",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1},
                },
                *PARAMETERS,
            ],
            "responses": {
                "200": {
                    "description": "What the request was understood as",
                    "content": {"application/json": content({"type": "object"})},
                },
                **REFUSALS,
            },
        }
    }
    paths["/v2/selftest"] = {
        "get": {
            "tags": ["Service"],
            "summary": "Ten events, a fifth of a second apart: shows whether a proxy buffers",
            "x-monitor": False,
            "responses": {
                "200": {
                    "description": "A stream that ends by itself",
                    "content": {"text/event-stream": content({"type": "string"})},
                }
            },
        }
    }
    paths.update(operations.PATHS)
    return {
        "openapi": "3.1.0",  # of which on it holds JSON Schemas as they are
        "info": {
            "title": "eventstreams",
            "version": eventstreams.__version__,
            "description": f"{DESCRIPTION}\n{_LIMITS_OF_THE_DOCUMENT}",
            "license": {"name": "Apache-2.0", "url": "http://www.apache.org/licenses/LICENSE-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
            "schemas": {_component(title): _standard(schema) for title, schema in schemas.items()},
        },
    }


def _component(title: str) -> str:
    return title.replace("/", ".")


def _standard(schema: dict[str, Any]) -> dict[str, Any]:
    """Wikimedia's schemas name their draft by https, which is nobody's dialect."""
    dialect = schema.get("$schema", "")
    if not re.fullmatch(r"https://json-schema\.org/draft-0[4-7]/schema#?", dialect):
        return schema
    return {**schema, "$schema": f"http{dialect.removeprefix('https')}"}


def _of_schema(title: str | None, schemas: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The content of a stream of such events, with an example; None where they are not known."""
    schema = schemas.get(title) if title else None
    if title is None or schema is None:
        return None
    found: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{_component(title)}"}}
    examples = schema.get("examples")
    if examples:
        found["example"] = examples[0]
    return found


def _description(name: str, stream: Stream) -> str:
    parts = [stream.description or f"Events of {stream.name}."]
    if name != stream.name:
        parts.append(f"(NOTE: This stream is an alias of {stream.name})")
    if stream.scope:
        parts.append(f"Needs a token with the scope {stream.scope}.")
    if stream.schema_title:
        parts.append(f"Schema title: {stream.schema_title}")
    return "\n\n".join(parts)


def _operation(
    path_parameters: list[dict[str, Any]],
    summary: str,
    description: str | None,
    event: dict[str, Any] | None = None,
    scope: str | None = None,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": ["Streams"],
        "summary": summary,
        "x-monitor": False,
        "parameters": [*path_parameters, *PARAMETERS],
        "responses": _RESPONSES,
    }
    if event is not None:
        described = {**_RESPONSES["200"]["content"], "application/json": event}
        ok = {**_RESPONSES["200"], "content": described}
        operation["responses"] = {**_RESPONSES, "200": ok}
    if scope is not None:
        operation["security"] = [{"token": []}, {"ticket": []}]
    if description is not None:
        operation["description"] = description
    return operation


_RESPONSES: dict[str, Any] = {
    "200": {
        "description": "A stream that does not end by itself",
        "content": {
            "text/event-stream": content({"type": "string"}),
            "application/json": content({"type": "object"}),
        },
    },
    "204": {"description": "The stream has an end, and the Last-Event-ID is that of its end"},
    **REFUSALS,
    "404": {
        "description": f"{REFUSALS['404']['description']}; or the path has another shape",
        "content": {**REFUSALS["404"]["content"], "text/html": content({"type": "string"})},
    },
    "410": {
        "description": "Events are no longer kept, and the request says gap=fail",
        "content": {
            "application/json": content(
                {"type": "object", "properties": {"message": {"type": "string"}}}
            )
        },
    },
}
