"""GET /v2/cursor?id=: what an id says, for a person. It reads nothing from the log."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.types import Receive, Scope, Send

from eventstreams.errors import ClientError, ServiceProblem
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Partition
from eventstreams.model.extent import unwrap
from eventstreams.model.instant import iso_of
from eventstreams.model.position import Mark, Position, parse_last_event_id
from eventstreams.model.token import PREFIX_WITH_EPOCHS, is_token
from eventstreams.web.answers import answer, refuse

_PARTITIONS_MAX = 500
"""Explained at once, in about 5 ms. A token of 3 KB may name twenty times as many."""
_MISSING = (
    "Give the id to explain as /v2/cursor?id=ID, percent-encoded: the id of an event, "
    "as a JSON array or as a token that begins with v1. or v2."
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
    """Raises InvalidAssignment, as a stream would, and for an id of very many partitions."""
    extent, proper = unwrap(text)
    marks = parse_last_event_id(proper, _PARTITIONS_MAX)
    short = is_token(proper)
    return {
        "form": _form(proper) if short else "json",
        "size_bytes": len(text.encode()),
        "ends": None if extent is None else extent.document(),
        "partitions": [_partition(mark) for mark in marks],
        "other_form": _other_form(marks, short=short),
    }


def _form(position_id: str) -> str:
    return "token v2" if position_id.startswith(PREFIX_WITH_EPOCHS) else "token v1"


def _partition(mark: Mark | str) -> dict[str, Any]:
    if isinstance(mark, str):  # a bare name: every partition, from now on
        nothing = dict.fromkeys(("partition", "offset", "timestamp", "time", "epoch"))
        return {"topic": mark, **nothing}
    return {
        "topic": mark.partition.topic,
        "partition": mark.partition.number,
        "offset": mark.offset,
        "timestamp": mark.timestamp_ms,
        "time": iso_of(mark.timestamp_ms),
        "epoch": None if mark.epoch == NO_EPOCH else mark.epoch,
    }


def _other_form(marks: tuple[Mark | str, ...], *, short: bool) -> dict[str, Any] | None:
    """None where the id is no position of ours: only those have both forms."""
    partitions: list[Partition] = []
    offsets: list[int] = []
    timestamps: list[int] = []
    epochs: list[int] = []
    for mark in marks:
        if isinstance(mark, str) or mark.timestamp_ms is None:
            return None
        if mark.offset is None or mark.offset < 0:
            return None
        partitions.append(mark.partition)
        offsets.append(mark.offset)
        timestamps.append(mark.timestamp_ms)
        epochs.append(mark.epoch)
    position = Position(tuple(partitions), tuple(offsets), tuple(timestamps), tuple(epochs))
    other = position.encode_json() if short else position.encode_token()
    if other is None:
        return None
    return {
        "form": "json" if short else _form(other.decode()),
        "size_bytes": len(other),
        "id": other.decode(),
    }
