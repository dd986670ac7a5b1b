"""The values everything else speaks in: where a record lives, and the record.

Offsets are a log's own numbers and the only coordinate in the system: the same number indexes the
log, the tail in memory and the id a client carries.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Partition(NamedTuple):
    """The unit of order: offsets increase within a partition and mean nothing across them."""

    topic: str
    number: int


class Bounds(NamedTuple):
    """What a partition holds: `oldest <= offset < end`. Empty when both are equal."""

    oldest: int
    end: int


class Event(msgspec.Struct, frozen=True, gc=False):
    """One record as its log holds it, bytes unparsed. `value` is None for a tombstone."""

    partition: Partition
    offset: int
    timestamp_ms: int
    value: bytes | None
    key: bytes | None = None


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record to append. `partition` is a number, or None to let the log choose (by key if any).

    `timestamp_ms` None means the time of appending.
    """

    topic: str
    value: bytes | None
    key: bytes | None = None
    timestamp_ms: int | None = None
    partition: int | None = None


class Placed(NamedTuple):
    """Where an appended record went."""

    partition: Partition
    offset: int
