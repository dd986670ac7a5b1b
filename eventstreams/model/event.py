"""Defines records and their places in a log.

Offsets are assigned by the log and are the only coordinate in the system: the log, the tails in
memory and the ids of clients all use the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, repeat
from typing import NamedTuple, overload

import msgspec


class Partition(NamedTuple):
    """A partition of a topic. Offsets order only the records within one partition."""

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
    """Where the place is inserted in `value`, if the log stored that; see `model/place.py`."""


class EventRun(Sequence[Event]):
    """Events at adjacent offsets of a partition. All have a place span, and none has a key."""

    __slots__ = ("first", "partition", "place_spans", "timestamps_ms", "values")

    def __init__(
        self,
        partition: Partition,
        first: int,
        timestamps_ms: Sequence[int],
        values: Sequence[bytes],
        place_spans: Sequence[int],
    ) -> None:
        """`first` is the offset of the first event. The columns have the same length."""
        self.partition = partition
        self.first = first
        self.timestamps_ms = timestamps_ms
        self.values = values
        self.place_spans = place_spans

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Event]:
        return map(
            Event,
            repeat(self.partition),
            count(self.first),
            self.timestamps_ms,
            self.values,
            repeat(None),
            self.place_spans,
        )

    @overload
    def __getitem__(self, at: int) -> Event: ...
    @overload
    def __getitem__(self, at: slice) -> EventRun: ...
    def __getitem__(self, at: int | slice) -> Event | EventRun:
        """Return an event, or a part without holes as a run."""
        if isinstance(at, slice):
            offsets = range(self.first, self.first + len(self))[at]
            assert offsets.step == 1
            return EventRun(
                self.partition,
                offsets.start,
                self.timestamps_ms[at],
                self.values[at],
                self.place_spans[at],
            )
        offset = range(self.first, self.first + len(self))[at]
        return Event(
            self.partition,
            offset,
            self.timestamps_ms[at],
            self.values[at],
            None,
            self.place_spans[at],
        )


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
    """The result of `eventstreams.model.place.find_span` for the record; UNSET if it was not
    called."""


class Placed(NamedTuple):
    """The place of an appended record."""

    partition: Partition
    offset: int
