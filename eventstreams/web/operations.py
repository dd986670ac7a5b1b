"""The operations that are not streams, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any

PROBLEM = {
    "type": "object",
    "properties": {
        "status": {"type": "integer"},
        "type": {"type": "string"},
        "title": {"type": "string"},
        "detail": {"type": "string"},
        "method": {"type": "string"},
        "uri": {"type": "string"},
    },
}


ASSIGNMENT = {
    "type": "object",
    "required": ["message", "origin", "name", "statusCode"],
    "properties": {
        "message": {"type": "string"},
        "origin": {"type": "string"},
        "name": {"type": "string"},
        "statusCode": {"type": "integer"},
    },
}
"""The second shape of errors, as upstream sends it: without a Content-Type."""


def content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"schema": schema}


def refused(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": content(PROBLEM)}}


def unlabelled(description: str, *, problem: bool = False) -> dict[str, Any]:
    """A refusal in the second shape; `problem`: or in the first, with its Content-Type."""
    kinds = {"*/*": content(ASSIGNMENT)}
    if problem:
        kinds["application/json"] = content(PROBLEM)
    return {"description": f"{description}. The second shape has no Content-Type", "content": kinds}


def _missing(description: str) -> dict[str, Any]:
    """A 404: of what the path names, as JSON, or of a path with another shape, as a page."""
    kinds = {"application/json": content(PROBLEM), "text/html": content({"type": "string"})}
    return {"description": description, "content": kinds}


def _page(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"text/html": content({"type": "string"})}}


REFUSALS: dict[str, Any] = {
    "400": unlabelled("Unknown stream, bad parameter, or bad Last-Event-ID", problem=True),
    "401": refused("The stream needs a token, or the one that came is not valid"),
    "403": refused("The token lacks the scope of the stream"),
    "404": unlabelled("A topic or partition is not available"),
    "429": refused(
        "Too many streams or connects of this client; Retry-After says when to come back"
    ),
    "500": unlabelled("No topic of the streams exists; an operator must act"),
    "501": refused("This installation cannot evaluate filters"),
    "503": unlabelled(
        "The gateway is full or being stopped, or the log is out of reach; Retry-After says when "
        "to come back",
        problem=True,
    ),
}
"""Of requests for streams, and of those that explain them."""


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": schema or {"type": "string"},
    }


def _path(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "description": description,
        "required": True,
        "schema": {"type": "string"},
    }


def _get(
    summary: str, what: str, *parameters: dict[str, Any], more: dict[str, Any] | None = None
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        "200": {"description": what, "content": {"application/json": content({})}}
    }
    if parameters:
        responses["400"] = refused("What is asked for can't be understood")
    return {
        "get": {
            "tags": ["Service"],
            "summary": summary,
            "x-monitor": False,
            "parameters": list(parameters),
            "responses": {**responses, **(more or {})},
        }
    }


_ELEMENT = {
    "type": "object",
    "properties": {
        "status": {"type": "string", "enum": ["invalid", "error"]},
        "index": {"type": "integer", "description": "Its place in the request, from 0"},
        "event": {"description": "As it was posted"},
        "context": {"type": "object"},
    },
}
_ELEMENTS = {
    "type": "object",
    "properties": {
        "invalid": {"type": "array", "items": _ELEMENT},
        "error": {"type": "array", "items": _ELEMENT},
    },
}
_EVENT = {"type": "object"}
_EVENTS = {"oneOf": [_EVENT, {"type": "array", "items": _EVENT}]}


def _named(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": content(_ELEMENTS)}}


_POST_EVENTS: dict[str, Any] = {
    "post": {
        "tags": ["Events"],
        "summary": "Posts one event or a list of them; 201 means durable in the log",
        "x-monitor": False,
        "parameters": [
            _query("hasty", "Answer with 202 before anything is checked", type="boolean"),
            _query("schema_uri", "The $schema of events that do not say their own"),
            _query("stream", "The meta.stream of events that do not say their own"),
        ],
        "requestBody": {
            "required": True,
            "content": {
                kind: content(_EVENTS)
                for kind in ("application/json", "text/plain", "application/reports+json")
            },
        },
        "responses": {
            "201": {"description": "All events were accepted"},
            "202": {"description": "Hastily received"},
            "207": _named("Some events were accepted; the others are named"),
            "400": {
                "description": "No event was accepted, all are invalid; or the body can't be read. "
                "The answer to a body without events is empty and has no Content-Type",
                "content": {"application/json": content({"anyOf": [_ELEMENTS, PROBLEM]})},
            },
            "408": refused("The body did not come in time"),
            "401": refused("A producer's key is needed, or the one that came is not known"),
            "413": refused("Too many bytes or events"),
            "415": refused("Another content type, charset or coding"),
            "429": refused("This client address has too many bodies or bytes under way"),
            "500": _named("No event was accepted, and not all are invalid"),
            "503": refused("Too much is being taken; Retry-After says when to come back"),
        },
    }
}
_BEACON: dict[str, Any] = {
    "tags": ["Events"],
    "summary": "Takes an event of an EventLogging client: the whole query is percent-encoded JSON",
    "x-monitor": False,
    "responses": {
        "204": {"description": "The request was received; its event is checked behind this answer"},
        "404": _page("The settings list no schema of EventLogging"),
        "429": refused("This client has too many requests under way"),
        "503": refused("Too much is being taken; Retry-After says when to come back"),
    },
}
_POST_TICKET: dict[str, Any] = {
    "post": {
        "tags": ["Streams"],
        "summary": "A ticket for one request in the name of a token: ?ticket=",
        "x-monitor": False,
        "security": [{"token": []}],
        "responses": {
            "201": {
                "description": "For clients that can't set a header, like EventSource",
                "content": {
                    "application/json": content(
                        {
                            "type": "object",
                            "properties": {
                                "ticket": {"type": "string"},
                                "expires_in": {
                                    "type": "number",
                                    "description": "Seconds that it may lie unused",
                                },
                            },
                        }
                    )
                },
            },
            "400": refused("More than one Authorization header"),
            "401": refused("No token, or one that is not valid"),
            "429": refused("Too many connects of this client"),
            "503": refused("Tokens can't be checked, or tickets not be kept, now"),
        },
    }
}
_CONSTRAINTS = _query("constraints", "Only streams with these settings: k=v|p[q]=v")
PATHS: dict[str, Any] = {
    "/v1/events": _POST_EVENTS,
    "/beacon/event": {"get": _BEACON, "post": _BEACON},
    "/v2/ticket": _POST_TICKET,
    "/v1/stream-configs": _get(
        "What producers and consumers are told of all streams",
        "Settings by stream",
        _query("streams", "Only these, with | or commas between them"),
        _CONSTRAINTS,
    ),
    "/v1/stream-configs/{streams}": _get(
        "What producers and consumers are told of some streams",
        "Settings by stream; those that are not declared are left out",
        _path("streams", "Names, with | or commas between them"),
        _CONSTRAINTS,
        more={"404": _page("The path has another shape")},
    ),
    "/v1/schemas": {
        "get": {
            **_get("The schemas there are", "Their URIs")["get"],
            "responses": {
                "200": {
                    "description": "Their URIs",
                    "content": {
                        "application/json": content({"type": "array", "items": {"type": "string"}})
                    },
                },
            },
        }
    },
    "/v1/schemas/{title}/{version}": {
        "get": {
            "tags": ["Service"],
            "summary": "One schema, without references; YAML where that is accepted",
            "x-monitor": False,
            "parameters": [
                _path("title", "Its title, with slashes"),
                _path("version", "Like 1.0.0, or latest"),
            ],
            "responses": {
                "200": {
                    "description": "JSON Schema",
                    "content": {
                        "application/json": content({"type": "object"}),
                        "application/yaml": content({"type": "object"}),
                    },
                },
                "304": {"description": "If-None-Match names what it is"},
                "404": _missing("There is no such schema, or the path has another shape"),
                "422": refused(
                    "The schema cannot be used: it is broken, or refers to itself; an operator "
                    "must act"
                ),
            },
        }
    },
}
