"""How far a stream goes, where it does not go on for ever; and how an id remembers that.

A client that is cut comes back with the URL it first asked for and the last id it was sent. So that
`until=-15m`, `limit=10` and `max_seconds=60` keep meaning what they meant at first, the ids of such
a stream carry it, around the id proper: `{"until":MS,"deadline":MS,"left":N,"id":[...]}`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import orjson

from eventstreams.errors import InvalidAssignment
from eventstreams.model.instant import iso_of

_INT64_MAX = 2**63 - 1


class Extent(NamedTuple):
    """Whatever is reached first ends the stream. None: no such bound."""

    until_ms: int | None = None
    """Records from the first on whose time is at or after this are not sent."""
    deadline_ms: int | None = None
    """When, by the gateway's clock, the stream ends."""
    left: int | None = None
    """Events still to send."""

    def wrap(self, position_id: bytes) -> bytes:
        """The id of a bounded stream, around the one of an unbounded."""
        fields = b"".join(
            b'"%b":%d,' % (name, value)
            for name, value in ((b"until", self[0]), (b"deadline", self[1]), (b"left", self[2]))
            if value is not None
        )
        inner = position_id if position_id.startswith(b"[") else b'"' + position_id + b'"'
        return b'{%b"id":%b}' % (fields, inner)

    def document(self) -> dict[str, Any]:
        """For a person."""
        until, deadline = iso_of(self.until_ms), iso_of(self.deadline_ms)
        return {"until": until, "deadline": deadline, "events": self.left}


def unwrap(text: str) -> tuple[Extent | None, str]:
    """The extent that an id carries, and the id proper. Raises InvalidAssignment."""
    if not text.lstrip().startswith("{"):
        return None, text
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None, text  # said by whoever reads the id proper
    fields = cast("dict[str, Any]", document)
    inner = fields.get("id")
    if not inner or not isinstance(inner, (str, list)):
        return None, text
    extent = Extent(*(_number(fields, name) for name in ("until", "deadline", "left")))
    return extent, inner if isinstance(inner, str) else orjson.dumps(inner).decode()


def _number(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INT64_MAX:
        raise InvalidAssignment(
            f"{name} in the Last-Event-ID is not a whole number from 0 on",
            originalName="Error",
            assignments=None,
        )
    return value
