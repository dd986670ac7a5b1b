"""The Log: ordered, durable, partitioned events. One protocol, one contract suite for all backends.

What a reader gets wrong most easily: logs have holes (compaction, transaction markers), so the next
offset to read is `Slice.next`, never "last event's offset + 1", and `Slice.next` advances whenever
the offset asked for is within bounds, even when no event was found, else a reader would spin.

Every method may raise LogUnavailable (passing; call again later) unless it says otherwise. It names
the partitions it is about, where only they are out of reach: of those that a call asked for, all
that could not be answered for, so that the caller can go on with the rest. A backend bounds its own
waiting: no call hangs longer than the backend's request timeout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from eventstreams.errors import LogError
from eventstreams.model.epochs import NO_EPOCHS, Epochs
from eventstreams.model.event import Bounds, Event, Partition, Placed, Record

NOTHING_KNOWN: Mapping[Partition, int] = MappingProxyType({})


class Slice(NamedTuple):
    """A run of one partition: its events in offset order, and the offset to read next."""

    partition: Partition
    events: Sequence[Event]
    next: int
    epochs: Epochs = NO_EPOCHS
    """Of the leaders that wrote what was read, holes included. None where the log has no epochs."""


class Follower(Protocol):
    """Reads new events of many partitions as they arrive, each from a given offset on."""

    async def next(self) -> list[Slice]:
        """Waits for news and returns it: at least one slice, at most one per partition.

        Per partition the slices join without a gap: each begins where the last one's `next` was.
        Raises LogUnavailable (keep the follower and call again: it goes on where it was; partitions
        that are out of reach are named now and then, not at every call, and hold up no other),
        UnknownTopic or UnknownPartition (that partition, or all of that topic, is dropped from
        the follower first, the rest goes on), OffsetOutOfRange or RecordsDamaged (likewise
        dropped; `assign` it anew), LogTruncated (that partition goes on at the error's `end`).
        Cancelling a waiting `next` loses nothing.
        """
        ...

    def assign(
        self, starts: Mapping[Partition, int], epochs: Mapping[Partition, int] = NOTHING_KNOWN
    ) -> None:
        """Adds partitions, or moves those already followed. Others stay as they are.

        `epochs`: of the record before each start, where it is known.
        """
        ...

    def drop(self, partitions: Collection[Partition]) -> None:
        """Stops following these; unknown ones are ignored."""
        ...

    async def aclose(self) -> None: ...


class Log(Protocol):
    async def start(self) -> None:
        """Opens what must be open; called once, before all else. Raises LogUnavailable (may be
        called again), LogCorrupt."""
        ...

    async def partitions(self, topics: Collection[str]) -> dict[str, tuple[Partition, ...]]:
        """The partitions of each topic, ascending. A topic that does not exist is left out."""
        ...

    async def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        """Oldest kept and end offset. Raises UnknownTopic, UnknownPartition."""
        ...

    async def offset_at(self, times: Mapping[Partition, int]) -> dict[Partition, int | None]:
        """Per partition the offset of its first record, in offset order, whose timestamp is at or
        after the given time in ms; None where there is none. Raises UnknownTopic, UnknownPartition.
        """
        ...

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        """Events from `offset` on, about `max_bytes` of values, at least one if there is any.

        At the end: no events and `next == offset`. Raises OffsetOutOfRange (with bounds) below the
        oldest kept or beyond the end, RecordsDamaged where what is stored at `offset` is not what
        was appended (it says where to read on; records before it are returned first),
        UnknownTopic, UnknownPartition.
        """
        ...

    async def divergence(self, partition: Partition, offset: int, epoch: int) -> int | None:
        """Return where a reader at `offset`, whose last record has this epoch, and the log part.

        The log holds other records than the reader has read from there on. None where it holds the
        same, or can't tell. Raises OffsetOutOfRange, UnknownTopic, UnknownPartition.
        """
        ...

    def follow(
        self, starts: Mapping[Partition, int], epochs: Mapping[Partition, int] = NOTHING_KNOWN
    ) -> Follower:
        """A follower at these offsets, as `Follower.assign` takes them.

        One per process; nothing is read before its first `next`.
        """
        ...

    async def append(self, records: Sequence[Record]) -> list[Placed]:
        """Appends all, in order per partition, and returns where each went, once they are durable.

        A record whose timestamp is more than `log.future_max_s` ahead is stored with the time of
        appending (see future.py).

        Raises AppendRefused (nothing that is not durable was acknowledged), UnknownPartition, and
        UnknownTopic where topics are not made on first use.
        """
        ...

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        """Appends as `append` does, but each record has an outcome of its own, in their order.

        One that is refused does not hinder the others. One that is LogUnavailable may be in the
        log all the same. Raises none of these errors.
        """
        ...

    async def create_topic(self, topic: str, partitions: int) -> None:
        """Makes the topic, or adds partitions to it. Having as many or more already is no error."""
        ...

    async def aclose(self) -> None:
        """Finishes appends under way, then releases everything. May be called twice."""
        ...
