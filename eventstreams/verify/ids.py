"""Parses ids in all forms that gateways send."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, cast

from eventstreams.errors import InvalidAssignment
from eventstreams.model.event import Partition
from eventstreams.model.last_event_id import parse_last_event_id
from eventstreams.model.position import PartitionCursor

TOKENS = ("v1.", "v2.")
"""The prefix of the compact form of long arrays, which docs/cursors.md describes."""


class Entry(NamedTuple):
    """The entry of one partition in an id. Has an `offset`, a `timestamp_ms` or both."""

    partition: Partition
    offset: int | None
    timestamp_ms: int | None


def parse_id(text: str) -> dict[Partition, Entry]:
    """Return the entries of an id by partition, in its order.

    Accepts a token, or a JSON array of objects with `topic`, `partition` and `offset`, `timestamp`
    or both. Raises ValueError.
    """
    if text.startswith(TOKENS):
        try:
            cursors = parse_last_event_id(text)
        except InvalidAssignment as error:
            raise ValueError(f"not a valid token: {error}") from error
        found = [Entry(*cursor[:3]) for cursor in cursors if isinstance(cursor, PartitionCursor)]
    else:
        try:
            document: Any = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from error
        if not isinstance(document, list) or not document:
            raise ValueError("not a JSON array with one object per partition")
        found = [_entry(each) for each in cast("list[Any]", document)]
    entries = {entry.partition: entry for entry in found}
    if len(entries) < len(found):
        raise ValueError("it names the same partition more than once")
    return entries


def named(partition: Partition) -> str:
    """Return a partition as evidence."""
    return f"partition {partition.number} of {partition.topic}"


def _entry(value: Any) -> Entry:
    if not isinstance(value, dict):
        raise ValueError("an element is not an object")
    fields = cast("dict[str, Any]", value)
    topic, number = fields.get("topic"), fields.get("partition")
    offset, timestamp_ms = fields.get("offset"), fields.get("timestamp")
    if not isinstance(topic, str) or not topic:
        raise ValueError("an element has no `topic`")
    if type(number) is not int or number < 0:
        raise ValueError("an element has no whole number as `partition`")
    for name, value_ in (("offset", offset), ("timestamp", timestamp_ms)):
        if value_ is not None and type(value_) is not int:
            raise ValueError(f"the `{name}` of an element is not a whole number")
    if offset is None and timestamp_ms is None:
        raise ValueError("an element has neither `offset` nor `timestamp`")
    return Entry(Partition(topic, number), offset, timestamp_ms)


def as_header(entries: list[Entry]) -> str:
    """Return a Last-Event-ID with these entries, in the form of EventStreams."""
    written: list[dict[str, Any]] = []
    for partition, offset, timestamp_ms in entries:
        fields: dict[str, Any] = {"topic": partition.topic, "partition": partition.number}
        if offset is not None:
            fields["offset"] = offset
        if timestamp_ms is not None:
            fields["timestamp"] = timestamp_ms
        written.append(fields)
    return json.dumps(written, separators=(",", ":"))
