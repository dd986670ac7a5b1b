"""text/event-stream framing: what goes between the bytes of an event.

The order is event, data, id, blank line. With the id last, a frame that was cut in its middle has
no id, so no client can keep the id of an event it never got; upstream sends it before the data,
and several libraries lose events that way. Lines end in LF and there is no byte order mark.
"""

from __future__ import annotations

from typing import Any

import orjson

CONTENT_TYPE = b"text/event-stream; charset=utf-8"
OK = b":ok\n\n"
"""The first bytes. The blank line also ends a torn frame that a careless client still holds."""
HEARTBEAT = b":\n"
"""A comment without a blank line after it: with one, several libraries hand out an empty event."""

MESSAGE = b"event: message\ndata: "
ID = b"\nid: "
END = b"\n\n"


def control(event: str, document: dict[str, Any], position_id: bytes) -> bytes:
    """A frame of our own (`gap`, `error`); never holds bytes of a record."""
    data = orjson.dumps(document)
    return b"event: %b\ndata: %b\nid: %b\n\n" % (event.encode(), data, position_id)


def checkpoint(position_id: bytes) -> bytes:
    """Only an id: a browser keeps it and fires nothing, so it resumes here."""
    return b"id: %b\n\n" % position_id


def retry(delay_ms: int) -> bytes:
    """A bare retry line, to be the last of a response; as a frame it would be an empty event."""
    return b"retry: %d\n" % delay_ms
