"""Prepares events, once for all clients, in the form in which clients receive them.

The data of a frame is what follows `data: ` in Server-Sent Events, or a line of NDJSON: one line of
compact JSON with the record's place in `meta`. Records that cannot be sent (tombstones, bytes that
are not JSON, bare numbers and so on) have no data. They are skipped and counted, and the stream
continues.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

import orjson

from eventstreams.model.event import Event
from eventstreams.model.gap_marker import is_gap_marker, marker_document
from eventstreams.model.place import SPAN_VALUE_BYTES_MAX, insert_place, span_at
from eventstreams.model.redaction import Redaction, Redactions

# Clients that use str.splitlines() take these as line ends. JSON allows them raw; we escape them.
_LINE_SEPARATOR = (b"\xe2\x80\xa8", b"\\u2028")
_PARAGRAPH_SEPARATOR = (b"\xe2\x80\xa9", b"\\u2029")
_NEXT_LINE = (b"\xc2\x85", b"\\u0085")

FRAME_OVERHEAD_BYTES = 256
NO_REDACTIONS: Final = Redactions()


class Frame:
    """One event of a partition.

    `data` is made on first use; the raw record is released then. Redactions of the topic that are
    added later apply to it as well.
    """

    __slots__ = (
        *("_data", "_event", "_redaction", "_redactions", "gap"),
        *("offset", "partition", "size", "timestamp_ms"),
    )

    def __init__(self, event: Event, redactions: Redactions = NO_REDACTIONS) -> None:
        value = event.value
        self.partition = event.partition
        self.offset = event.offset
        self.timestamp_ms = event.timestamp_ms
        self.size = FRAME_OVERHEAD_BYTES + (0 if value is None else len(value))
        """The memory it takes in bytes, approximately. Limits on memory use it."""
        self.gap: dict[str, Any] | None = None
        """The report of missing events, if the record is a gap marker, which has no data."""
        self._event: Event | None = event
        self._data: bytes | None = None
        self._redactions = redactions
        self._redaction: Redaction | None = None
        """The redaction that was applied to the data."""
        if event.key is not None and is_gap_marker(event):
            self.gap = marker_document(event)
            self._event = None

    @property
    def data(self) -> bytes | None:
        """One line of JSON in UTF-8, or None if the record is not an event."""
        redaction = self._redactions.of(self.partition.topic)
        event = self._event
        if event is not None:
            span, value = event.place_span, event.value
            if span is not None and value is not None and redaction is None:
                self._data = insert_place(value, span, event.partition, event.offset)
            else:
                self._data = encode(event, redaction)
            self._event = None  # the raw bytes are not needed again
            self._redaction = redaction
        elif redaction is not self._redaction:
            if self._data is not None and redaction is not None:
                self._data = _redacted(self._data, redaction)
            self._redaction = redaction  # fields that an earlier redaction removed stay removed
        return self._data


def encode(event: Event, redaction: Redaction | None = None) -> bytes | None:
    """Return the event as one line of compact JSON with its place in `meta`.

    Return None if the record is not an event.
    """
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
    # A copy, because orjson returns its buffer of 8 KiB or more, and frames are kept.
    return bytes(memoryview(data if data.isascii() else escape_line_ends(data)))


_PLACE = {"topic": "", "partition": 0, "offset": 0}
_AT_THE_END = b',"topic":"","partition":0,"offset":0'


def span_of(document: dict[str, Any], value: bytes) -> int | None:
    """Return what `find_span` finds for a record without a key whose value is this document.

    It takes a third of the time, because the value need not be parsed. Return None if there is no
    span, and also if `meta` already has a topic, a partition or an offset.
    """
    meta = document.get("meta")
    if not meta or not isinstance(meta, dict) or len(value) > SPAN_VALUE_BYTES_MAX:
        return None
    fields = cast("dict[str, Any]", meta)
    if not _PLACE.keys().isdisjoint(fields):
        return None
    fields |= _PLACE
    try:
        line = orjson.dumps(document)
    except orjson.JSONEncodeError:
        return None
    finally:
        for name in _PLACE:
            del fields[name]
    # If they are also elsewhere, before this place, the rest does not equal the value.
    before, _, after = line.partition(_AT_THE_END)
    if before + after != value or not (value.isascii() or escape_line_ends(value) == value):
        return None
    return span_at(len(before))


def _insert_place(document: Any, event: Event) -> bool:
    """Set meta.topic, .partition, .offset and, if the record has a key, .key, as Wikimedia does.

    Return False if the document is not an event. An array is an event without a place.
    """
    if not isinstance(document, dict):
        return isinstance(document, list)
    fields = cast("dict[str, Any]", document)
    meta = fields.get("meta")
    if meta is None:
        fields["meta"] = meta = {}
    elif not isinstance(meta, dict):
        return False
    meta["topic"], meta["partition"] = event.partition
    meta["offset"] = event.offset
    if event.key is not None:
        meta["key"] = {"type": "Buffer", "data": list(event.key)}
    return True


def escape_line_ends(data: bytes) -> bytes:
    """Return the same JSON with the characters escaped that end a line for some clients."""
    # Single bytes are found many times faster than sequences, and the last ones are rare.
    if b"\xe2" in data and (b"\xa8" in data or b"\xa9" in data):
        data = data.replace(*_LINE_SEPARATOR).replace(*_PARAGRAPH_SEPARATOR)
    if b"\xc2" in data and b"\x85" in data:
        data = data.replace(*_NEXT_LINE)
    return data


def _redacted(data: bytes, redaction: Redaction) -> bytes | None:
    """Return the line without the fields that the redaction removes, or None if that fails."""
    try:
        document = json.loads(data)
        return dump_with_care(document) if redaction.apply(document) else data
    except (ValueError, RecursionError):  # send nothing rather than a field that must not be seen
        return None


def _encode_with_care(event: Event, value: bytes, redaction: Redaction | None) -> bytes | None:
    """Encode JSON that orjson rejects because of lone surrogates, which stay escaped."""
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
    """Return one line of JSON with lone surrogates escaped. Raises ValueError, RecursionError."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return escape_line_ends(text.encode("utf-8", "backslashreplace"))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
