"""Writes and reads the text/event-stream format (Server-Sent Events).

The fields of a frame are event, data and id, in this order, then a blank line. The id comes last so
that a frame which was cut has no id: no client can keep the id of an event that it did not receive.
Wikimedia's service sends the id before the data, and several libraries lose events because of that.
Lines end in LF and there is no byte order mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from eventstreams.errors import SseEventTooLarge

CONTENT_TYPE = b"text/event-stream; charset=utf-8"
OK = b":ok\n\n"
"""The first bytes of a stream. The blank line also ends a partial frame of an earlier connection
that some clients keep."""
HEARTBEAT = b":\n"
"""A comment. No blank line follows it, because several libraries return an empty event for one."""

MESSAGE = b"event: message\ndata: "
ID = b"\nid: "
END = b"\n\n"


def control(event: str, document: dict[str, Any], position_id: bytes) -> bytes:
    """Return a control frame (`gap`, `error`, `caught-up`).

    It never contains bytes of a record.
    """
    data = orjson.dumps(document)
    return b"event: %b\ndata: %b\nid: %b\n\n" % (event.encode(), data, position_id)


def control_line(event: str, document: dict[str, Any], position_id: bytes) -> bytes:
    """Return a control frame as a line of NDJSON. Unlike an event, it has no `meta`."""
    return orjson.dumps({"event": event, **document, "id": position_id.decode()}) + b"\n"


def checkpoint(position_id: bytes) -> bytes:
    """Return a frame that has only an id. Browsers dispatch no event but resume from this id."""
    return b"id: %b\n\n" % position_id


def retry(delay_ms: int) -> bytes:
    """Return a retry line, for the end of a response. No blank line follows it, because several
    libraries would return an empty event."""
    return b"retry: %d\n" % delay_ms


MEDIA_TYPE = "text/event-stream"
EVENT_BYTES_MAX = 64 * 2**20
"""Far more than any of our logs accepts as one record."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_RETRY_DIGITS_MAX = 15


class SseEvent(NamedTuple):
    event: str
    """The event type; `message` if the stream has none."""
    data: str
    """The data lines, separated by line feeds."""
    id: str
    """The last event id when this event was complete; empty if there was none."""


class SseBytes(NamedTuple):
    """An `SseEvent` whose data is not decoded, for callers that pass it on unchanged."""

    event: str
    data: bytes
    id: str


class SseReader:
    """Reads one event stream, chunk by chunk.

    `last_event_id` is the id to reconnect with: it changes with the blank line that ends a block,
    whether or not the block has data. `retry_ms` is the last reconnection time that was received.
    """

    def __init__(self, *, last_event_id: str = "", event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        """`last_event_id` is the one that the request carried; it applies until the server sends
        another one."""
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None
        self._event_bytes_max = event_bytes_max
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._skips_line_feed = False
        self._is_first_line = True
        self._id = last_event_id
        self._event = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[SseEvent]:
        """Yield the events that `chunk` completes; consume the iterator before the next chunk.

        Raises SseEventTooLarge, after the events before the one that is too large.
        """
        for event, data, id_ in self.feed_bytes(chunk):
            yield SseEvent(event, data.decode("utf-8", "replace"), id_)

    def feed_bytes(self, chunk: bytes) -> Iterator[SseBytes]:
        """Do as `feed` does, without decoding the data."""
        for line in self._lines(chunk):
            event = self._process(line)
            if event is not None:
                yield event

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that are complete. A CR ends a line at once; an LF directly after it
        belongs to the same line end, even if it comes in the next chunk."""
        if self._skips_line_feed and chunk:
            self._skips_line_feed = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._skips_line_feed = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            whole = b"".join((*self._pending, line))
            self._pending, self._pending_bytes = [], 0
            self._check(len(whole))
            if self._is_first_line:
                self._is_first_line = False
                whole = whole.removeprefix(_BYTE_ORDER_MARK)
            yield whole
        if rest:
            self._pending.append(rest)
            self._pending_bytes += len(rest)
            self._check(self._pending_bytes)

    def _process(self, line: bytes) -> SseBytes | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
            self._check(self._data_bytes)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():
            self.retry_ms = int(value[:_RETRY_DIGITS_MAX])
        return None

    def _dispatch(self) -> SseBytes | None:
        self.last_event_id = self._id
        event, data = self._event, self._data
        self._event, self._data, self._data_bytes = "", [], 0
        if not data:
            return None
        return SseBytes(event or "message", b"\n".join(data), self._id)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._event_bytes_max:
            raise SseEventTooLarge(
                f"the stream has an event of more than {self._event_bytes_max:,} bytes"
            )


def is_event_stream(content_type: str | None) -> bool:
    """Whether a Content-Type names an event stream, whatever its parameters are."""
    essence = (content_type or "").partition(";")[0]
    return essence.strip(" \t").lower() == MEDIA_TYPE
