"""Records, and their places in a log.

Offsets are assigned by the log and are the only coordinate in the system: the log, the tails in
memory and the ids of clients all use the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Partition(NamedTuple):
    """A partition of a topic. Offsets order the records of one partition, and of no others."""

    topic: str
    number: int


class Bounds(NamedTuple):
    """The offsets that a partition holds: `oldest <= offset < end`; none if both are equal."""

    oldest: int
    end: int


class Event(msgspec.Struct, frozen=True, gc=False):
    """One record as its log holds it, with its bytes unparsed. `value` is None for a tombstone."""

    partition: Partition
    offset: int
    timestamp_ms: int
    value: bytes | None
    key: bytes | None = None
    place_span: int | None = None
    """Where the place goes in `value`, if the log knows; see `eventstreams.model.place`."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record to append.

    If `partition` is None, the log chooses one, by the key if there is a key. If `timestamp_ms` is
    None, the time of appending is used.
    """

    topic: str
    value: bytes | None
    key: bytes | None = None
    timestamp_ms: int | None = None
    partition: int | None = None
    place_span: int | msgspec.UnsetType | None = msgspec.UNSET
    """What `eventstreams.model.place.find_span` returns for the record, or None; unset if nobody
    has looked."""


class Placed(NamedTuple):
    """The place of an appended record."""

    partition: Partition
    offset: int
