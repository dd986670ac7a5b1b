"""Inserts a record's place into its JSON without parsing it again.

The line that clients get is the record's JSON with its topic, partition and offset in `meta`.
Making it means parsing the whole record, unless an earlier parse has found that the line equals the
value except for one span. A log that keeps the span can then provide the line by copying bytes.

A span is one integer: `start << 16 | end`. The bytes `value[start:end]` are replaced by the place.
If both are equal, the place is inserted there, after a comma.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import orjson

from eventstreams.model.event import Event, EventRun, Partition

SPAN_VALUE_BYTES_MAX = 32 * 1024
"""Larger values have no span: parsing them would take too long at the time of appending."""
_END_BITS = 16
_END_MAX = 2**_END_BITS - 1


def find_span(event: Event, line: bytes) -> int | None:
    """Return the span of the event's value with which `insert_place` makes `line`.

    Return None if no single span does, for example because the value has spaces between its tokens
    or its `meta` is missing.
    """
    value = event.value
    if value is None or len(value) > SPAN_VALUE_BYTES_MAX:
        return None
    try:
        place = _prefix(event.partition) + b"%d" % event.offset
    except orjson.JSONEncodeError:  # a topic with a lone surrogate
        return None
    at = line.find(place)
    end = len(value) - (len(line) - at - len(place))
    if at < 0 or not 0 <= end <= _END_MAX:
        return None
    span = min(at, end) << _END_BITS | end
    return span if insert_place(value, span, event.partition, event.offset) == line else None


@functools.lru_cache(maxsize=4096)
def span_at(offset: int) -> int:
    """Return the span for a place to insert after so many bytes of the value.

    Cached, so that thousands of records of the same shape share one integer.
    """
    return offset << _END_BITS | offset


def insert_place(value: bytes, span: int, partition: Partition, offset: int) -> bytes:
    """Return the value with its place at `span`."""
    start, end = span >> _END_BITS, span & _END_MAX
    place = _prefix(partition), b"%d" % offset
    if start == end:
        return b"".join((value[:start], b",", *place, value[end:]))
    return b"".join((value[:start], *place, value[end:]))


def insert_places(events: EventRun, before: bytes, after: bytes) -> Iterator[bytes]:
    """Yield each value as `insert_place` returns it, between `before` and `after`.

    `before` and `after` are format strings for `%`. `after` takes the offset of the next event and
    the timestamp.
    """
    form = b"%b%%b%%b%b%%d%%b%b" % (before, _prefix(events.partition).replace(b"%", b"%%"), after)
    offset = events.first
    for value, span, timestamp_ms in zip(
        events.values, events.place_spans, events.timestamps_ms, strict=True
    ):
        start, end = span >> _END_BITS, span & _END_MAX
        comma = b"," if start == end else b""
        yield form % (value[:start], comma, offset, value[end:], offset + 1, timestamp_ms)
        offset += 1


@functools.lru_cache(maxsize=4096)
def _prefix(partition: Partition) -> bytes:
    """Return the place up to the offset, as `frame.encode` writes it."""
    topic = orjson.dumps(partition.topic)
    return b'"topic":%b,"partition":%d,"offset":' % (topic, partition.number)
