"""An event decoded once and encoded once, shared by everyone who gets it.

The bytes of a frame are what goes after `data: ` or on a line of NDJSON: one line of compact JSON
with the record's place in `meta`. What can't be sent (a tombstone, not JSON, a bare number) has no
bytes: it is passed over, and counted, without harm to the stream.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

import orjson

from eventstreams.model.event import Event
from eventstreams.model.redaction import Redaction, Redactions

# Line ends for clients that use str.splitlines(); JSON allows them raw, so we escape them.
_LINE_ENDS = (
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
    (b"\xc2\x85", b"\\u0085"),
)

_OVERHEAD_BYTES = 256
NO_REDACTIONS: Final = Redactions()


class Frame:
    """One event of a partition. `data` is made on first use and kept in place of the raw record;
    what the redactions of its topic take out is gone from it, also when they come later."""

    __slots__ = (
        *("_data", "_event", "_redaction", "_redactions"),
        *("offset", "partition", "size", "timestamp_ms"),
    )

    def __init__(self, event: Event, redactions: Redactions = NO_REDACTIONS) -> None:
        self.partition = event.partition
        self.offset = event.offset
        self.timestamp_ms = event.timestamp_ms
        self.size = len(event.value or b"") + _OVERHEAD_BYTES
        """About the memory it takes, in bytes; what bounds are kept in."""
        self._event: Event | None = event
        self._data: bytes | None = None
        self._redactions = redactions
        self._redaction: Redaction | None = None
        """What was applied to the data."""

    @property
    def data(self) -> bytes | None:
        """One line of JSON in UTF-8, or None where the record is not an event."""
        redaction = self._redactions.of(self.partition.topic)
        event = self._event
        if event is not None:
            self._data = encode(event, redaction)
            self._event = None  # the raw bytes are not needed twice
            self._redaction = redaction
        elif redaction is not self._redaction:
            if self._data is not None and redaction is not None:
                self._data = _redacted(self._data, redaction)
            self._redaction = redaction  # what an old one took out stays out of this frame
        return self._data


def encode(event: Event, redaction: Redaction | None = None) -> bytes | None:
    """The event as one line of compact JSON, its place inserted into `meta`; None if it is none."""
    value = event.value
    if not value:
        return None
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        return _encode_with_care(event, value, redaction)
    if not _insert_place(document, event):
        return None
    if redaction is not None:
        redaction.apply(document)
    try:
        data = orjson.dumps(document)
    except orjson.JSONEncodeError:
        return _encode_with_care(event, value, redaction)
    # A copy, because orjson leaves its answer in a buffer of 8 KiB or more, and frames are kept.
    return bytes(memoryview(escape_line_ends(data)))


def _insert_place(document: Any, event: Event) -> bool:
    """Sets meta.topic, .partition, .offset and, where the record has one, .key, as upstream does.

    False where the document is no event. An array is one, without a place.
    """
    if not isinstance(document, dict):
        return isinstance(document, list)
    fields = cast("dict[str, Any]", document)
    meta = fields.get("meta")
    if meta is None:
        fields["meta"] = meta = {}
    elif not isinstance(meta, dict):
        return False
    topic, number = event.partition
    meta["topic"] = topic
    meta["partition"] = number
    meta["offset"] = event.offset
    if event.key is not None:
        meta["key"] = {"type": "Buffer", "data": list(event.key)}
    return True


def escape_line_ends(data: bytes) -> bytes:
    """The same JSON without the characters that end a line for some clients."""
    if b"\xe2" in data or b"\xc2" in data:  # one byte is found many times faster than three
        for raw, escaped in _LINE_ENDS:
            data = data.replace(raw, escaped)
    return data


def _redacted(data: bytes, redaction: Redaction) -> bytes | None:
    """The same line without what is to be taken out."""
    try:
        document = json.loads(data)
        return dump_with_care(document) if redaction.apply(document) else data
    except (ValueError, RecursionError):  # rather nothing than what should not be seen
        return None


def _encode_with_care(event: Event, value: bytes, redaction: Redaction | None) -> bytes | None:
    """For JSON that the fast parser refuses: lone surrogates, which stay escaped."""
    try:
        document = json.loads(value, parse_constant=_refuse)
        if not _insert_place(document, event):
            return None
        if redaction is not None:
            redaction.apply(document)
        return dump_with_care(document)
    except (ValueError, RecursionError):
        return None


def dump_with_care(document: Any) -> bytes:
    """One line of JSON, lone surrogates escaped. Raises ValueError, RecursionError."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return escape_line_ends(text.encode("utf-8", "backslashreplace"))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
