"""A mark of a client -> where to read on, in this log, now; and what it will miss, if anything.

The offset wins while it belongs to this log. It does not when it is out of range, or when the
record before it has another timestamp than the mark says (another cluster, a topic made anew): then
the timestamp finds the place. A timestamp of 0 is not known: the offset alone counts. Nothing jumps
in silence: where events may be missing there is a Gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eventstreams.errors import LogUnavailable, OffsetOutOfRange, RecordsDamaged, UnknownTopic
from eventstreams.fanout.history import History
from eventstreams.fanout.tail import Tail
from eventstreams.log.base import Log
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Bounds, Partition
from eventstreams.model.frame import Frame
from eventstreams.model.position import EARLIEST, LATEST, Mark, before_end

_RETENTION_SLACK_MS = 60_000
"""Records are not in order of time. Below the oldest kept offset, a mark is taken for one of
another log only where this log reaches back further than that before the mark's time."""
_ELECTION_SLACK_MS = 3_600_000
"""Records that replace lost ones are at most so much older than those, by their timestamps."""
_TRIES = 10


class Gap(NamedTuple):
    """What a client asked for and can't have."""

    partition: Partition
    requested: int
    available: Bounds
    resumed: int
    cause: str
    """retention, beyond_end, other_log, truncation or damaged"""

    def document(self) -> dict[str, Any]:
        return {
            "topic": self.partition.topic,
            "partition": self.partition.number,
            "requested": self.requested,
            "available": {"oldest": self.available.oldest, "end": self.available.end},
            "resumed": self.resumed,
            "cause": self.cause,
        }


def gap_document(gaps: list[Gap]) -> dict[str, Any]:
    """The data of an `event: gap` frame."""
    return {
        "message": "Some events between the requested and the resumed offsets may be missing",
        "partitions": [gap.document() for gap in gaps],
    }


class Resumed(NamedTuple):
    offset: int
    timestamp_ms: int
    """Of the record before `offset`, or a time that finds the same place."""
    gap: Gap | None = None
    epoch: int = NO_EPOCH
    """Of what is directly before `offset`; NO_EPOCH where that is not known."""


class Resumer:
    """All methods may raise LogError: LogUnavailable, UnknownTopic, UnknownPartition."""

    def __init__(self, *, log: Log, history: History, tails: Mapping[Partition, Tail]) -> None:
        self._log = log
        self._history = history
        self._tails = tails

    def is_near(self, mark: Mark) -> bool:
        """Whether the tail alone knows the answer."""
        tail = self._tail(mark.partition)
        if mark.offset is None or mark.offset == LATEST:
            return mark.offset is not None
        known = mark.epoch in (NO_EPOCH, tail.epoch_before(mark.offset))
        return tail.knows(mark.offset) and known

    async def resume(self, mark: Mark) -> Resumed:
        """The partition must have a tail."""
        overtaken: OffsetOutOfRange | None = None
        for _ in range(_TRIES):
            try:
                return await self._resume(mark)
            except OffsetOutOfRange as error:  # retention was at work in between: look again
                overtaken = error
        assert overtaken is not None
        raise LogUnavailable(f"{overtaken}; it was there just now", [overtaken.partition])

    async def _resume(self, mark: Mark) -> Resumed:
        partition, offset, timestamp_ms, epoch = mark
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
                return await self._diverged(mark, end)
        return await self._at_offset(partition, offset, timestamp_ms, epoch)

    def latest(self, partition: Partition) -> Resumed:
        tail = self._tail(partition)
        return Resumed(tail.next, tail.timestamp_ms, epoch=tail.epoch_before(tail.next))

    async def at_time(self, partition: Partition, timestamp_ms: int) -> Resumed:
        """The first record at or after a time; the end where there is none."""
        found = (await self._log.offset_at({partition: timestamp_ms}))[partition]
        if found is None:
            return self.latest(partition)
        return Resumed(found, timestamp_ms)

    async def _divergence(self, partition: Partition, offset: int, epoch: int) -> int | None:
        """Where the log parts from what was read before `offset`; None where it does not."""
        tail = self._tail(partition)
        try:
            if tail.knows(offset):
                before = tail.epoch_before(offset)
            else:
                before = await self._history.epoch_before(partition, offset)
        except OffsetOutOfRange:
            before = NO_EPOCH
        if before == epoch:
            return None
        try:
            return await self._log.divergence(partition, offset, epoch)
        except OffsetOutOfRange:  # the timestamp has to find the place
            return None

    async def _diverged(self, mark: Mark, end: int) -> Resumed:
        """The log lost records from `end` on that were read; or it is another log.

        It is taken for another one where it holds, in their place, records that are much older.
        """
        partition, offset, timestamp_ms, _ = mark
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
        """Time in ms of the first record at or behind `offset`."""
        if offset >= bounds.end:
            return None
        first = await self._first_frame(partition, offset)
        return first[0].timestamp_ms if first else None

    async def truncated(self, partition: Partition, offset: int, end: int) -> Resumed:
        """Where a reader at `offset` continues when the log was rewritten from `end` on."""
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
            if tail.knows(offset):
                before = tail.timestamp_before(offset)
            elif offset > tail.next and offset > (bounds := await self._bounds(partition)).end:
                return await self._beyond(partition, offset, timestamp_ms, bounds)
            elif offset > 0:
                before = await self._history.timestamp_before(partition, offset)
            if before is not None and timestamp_ms and before != timestamp_ms:
                first = await self._first_frame(partition, offset)
                if first and first[0].timestamp_ms == timestamp_ms:  # an id of after a gap
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
        if timestamp_ms:
            found = (await self._log.offset_at({partition: timestamp_ms}))[partition]
            if found is not None:
                told = found == bounds.oldest
                gap = Gap(partition, offset, bounds, found, "other_log") if told else None
                return Resumed(found, timestamp_ms, gap)
        end, stamp, *_ = self.latest(partition)
        return Resumed(end, stamp, Gap(partition, offset, bounds, end, "beyond_end"))

    async def _elsewhere(self, partition: Partition, offset: int, timestamp_ms: int) -> Resumed:
        bounds = await self._bounds(partition)
        found = await self.at_time(partition, timestamp_ms)
        if found.offset == bounds.oldest < bounds.end:
            return found._replace(gap=Gap(partition, offset, bounds, found.offset, "other_log"))
        return found

    async def _first_frame(self, partition: Partition, offset: int) -> Sequence[Frame]:
        """At most one; none where the record at `offset` is damaged."""
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
        if tail is None:  # dropped while something was awaited
            raise UnknownTopic(partition.topic)
        return tail

    async def _bounds(self, partition: Partition) -> Bounds:
        return (await self._log.bounds([partition]))[partition]
