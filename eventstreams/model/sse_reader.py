"""Read text/event-stream: bytes in, events out. No sockets, no clock.

The rules are those of HTML, "Interpreting an event stream"
(https://html.spec.whatwg.org/multipage/server-sent-events.html). How the bytes are cut into chunks
makes no difference. One reader serves one response; what a reconnect needs is in `last_event_id`
and `retry_ms`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from eventstreams.errors import SseEventTooLarge

CONTENT_TYPE = "text/event-stream"
EVENT_BYTES_MAX = 64 * 2**20
"""Far more than any log here takes as one record."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_RETRY_DIGITS_MAX = 15


class SseEvent(NamedTuple):
    event: str
    """The event type: `message` where the stream names none."""
    data: str
    """The data lines, with a line feed between them."""
    id: str
    """The last event id when this event was complete; empty where there was none."""


class SseReader:
    """The state of one event stream.

    `last_event_id` is the id to reconnect with: it changes with the blank line that ends a block,
    whether or not the block has data. `retry_ms` is the last reconnection time that was received.
    """

    def __init__(self, *, last_event_id: str = "", event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        """`last_event_id` is the one that the request carried. It holds until the server sends
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
        for line in self._lines(chunk):
            event = self._process(line)
            if event is not None:
                yield event

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that are complete. A CR ends its line at once, and a LF that follows it
        belongs to it, in whichever chunk it comes."""
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

    def _process(self, line: bytes) -> SseEvent | None:
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

    def _dispatch(self) -> SseEvent | None:
        self.last_event_id = self._id
        event, data = self._event, self._data
        self._event, self._data, self._data_bytes = "", [], 0
        if not data:
            return None
        text = b"\n".join(data).decode("utf-8", "replace")
        return SseEvent(event or "message", text, self._id)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._event_bytes_max:
            raise SseEventTooLarge(
                f"the stream has an event of more than {self._event_bytes_max:,} bytes"
            )


def is_event_stream(content_type: str | None) -> bool:
    """Whether a Content-Type names an event stream, whatever its parameters are."""
    essence = (content_type or "").partition(";")[0]
    return essence.strip(" \t").lower() == CONTENT_TYPE
