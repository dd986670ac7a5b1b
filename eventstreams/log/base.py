"""The contract of a log: ordered, durable, partitioned events. One test suite checks all backends.

Logs have holes (compaction, transaction markers). The next offset to read is therefore
`Slice.next`, never the last event's offset plus one. `Slice.next` advances whenever the requested
offset is within bounds, even if no event was found; otherwise a reader would loop forever.

Every method may raise LogUnavailable unless its docstring excludes it. The condition is temporary:
call again later. If only some partitions are unreachable, the error names all those for which the
call has no answer, so that the caller can continue with the others. No call takes
longer than the backend's request timeout.
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
    """Events of one partition in offset order, and the offset to read next."""

    partition: Partition
    events: Sequence[Event]
    next: int
    epochs: Epochs = NO_EPOCHS
    """Epochs of the offsets that were read, including holes; empty if the log has no epochs."""


class Follower(Protocol):
    """Reads new events of many partitions as they arrive, each partition from a given offset."""

    async def next(self) -> list[Slice]:
        """Wait for new events; return at least one slice, and at most one for each partition.

        The slices of a partition join without a gap: each begins at the `next` of the previous one.
        Cancelling the call loses nothing. After each of these errors, call again:

        - LogUnavailable: the follower continues where it was. Unreachable partitions are reported
          from time to time, not at every call, and do not delay others.
        - UnknownTopic, UnknownPartition: the follower has dropped the topic or partition.
        - OffsetOutOfRange, RecordsDamaged: the follower has dropped the partition; `assign` it.
        - LogTruncated: the follower continues this partition at the error's `end`.
        """
        ...

    def assign(
        self, starts: Mapping[Partition, int], epochs: Mapping[Partition, int] = NOTHING_KNOWN
    ) -> None:
        """Add partitions, or move those that are followed already. Others do not change.

        `epochs` holds the epoch of the record before each start, if it is known.
        """
        ...

    def drop(self, partitions: Collection[Partition]) -> None:
        """Stop following these partitions; unknown ones are ignored."""
        ...

    async def aclose(self) -> None: ...


class Bookmark(Protocol):
    """Bytes that a log keeps under a name, and replaces in one transaction with records.

    A program that copies events from elsewhere keeps its progress there. A bookmark has one owner
    at a time: claiming it takes it from the previous owner, even one in another process.
    """

    @property
    def state(self) -> bytes | None:
        """The bytes last written, by this owner or an earlier one; None if there are none."""
        ...

    async def append(self, records: Sequence[Record], state: bytes) -> None:
        """Append all records and replace the state, durably: both are done, or neither.

        Every record must name its partition. Raises BookmarkLost if another owner has claimed the
        bookmark, or an error of `Log.append`; then neither was done. After LogUnavailable both may
        have been done: claim the bookmark again and compare its state.
        """
        ...

    async def aclose(self) -> None:
        """Release the owner's resources. The state is kept."""
        ...


class Log(Protocol):
    async def start(self) -> None:
        """Open the log. Must be called once, before all other methods.

        Raises LogUnavailable (call it again), LogCorrupt.
        """
        ...

    async def partitions(self, topics: Collection[str]) -> dict[str, tuple[Partition, ...]]:
        """Return the partitions of each topic in order; topics that do not exist are left out."""
        ...

    async def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        """Return the bounds of these partitions. Raises UnknownTopic, UnknownPartition."""
        ...

    async def offset_at(self, times: Mapping[Partition, int]) -> dict[Partition, int | None]:
        """Return the lowest offset of each partition whose timestamp is at or after a time in ms.

        It is None if there is no such record. Raises UnknownTopic, UnknownPartition.
        """
        ...

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        """Return events from `offset` on: about `max_bytes` of values, but at least one event.

        At the end of the partition the slice has no events, and `next == offset`. Raises
        OffsetOutOfRange (with bounds) below the oldest record or beyond the end, RecordsDamaged if
        the record at `offset` is damaged (the error has the offset at which to continue; records
        before a damaged one are returned first), UnknownTopic, UnknownPartition.
        """
        ...

    async def divergence(self, partition: Partition, offset: int, epoch: int) -> int | None:
        """Return the offset from which the log's records differ from those of a reader.

        The reader is at `offset`, and its last record has this epoch. Return None if the log holds
        the same records or cannot compare them. Raises OffsetOutOfRange, UnknownTopic,
        UnknownPartition.
        """
        ...

    def follow(
        self, starts: Mapping[Partition, int], epochs: Mapping[Partition, int] = NOTHING_KNOWN
    ) -> Follower:
        """Return a follower at these offsets; see `Follower.assign` for the arguments.

        Use one in each process. It reads nothing before its first `next`.
        """
        ...

    async def append(self, records: Sequence[Record]) -> list[Placed]:
        """Append the records in order per partition; return their places once they are durable.

        A record whose timestamp is more than `log.future_max_s` ahead is stored with the time of
        appending (see future.py).

        Raises AppendRefused, UnknownPartition, and UnknownTopic if topics are not created on first
        use.
        """
        ...

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        """Append as `append` does, but return one outcome for each record, in order.

        A rejected record does not affect the others. A record whose outcome is LogUnavailable may
        have been appended. Raises none of these errors.
        """
        ...

    async def create_topic(self, topic: str, partitions: int) -> None:
        """Create the topic, or add partitions to it; it may already have as many or more."""
        ...

    async def claim(self, name: str) -> Bookmark:
        """Claim the bookmark of this name; it is created if it does not exist.

        Names consist of letters, digits, `.`, `_` and `-`. Raises LogError.
        """
        ...

    async def aclose(self) -> None:
        """Finish the appends in progress, then release all resources. May be called twice."""
        ...
