"""Resolves a client's cursor to the offset at which to continue, and to the gap before it, if any.

The offset decides as long as it belongs to this log. It does not if it is out of range, or if the
record before it has another timestamp than the cursor (another cluster, or a recreated topic): then
the timestamp decides. A timestamp of 0 means that it is not known, and only the offset counts.
Wherever events may be missing, the result has a Gap.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

from eventstreams.errors import LogUnavailable, OffsetOutOfRange, RecordsDamaged, UnknownTopic
from eventstreams.fanout.history import History
from eventstreams.fanout.tails import Tail
from eventstreams.log.base import Log
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Bounds, Partition
from eventstreams.model.frame import Frame
from eventstreams.model.position import EARLIEST, LATEST, PartitionCursor, before_end
from eventstreams.model.steps import finished

_RETENTION_SLACK_MS = 60_000
"""Records are not in order of time. A cursor below the oldest offset counts as one of another log
only if this log reaches back more than this before the cursor's time."""
_ELECTION_SLACK_MS = 3_600_000
"""How much older, by timestamp, records may be than the lost records that they replace."""
_TRIES = 10
_STEP = 256
"""How many gaps are described in one step, which takes less than a millisecond."""


class Gap(NamedTuple):
    """Events of a partition that a client asked for and that are not available."""

    partition: Partition
    requested: int
    available: Bounds
    resumed: int
    cause: str
    """retention, beyond_end, other_log, truncation or damaged"""

    def document(self) -> dict[str, Any]:
        """Return the gap as one entry of a gap document's `partitions`."""
        return {
            "topic": self.partition.topic,
            "partition": self.partition.number,
            "requested": self.requested,
            "available": {"oldest": self.available.oldest, "end": self.available.end},
            "resumed": self.resumed,
            "cause": self.cause,
        }


def gap_document(gaps: list[Gap]) -> dict[str, Any]:
    """Return the data of an `event: gap` frame."""
    return finished(gap_document_in_steps(gaps))


def gap_document_in_steps(gaps: list[Gap]) -> Generator[None, None, dict[str, Any]]:
    """Return the data of an `event: gap` frame, which may have gaps of very many partitions."""
    partitions: list[dict[str, Any]] = []
    for gap in gaps:
        if len(partitions) % _STEP == _STEP - 1:
            yield
        partitions.append(gap.document())
    return {
        "message": "Some events between the requested and the resumed offsets may be missing",
        "partitions": partitions,
    }


class Resumed(NamedTuple):
    """The place at which a client continues in a partition."""

    offset: int
    timestamp_ms: int
    """The timestamp of the record before `offset`, or a time that leads to the same place."""
    gap: Gap | None = None
    epoch: int = NO_EPOCH
    """The epoch directly before `offset`; NO_EPOCH if it is not known."""


