"""Reads a Last-Event-ID that a client sent, in any form that Wikimedia's service accepts.

An id may name thousands of partitions. It is read in steps, so that reading one does not hold the
event loop.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any, cast

import orjson

from eventstreams.errors import InvalidAssignment
from eventstreams.model import cursor_token
from eventstreams.model.epochs import EPOCH_MAX, NO_EPOCH
from eventstreams.model.event import Partition
from eventstreams.model.position import EARLIEST, LATEST, TAIL_BASE, PartitionCursor
from eventstreams.model.steps import finished
from eventstreams.model.timestamp import parse_timestamp

_STEP = 256
"""How many entries of an id are read in one step, which takes about a millisecond."""
_LATEST_ALIASES = (-1, -1000, -1001)
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def parse_last_event_id(
    text: str, entries_max: int = cursor_token.PARTITIONS_MAX
) -> tuple[PartitionCursor | str, ...]:
    """Do as `read_last_event_id` does, in a single step."""
    return finished(read_last_event_id(text, entries_max))


def read_last_event_id(
    text: str, entries_max: int = cursor_token.PARTITIONS_MAX
) -> Generator[None, None, tuple[PartitionCursor | str, ...]]:
    """Read a Last-Event-ID in any form that Wikimedia accepts; a bare string is a topic's name.

    Forms: an array of objects with `offset` or `timestamp` or both, an array of topic names, a
    JSON string "a,b", or a mixture; or a token. Raises InvalidAssignment. An id of many partitions
    is read in steps of a millisecond or two; one of few has a single step.
    """
    marks: list[PartitionCursor | str] = []
    if cursor_token.is_token(text):
        token_entries = yield from cursor_token.read_token(text, entries_max)
        for first in range(0, len(token_entries), _STEP):
            if first:
                yield
            marks += [PartitionCursor(*entry) for entry in token_entries[first : first + _STEP]]
        yield from _refuse_duplicates(marks, text)
        return tuple(marks)
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidAssignment(
            f"Failed parsing Last-Event-ID as JSON: {error}",
            originalName="SyntaxError",
            last_event_id=text,
        ) from None
    if isinstance(document, str):
        document = document.split(",")
    if not isinstance(document, list) or not document:
        raise _invalid("Last-Event-ID must be a non-empty JSON array", document)
    entries = cast("list[Any]", document)
    if len(entries) > entries_max:
        message = f"Last-Event-ID has {len(entries)} entries; the limit is {entries_max}"
        raise _invalid(message, None)
    for first in range(0, len(entries), _STEP):
        if first:
            yield
        marks += [_entry(entry, entries) for entry in entries[first : first + _STEP]]
    yield from _refuse_duplicates(marks, entries)
    return tuple(marks)


def _refuse_duplicates(marks: Sequence[PartitionCursor | str], document: Any) -> Generator[None]:
    seen: set[Partition | str] = set()
    for n, mark in enumerate(marks, 1):
        key = mark if isinstance(mark, str) else mark.partition
        if key in seen:
            name = key if isinstance(key, str) else f"{key.topic}/{key.number}"
            raise _invalid(f"{name} appears twice", document)
        seen.add(key)
        if n % _STEP == 0:
            yield


def _entry(entry: Any, document: Any) -> PartitionCursor | str:
    if isinstance(entry, str):
        if not entry:
            raise _invalid("a topic name is empty", document)
        return entry
    if not isinstance(entry, dict):
        raise _invalid("each entry must be an object or a topic name", document)
    fields = cast("dict[str, Any]", entry)
    topic = fields.get("topic")
    number = _integer(fields.get("partition"))
    if not isinstance(topic, str) or not topic:
        raise _invalid("each entry needs a topic name", document)
    if number is None:
        raise _invalid(f"the entry of {topic} needs a partition number", document)
    offset = timestamp_ms = None
    if fields.get("offset") is not None:
        offset = _offset(fields["offset"])
        if offset is None:
            raise _invalid(f"the offset of {topic}/{number} is not an offset", document)
    if fields.get("timestamp") is not None:
        timestamp_ms = _timestamp(fields["timestamp"])
        if timestamp_ms is None:
            raise _invalid(f"the timestamp of {topic}/{number} is not a time", document)
        if offset is None and timestamp_ms in (LATEST, EARLIEST):  # as Kafka's ListOffsets
            offset, timestamp_ms = timestamp_ms, None
    if offset is None and timestamp_ms is None:
        raise _invalid(f"the entry of {topic}/{number} needs an offset or a timestamp", document)
    epoch = _epoch(fields.get("epoch"))
    if epoch is None:
        raise _invalid(f"the epoch of {topic}/{number} is not an epoch", document)
    return PartitionCursor(Partition(topic, number), offset, timestamp_ms, epoch)


def _integer(value: Any) -> int | None:
    """JSON has one kind of number: 5.0 and 1e20 are integers, 5.5 and true are not.

    A number that does not fit in 64 bits becomes the nearest one that does: no log, and no encoder,
    has larger ones.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        return None
    return max(_INT64_MIN, min(value, _INT64_MAX))


def _epoch(value: Any) -> int | None:
    if value is None:
        return NO_EPOCH
    epoch = _integer(value)
    return epoch if epoch is not None and NO_EPOCH <= epoch <= EPOCH_MAX else None


def _offset(value: Any) -> int | None:
    offset = _integer(value)
    if offset is None or offset >= 0 or offset == EARLIEST or offset <= TAIL_BASE:
        return offset
    return LATEST if offset in _LATEST_ALIASES else None


def _timestamp(value: Any) -> int | None:
    if isinstance(value, str):
        return parse_timestamp(value)
    return _integer(value)


def _invalid(message: str, document: Any) -> InvalidAssignment:
    try:
        orjson.dumps([document])  # the body of the error is one level more
    except orjson.JSONEncodeError:
        document = None  # it nests deeper than can be written: no echo
    return InvalidAssignment(message, originalName="Error", assignments=document)
