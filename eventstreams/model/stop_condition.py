"""Defines where a bounded stream ends. Its ids keep this across reconnections.

A client that was disconnected returns with its first URL and the last id that it received. So that
`until=-15m`, `limit=10` and `max_seconds=60` keep their first meaning, the ids of such a stream
contain them, around the id of the position: `{"until":MS,"deadline":MS,"left":N,"id":[...]}`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import orjson

from eventstreams.errors import InvalidAssignment
from eventstreams.model.timestamp import iso_of

_INT64_MAX = 2**63 - 1


class StopCondition(NamedTuple):
    """Up to three bounds, of which the first that is reached ends the stream. None is no bound."""

    until_ms: int | None = None
    """The stream ends before the first record whose timestamp is at or after this time."""
    deadline_ms: int | None = None
    """The time at which the stream ends, by the gateway's clock."""
    remaining: int | None = None
    """The number of events that may still be sent."""

    def wrap(self, position_id: bytes) -> bytes:
        """Return the id of the bounded stream, around the id of the position."""
        fields = b"".join(
            b'"%b":%d,' % (name, value)
            for name, value in ((b"until", self[0]), (b"deadline", self[1]), (b"left", self[2]))
            if value is not None
        )
        inner = position_id if position_id.startswith(b"[") else b'"' + position_id + b'"'
        return b'{%b"id":%b}' % (fields, inner)

    def document(self) -> dict[str, Any]:
        """Return the bounds as JSON for people, with times in ISO 8601."""
        until, deadline = iso_of(self.until_ms), iso_of(self.deadline_ms)
        return {"until": until, "deadline": deadline, "events": self.remaining}


def unwrap(text: str) -> tuple[StopCondition | None, str]:
    """Return the stop condition of an id, if any, and the id of the position.

    Raises InvalidAssignment.
    """
    if not text.lstrip().startswith("{"):
        return None, text
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None, text  # parsing the id of the position reports it
    fields = cast("dict[str, Any]", document)
    inner = fields.get("id")
    if not inner or not isinstance(inner, (str, list)):
        return None, text
    stop_condition = StopCondition(
        *(_number(fields, name) for name in ("until", "deadline", "left"))
    )
    return stop_condition, inner if isinstance(inner, str) else orjson.dumps(inner).decode()


def _number(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INT64_MAX:
        raise InvalidAssignment(
            f"{name} in the Last-Event-ID must be a whole number of at least 0",
            originalName="Error",
            assignments=None,
        )
    return value