class ResumeResolver:
    """Resolves cursors to offsets.

    All coroutines may raise LogError: LogUnavailable, UnknownTopic or UnknownPartition.
    """

    def __init__(self, *, log: Log, history: History, tails: Mapping[Partition, Tail]) -> None:
        self._log = log
        self._history = history
        self._tails = tails

    def is_near(self, cursor: PartitionCursor) -> bool:
        """Return whether the tail alone can resolve the cursor, without a read of the log."""
        tail = self._tail(cursor.partition)
        if cursor.offset is None or cursor.offset == LATEST:
            return cursor.offset is not None
        known = cursor.epoch in (NO_EPOCH, tail.epoch_before(cursor.offset))
        return tail.has_before(cursor.offset) and known

    async def resume(self, cursor: PartitionCursor) -> Resumed:
        """Return where to continue from a cursor. Its partition must have a tail."""
        overtaken: OffsetOutOfRange | None = None
        for _ in range(_TRIES):
            try:
                return await self._resume(cursor)
            except OffsetOutOfRange as error:  # retention removed records in between: try again
                overtaken = error
        assert overtaken is not None
        raise LogUnavailable(f"{overtaken}; it existed a moment ago", [overtaken.partition])

    async def _resume(self, cursor: PartitionCursor) -> Resumed:
        partition, offset, timestamp_ms, epoch = cursor
        if offset is None:
            assert timestamp_ms is not None
            return await self.at_time(partition, timestamp_ms)
        if offset == LATEST:
            return self.latest(partition)
        if offset == EARLIEST:
            return Resumed((await self._bounds(partition)).oldest, timestamp_ms or 0)
        last = before_end(offset)
        if last is not None:
            bounds = await self._bounds(partition)
            return await self._trusted(partition, max(bounds.oldest, bounds.end - last), 0)
        if epoch != NO_EPOCH and offset > 0:
            end = await self._divergence(partition, offset, epoch)
            if end is not None:
                return await self._diverged(cursor, end)
        return await self._at_offset(partition, offset, timestamp_ms, epoch)

    def latest(self, partition: Partition) -> Resumed:
        """Return the end of the partition's tail."""
        tail = self._tail(partition)
        return Resumed(tail.next, tail.timestamp_ms, epoch=tail.epoch_before(tail.next))

    async def at_time(self, partition: Partition, timestamp_ms: int) -> Resumed:
        """Return the first record at or after a time in ms, or the end if there is none."""
        return (await self.at_times({partition: timestamp_ms}))[partition]

    async def at_times(self, times: Mapping[Partition, int]) -> dict[Partition, Resumed]:
        """Return `at_time` for many partitions with one request to the log."""
        # The ends are read first: records appended during the request must not be skipped.
        latest = {partition: self.latest(partition) for partition in times}
        found = await self._log.offset_at(times)
        return {
            partition: latest[partition] if offset is None else Resumed(offset, times[partition])
            for partition, offset in found.items()
        }

    async def _divergence(self, partition: Partition, offset: int, epoch: int) -> int | None:
        """Return the offset from which the log differs from what was read before `offset`.

        Return None if it does not differ.
        """
        tail = self._tail(partition)
        try:
            if tail.has_before(offset):
                before = tail.epoch_before(offset)
            else:
                before = await self._history.epoch_before(partition, offset)
        except OffsetOutOfRange:
            before = NO_EPOCH
        if before == epoch:
            return None
        try:
            return await self._log.divergence(partition, offset, epoch)
        except OffsetOutOfRange:  # the timestamp must decide instead
            return None

    async def _diverged(self, cursor: PartitionCursor, end: int) -> Resumed:
        """Return where to continue if the log lost records from `end` on, or is another log.

        It counts as another log if the records that it holds in their place are much older.
        """
        partition, offset, timestamp_ms, _ = cursor
        assert offset is not None
        self._history.forget(partition)
        bounds = await self._bounds(partition)
        at = min(max(end, bounds.oldest), bounds.end)
        if timestamp_ms:
            first = await self._first_time(partition, at, bounds)
            if first is not None and first + _ELECTION_SLACK_MS < timestamp_ms:
                found = await self.at_time(partition, timestamp_ms)
                if await self._first_time(partition, found.offset, bounds) == timestamp_ms:
                    return found
                gap = Gap(partition, offset, bounds, found.offset, "other_log")
                return found._replace(gap=gap)
            place = (await self._log.offset_at({partition: timestamp_ms}))[partition]
            at = at if place is None else max(bounds.oldest, min(at, place))
        resumed = await self._trusted(partition, at, 0)
        return resumed._replace(gap=Gap(partition, offset, bounds, at, "truncation"))

    async def _first_time(self, partition: Partition, offset: int, bounds: Bounds) -> int | None:
        """Return the timestamp in ms of the first record at or after `offset`, or None."""
        if offset >= bounds.end:
            return None
        first = await self._first_frame(partition, offset)
        return first[0].timestamp_ms if first else None

    async def truncated(self, partition: Partition, offset: int, end: int) -> Resumed:
        """Return where a reader at `offset` continues after the log was rewritten from `end` on."""
        bounds = await self._bounds(partition)
        resumed = await self._trusted(partition, max(end, bounds.oldest), 0)
        gap = Gap(partition, offset, bounds, resumed.offset, "truncation")
        return resumed._replace(gap=gap)

    async def _at_offset(
        self, partition: Partition, offset: int, timestamp_ms: int | None, epoch: int
    ) -> Resumed:
        tail = self._tail(partition)
        before: int | None = None
        try:
            if tail.has_before(offset):
                before = tail.timestamp_before(offset)
            elif offset > tail.next and offset > (bounds := await self._bounds(partition)).end:
                return await self._beyond(partition, offset, timestamp_ms, bounds)
            elif offset > 0:
                before = await self._history.timestamp_before(partition, offset)
            if before is not None and timestamp_ms and before != timestamp_ms:
                first = await self._first_frame(partition, offset)
                if first and first[0].timestamp_ms == timestamp_ms:  # the id of a gap
                    return Resumed(offset, timestamp_ms)
                return await self._elsewhere(partition, offset, timestamp_ms)
        except OffsetOutOfRange:
            pass
        if before is None:
            bounds = await self._bounds(partition)
            if offset < bounds.oldest:
                return await self._below(partition, offset, timestamp_ms, bounds)
        time_ms = self._first(before, timestamp_ms, partition, offset)
        return Resumed(offset, time_ms, epoch=epoch)

    async def _trusted(self, partition: Partition, offset: int, otherwise_ms: int) -> Resumed:
        try:
            before = await self._history.timestamp_before(partition, offset) if offset else None
        except OffsetOutOfRange:
            before = None
        return Resumed(offset, otherwise_ms if before is None else before)

    async def _below(
        self, partition: Partition, offset: int, timestamp_ms: int | None, bounds: Bounds
    ) -> Resumed:
        oldest_ms = 0
        if bounds.oldest < bounds.end:
            oldest = await self._first_frame(partition, bounds.oldest)
            oldest_ms = oldest[0].timestamp_ms if oldest else 0
            if oldest and timestamp_ms and oldest_ms + _RETENTION_SLACK_MS < timestamp_ms:
                return await self.at_time(partition, timestamp_ms)
        gap = Gap(partition, offset, bounds, bounds.oldest, "retention")
        return Resumed(bounds.oldest, oldest_ms, gap)

    async def _beyond(
        self, partition: Partition, offset: int, timestamp_ms: int | None, bounds: Bounds
    ) -> Resumed:
        end, stamp, *_ = self.latest(partition)
        if timestamp_ms:
            found = (await self._log.offset_at({partition: timestamp_ms}))[partition]
            if found is not None:
                may_miss = found == bounds.oldest
                gap = Gap(partition, offset, bounds, found, "other_log") if may_miss else None
                return Resumed(found, timestamp_ms, gap)
        return Resumed(end, stamp, Gap(partition, offset, bounds, end, "beyond_end"))

    async def _elsewhere(self, partition: Partition, offset: int, timestamp_ms: int) -> Resumed:
        bounds = await self._bounds(partition)
        found = await self.at_time(partition, timestamp_ms)
        if found.offset == bounds.oldest < bounds.end:
            return found._replace(gap=Gap(partition, offset, bounds, found.offset, "other_log"))
        return found

    async def _first_frame(self, partition: Partition, offset: int) -> Sequence[Frame]:
        """Return at most one frame, and none if the record at `offset` is damaged."""
        try:
            return (await self._history.load(partition, offset)).frames[:1]
        except RecordsDamaged:
            return ()

    def _first(
        self, before: int | None, timestamp_ms: int | None, partition: Partition, offset: int
    ) -> int:
        if before is not None:
            return before
        if timestamp_ms is not None:
            return timestamp_ms
        tail = self._tail(partition)
        return tail.timestamp_ms if offset == tail.next else 0

    def _tail(self, partition: Partition) -> Tail:
        tail = self._tails.get(partition)
        if tail is None:  # the topic was dropped during an `await`
            raise UnknownTopic(partition.topic)
        return tail

    async def _bounds(self, partition: Partition) -> Bounds:
        return (await self._log.bounds([partition]))[partition]
