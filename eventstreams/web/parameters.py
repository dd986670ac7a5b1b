"""The parameters of a stream, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": schema or {"type": "string"},
    }


_MORE = [
    _query(
        "filter",
        "Only events for which this CEL expression is true, like event.wiki == 'enwiki' && "
        "!event.bot; a field that is missing is no match",
        type="string",
        maxLength=2048,
    ),
    _query("fields", "Only these fields of each event, like title,user,meta.dt"),
    _query("sample", "A stable share of the events, by meta.id: above 0, at most 1", type="number"),
    _query(
        "canary",
        "Whether canary events, whose meta.domain is canary, are sent too",
        type="string",
        enum=["true", "false"],
        default="true",
    ),
    _query("until", "End at the first record of this time; forms as of since"),
    _query("limit", "End after so many events", type="integer", minimum=1),
    _query("max_seconds", "End after so many seconds", type="number"),
    _query(
        "heartbeat",
        "What a quiet stream carries: ids, so that the client's position moves, or comments; "
        "checkpoint for browsers, comment for others",
        type="string",
        enum=["checkpoint", "comment"],
    ),
    _query(
        "gap",
        "Where events are no longer kept: an event that says so, or 410",
        type="string",
        enum=["tell", "fail"],
    ),
    _query(
        "compress",
        "The content coding, where Accept-Encoding allows it; browsers get what they accept",
        type="string",
        enum=["gzip", "zstd", "none"],
    ),
]

_ID_DESCRIPTION = (
    "The id of the last event received: a JSON array of {topic, partition, offset, timestamp}, "
    "or a token (v1.…) where that would be longer than 1 KiB. "
    "It decides what is read, and from where; since is ignored then."
)
PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "Last-Event-ID",
        "in": "header",
        "description": _ID_DESCRIPTION,
        "schema": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["topic", "partition"],
                "properties": {
                    "topic": {"type": "string"},
                    "partition": {"type": "integer"},
                    "offset": {"type": "integer", "format": "int64"},
                    "timestamp": {"type": "integer", "format": "int64"},
                },
            },
        },
    },
    {
        "name": "since",
        "in": "query",
        "description": "Start at this time: milliseconds since 1970 in UTC, ISO 8601, a time ago "
        "like -15m, or earliest",
        "schema": {"type": "string"},
    },
    *_MORE,
    {
        "name": "Last-Event-ID",
        "in": "query",
        "description": "As the header, for clients that can't set one; the header wins",
        "schema": {"type": "string"},
    },
]
