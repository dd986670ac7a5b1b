"""GET /v2/cursor?id=: what an id says, for a person. It reads nothing from the log."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.types import Receive, Scope, Send

from eventstreams.errors import ClientError, ServiceProblem
from eventstreams.model.event import Partition
from eventstreams.model.extent import unwrap
from eventstreams.model.instant import iso_of
from eventstreams.model.position import Mark, Position, parse_last_event_id
from eventstreams.model.token import is_token
from eventstreams.web.answers import answer, refuse

_MISSING = (
    "Give the id to explain as /v2/cursor?id=ID, percent-encoded: the id of an event, "
    "as a JSON array or as a token that begins with v1."
)


class CursorPage:
    """An ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            document = explain(_id(scope))
        except ClientError as error:
            await refuse(scope, send, [], error)
        else:
            await answer(send, 200, [], orjson.dumps(document), b"application/json")


def _id(scope: Scope) -> str:
    query: str = scope.get("query_string", b"").decode("latin-1")
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "id" and value.strip():
            return value.strip()
    raise ServiceProblem(_MISSING)


def explain(text: str) -> dict[str, Any]:
    """Raises InvalidAssignment, as a stream would."""
    extent, proper = unwrap(text)
    marks = parse_last_event_id(proper)
    short = is_token(proper)
    return {
        "form": "token v1" if short else "json",
        "size_bytes": len(text.encode()),
        "ends": None if extent is None else extent.document(),
        "partitions": [_partition(mark) for mark in marks],
        "other_form": _other_form(marks, short=short),
    }


def _partition(mark: Mark | str) -> dict[str, Any]:
    if isinstance(mark, str):  # a bare name: every partition, from now on
        mark_of_all = {"partition": None, "offset": None, "timestamp": None, "time": None}
        return {"topic": mark, **mark_of_all}
    return {
        "topic": mark.partition.topic,
        "partition": mark.partition.number,
        "offset": mark.offset,
        "timestamp": mark.timestamp_ms,
        "time": iso_of(mark.timestamp_ms),
    }


def _other_form(marks: tuple[Mark | str, ...], *, short: bool) -> dict[str, Any] | None:
    """None where the id is no position of ours: only those have both forms."""
    partitions: list[Partition] = []
    offsets: list[int] = []
    timestamps: list[int] = []
    for mark in marks:
        if isinstance(mark, str) or mark.timestamp_ms is None:
            return None
        if mark.offset is None or mark.offset < 0:
            return None
        partitions.append(mark.partition)
        offsets.append(mark.offset)
        timestamps.append(mark.timestamp_ms)
    position = Position(tuple(partitions), tuple(offsets), tuple(timestamps))
    other = position.encode_json() if short else position.encode_token()
    if other is None:
        return None
    return {
        "form": "json" if short else "token v1",
        "size_bytes": len(other),
        "id": other.decode(),
    }
