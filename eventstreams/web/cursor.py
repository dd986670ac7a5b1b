"""Serves GET /v2/cursor?id=, which explains an id to a person, without reading the log."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eventstreams.errors import ServiceProblem
from eventstreams.model.cursor_token import PREFIX_WITH_EPOCHS, is_token
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Partition
from eventstreams.model.last_event_id import parse_last_event_id
from eventstreams.model.position import PartitionCursor, Position
from eventstreams.model.stop_condition import unwrap
from eventstreams.model.timestamp import iso_of
from eventstreams.web.query import Query

_PARTITIONS_MAX = 500
"""The most partitions that are explained, in about 5 ms. A token of 3 KB may name 20 times more."""
_MISSING = (
    "Pass the id to explain as /v2/cursor?id=ID, percent-encoded: the id of an event, "
    "as a JSON array or as a token that begins with v1. or v2."
)


def cursor_routes() -> list[Route]:
    return [Route("/v2/cursor", get_cursor)]


async def get_cursor(request: Request) -> Response:
    """Respond with the explanation. Raises InvalidParameter, ServiceProblem, and as `explain`."""
    query = Query(request.scope)
    query.expect(("id",))
    id_ = query.one("id")
    if id_ is None:
        raise ServiceProblem(_MISSING)
    document = explain(id_.strip())
    return Response(orjson.dumps(document), media_type="application/json")


def explain(text: str) -> dict[str, Any]:
    """Return the explanation of an id.

    Raises InvalidAssignment, as a stream would, and for an id of too many partitions.
    """
    stop_condition, proper = unwrap(text)
    cursors = parse_last_event_id(proper, _PARTITIONS_MAX)
    short = is_token(proper)
    return {
        "form": _form(proper) if short else "json",
        "size_bytes": len(text.encode()),
        "ends": None if stop_condition is None else stop_condition.document(),
        "partitions": [_partition(cursor) for cursor in cursors],
        "other_form": _other_form(cursors, short=short),
    }


def _form(position_id: str) -> str:
    return "token v2" if position_id.startswith(PREFIX_WITH_EPOCHS) else "token v1"


def _partition(cursor: PartitionCursor | str) -> dict[str, Any]:
    if isinstance(cursor, str):  # a bare topic name: all its partitions, from now on
        nothing = dict.fromkeys(("partition", "offset", "timestamp", "time", "epoch"))
        return {"topic": cursor, **nothing}
    return {
        "topic": cursor.partition.topic,
        "partition": cursor.partition.number,
        "offset": cursor.offset,
        "timestamp": cursor.timestamp_ms,
        "time": iso_of(cursor.timestamp_ms),
        "epoch": None if cursor.epoch == NO_EPOCH else cursor.epoch,
    }


def _other_form(
    cursors: tuple[PartitionCursor | str, ...], *, short: bool
) -> dict[str, Any] | None:
    """Return the id in its other form, or None if it is no position of our own."""
    partitions: list[Partition] = []
    offsets: list[int] = []
    timestamps: list[int] = []
    epochs: list[int] = []
    for cursor in cursors:
        if isinstance(cursor, str) or cursor.timestamp_ms is None:
            return None
        if cursor.offset is None or cursor.offset < 0:
            return None
        partitions.append(cursor.partition)
        offsets.append(cursor.offset)
        timestamps.append(cursor.timestamp_ms)
        epochs.append(cursor.epoch)
    position = Position(tuple(partitions), tuple(offsets), tuple(timestamps), tuple(epochs))
    other = position.encode_json() if short else position.encode_token()
    if other is None:
        return None
    return {
        "form": "json" if short else _form(other.decode()),
        "size_bytes": len(other),
        "id": other.decode(),
    }
