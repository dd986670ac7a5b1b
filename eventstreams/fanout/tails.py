"""Keeps the newest frames of every partition in memory."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import NamedTuple

from eventstreams.errors import (
    LogCorrupt,
    LogUnavailable,
    OffsetOutOfRange,
    RecordsDamaged,
    UnknownTopic,
)
from eventstreams.fanout.spec import SubscriptionSpec
from eventstreams.log.base import Log
from eventstreams.model.epochs import NO_EPOCH, NO_EPOCHS, Epochs
from eventstreams.model.event import Bounds, Event, Partition
from eventstreams.model.frame import Frame
from eventstreams.model.position import Position
from eventstreams.model.redaction import Redactions


class TailSlice(NamedTuple):
    """All frames of one partition from a requested offset up to, not including, `next`."""

    frames: Sequence[Frame]
    next: int
    epochs: Epochs = NO_EPOCHS
    """The epochs of these frames, and of earlier records as far as they are known."""
    last_epoch: int = NO_EPOCH
    """The epoch directly before `next`; NO_EPOCH if it is not known."""


class Tail:
    """The newest frames of one partition, from offset `floor` up to, not including, `next`."""

    def __init__(
        self, partition: Partition, next_offset: int, timestamp_ms: int, epochs: Epochs = NO_EPOCHS
    ) -> None:
        """Create an empty tail at `next_offset`.

        `timestamp_ms` is the timestamp of the newest record before it, 0 if that is not known.
        `epochs` are the epochs before it, as far as they are known.
        """
        self.epochs = epochs
        self.truncated_at: int | None = None
        """The offset at which the log was last truncated, if it was."""
        self.partition = partition
        self.floor = next_offset
        self.next = next_offset
        self.timestamp_ms = timestamp_ms
        self.bytes = 0
        self.is_trimmed = False
        """Whether older frames have been dropped."""
        self._frames: list[Frame] = []
        self._offsets: list[int] = []

    def append(self, frames: Sequence[Frame], next_offset: int, epochs: Epochs = NO_EPOCHS) -> None:
        """Append `frames`, whose offsets are at least `next` and below `next_offset`."""
        assert self.next <= next_offset
        for frame in frames:
            self._offsets.append(frame.offset)
            self.bytes += frame.size
        self._frames.extend(frames)
        self.next = next_offset
        self.epochs = self.epochs.then(epochs)
        if frames:
            self.timestamp_ms = frames[-1].timestamp_ms

    def __len__(self) -> int:
        return len(self._frames)

    def has_before(self, offset: int) -> bool:
        """Return whether it is known which record comes before `offset`."""
        return self.floor < offset <= self.next or offset == self.next

    def timestamp_before(self, offset: int) -> int | None:
        """Return the timestamp in ms of the record before `offset`, or None if not known."""
        if offset == self.next:
            return self.timestamp_ms or None
        i = bisect_left(self._offsets, offset)
        return self._frames[i - 1].timestamp_ms if i and offset > self.floor else None

    def epoch_before(self, offset: int) -> int:
        """Return the epoch of the record directly before `offset`, or NO_EPOCH if not known."""
        if offset == self.next:
            return self.epochs.at(offset - 1)
        i = bisect_left(self._offsets, offset - 1)
        held = i < len(self._offsets) and self._offsets[i] == offset - 1
        return self.epochs.at(offset - 1) if held else NO_EPOCH

    def since(self, offset: int) -> TailSlice:
        """Return all frames from `offset` on, which must be between `floor` and `next`."""
        assert self.floor <= offset <= self.next
        frames = self._frames[bisect_left(self._offsets, offset) :]
        return TailSlice(frames, self.next, self.epochs, self.epochs.at(self.next - 1))

    def trim(self, bytes_max: int) -> None:
        """Drop the oldest frames until the rest take at most `bytes_max` bytes."""
        dropped = 0
        while self.bytes > bytes_max and dropped < len(self._frames):
            self.bytes -= self._frames[dropped].size
            dropped += 1
        if dropped:
            self.is_trimmed = True
            self.floor = self._offsets[dropped - 1] + 1
            del self._frames[:dropped]
            del self._offsets[:dropped]


_LOOK_BACK = 16
"""How many offsets before a partition's end its last record is searched for. Transaction markers
and holes may follow that record."""
_LOOK_BACK_BYTES = 64 * 1024


class Found(NamedTuple):
    """The changes that `refresh` found in the log."""

    new: list[Partition]
    """Partitions of new topics."""
    added: list[Partition]
    """New partitions of known topics."""
    gone: list[str]
    """Topics that no longer exist but still have tails."""
    missing: list[LogUnavailable]
    """The errors because of which partitions have no tail yet."""


class Tails:
    """The tails of all partitions that can be read, limited to `bytes_max` bytes in total."""

    def __init__(self, *, log: Log, bytes_max: int) -> None:
        self.by_partition: dict[Partition, Tail] = {}
        self.missing: set[Partition] = set()
        """Partitions that exist but have no tail yet, because their ends could not be read."""
        self._gained: set[Partition] = set()
        """The part of `missing` that known topics have gained, read from the first record on."""
        self.redactions = Redactions()
        """The redactions of all frames, both held and still to be read."""
        self._topics: dict[str, tuple[Partition, ...]] = {}
        self._log = log
        self._bytes_max = bytes_max

    def partitions(self, topic: str) -> tuple[Partition, ...]:
        """Return the topic's partitions in order, including unreachable ones.

        Return an empty tuple if the topic does not exist.
        """
        return self._topics.get(topic, ())

    @property
    def known(self) -> set[Partition]:
        """All partitions that exist, with or without a tail."""
        return self.by_partition.keys() | self.missing

    def of(self, partitions: Sequence[Partition]) -> list[Tail] | None:
        """Return the tails of these partitions, or None if one has no tail."""
        tails = [self.by_partition.get(partition) for partition in partitions]
        return None if None in tails else [tail for tail in tails if tail is not None]

    def now(self, partitions: tuple[Partition, ...]) -> Position:
        """Return the position at the ends of these partitions.

        Raises LogUnavailable if one has no tail yet, UnknownTopic if one does not exist.
        """
        if missing := self.missing.intersection(partitions):
            raise LogUnavailable("partitions are unreachable", missing)
        tails = self.of(partitions)
        if tails is None:
            raise UnknownTopic(next(p.topic for p in partitions if p not in self.by_partition))
        return Position(
            partitions,
            tuple(tail.next for tail in tails),
            tuple(tail.timestamp_ms for tail in tails),
            tuple(tail.epoch_before(tail.next) for tail in tails),
        )

    def end(self, partition: Partition) -> int:
        """Return the offset at which the partition's tail ends, or 0 if it has none."""
        tail = self.by_partition.get(partition)
        return tail.next if tail is not None else 0

    def floor(self, partition: Partition) -> int:
        """Return the offset at which the partition's tail begins, or 0 if it has none."""
        tail = self.by_partition.get(partition)
        return tail.floor if tail is not None else 0

    def since(self, partition: Partition, offset: int) -> TailSlice | None:
        """Return the tail's frames from `offset` on, or None if it does not hold that offset."""
        tail = self.by_partition.get(partition)
        if tail is None or not tail.floor <= offset <= tail.next:
            return None
        return tail.since(offset)

    def epochs(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Return the epoch directly before the end of each tail, where it is known."""
        tails = [self.by_partition[p] for p in partitions if p in self.by_partition]
        known = {tail.partition: tail.epoch_before(tail.next) for tail in tails}
        return {partition: epoch for partition, epoch in known.items() if epoch != NO_EPOCH}

    def frames(self, events: Sequence[Event]) -> list[Frame]:
        """Return these events as frames, with the current redactions."""
        return [Frame(event, self.redactions) for event in events]

    def append(
        self,
        partition: Partition,
        frames: Sequence[Frame],
        following: int,
        epochs: Epochs = NO_EPOCHS,
    ) -> None:
        tail = self.by_partition.get(partition)
        if tail is not None:
            tail.append(frames, following, epochs)

    def trim(self) -> int:
        """Trim the largest tails until the total is within the limit; return it in bytes."""
        total = sum(tail.bytes for tail in self.by_partition.values())
        while total > self._bytes_max:
            largest = max(self.by_partition.values(), key=lambda tail: tail.bytes)
            before = largest.bytes
            largest.trim(before - (total - self._bytes_max))
            total -= before - largest.bytes
        return total

    def grown(
        self, spec: SubscriptionSpec, position: Position
    ) -> tuple[SubscriptionSpec, Position]:
        """Return spec and position with the partitions that growing topics have gained, at their
        first records."""
        held = set(spec.partitions)
        gained_by = {
            topic: [p for p in self.partitions(topic) if p not in held and p not in self.missing]
            for topic in spec.growing
        }
        if not any(gained_by.values()):
            return spec, position  # the same objects, which thousands of clients share
        partitions = list(spec.partitions)
        offsets = dict(zip(spec.partitions, position.offsets, strict=True))
        stamps = dict(zip(spec.partitions, position.timestamps, strict=True))
        epochs = dict(zip(spec.partitions, position.epochs, strict=True))
        for topic in dict.fromkeys(p.topic for p in spec.partitions if p.topic in spec.growing):
            after = max(i for i, p in enumerate(partitions) if p.topic == topic) + 1
            gained = gained_by[topic]
            partitions[after:after] = gained
            for partition in gained:
                offsets[partition], stamps[partition], epochs[partition] = 0, 0, NO_EPOCH
        ordered = tuple(partitions)
        return spec._replace(partitions=ordered), Position(
            ordered,
            tuple(offsets[p] for p in ordered),
            tuple(stamps[p] for p in ordered),
            tuple(epochs[p] for p in ordered),
        )

    async def refresh(self, topics: Collection[str]) -> Found:
        """Update the partitions of these topics from the log.

        Partitions whose ends cannot be read become `missing`; `reach` tries them again. Raises
        LogUnavailable if the whole log is unreachable.
        """
        found = await self._log.partitions(topics)
        new = [p for mine in found.values() for p in mine if p not in self.known]
        gained = [p for p in new if p.topic in self._topics]
        made, errors = await self._make(new, gained)
        went = [topic for topic in self._topics if topic not in found]
        gone = [topic for topic in went if not await self._exists(topic)]
        # There is no `await` from here on, so that others see all of the change or none of it.
        of_new = [p for p in new if p.topic not in self._topics]
        self.missing.update(new)
        self._gained.update(gained)
        self._topics.update(found)
        self._add(made)
        added = {tail.partition for tail in made}
        return Found(
            [p for p in of_new if p in added],
            [p for p in gained if p in added],
            gone,
            errors,
        )

    async def reach(self) -> list[Partition]:
        """Try to create the missing tails; return the partitions for which that succeeded.

        Raises LogUnavailable if the whole log is unreachable.
        """
        made, _ = await self._make(sorted(self.missing), self._gained)
        made = [tail for tail in made if tail.partition in self.missing]  # others were dropped
        self._add(made)
        return [tail.partition for tail in made]

    def drop(self, topic: str) -> set[Partition]:
        """Remove a topic and its tails; return its partitions."""
        lost = set(self._topics.pop(topic, ()))
        for partition in lost:
            self.by_partition.pop(partition, None)
        self.missing -= lost
        self._gained -= lost
        return lost

    def skip(self, partition: Partition, offset: int) -> None:
        """Replace the tail with an empty one at `offset`, because records were lost or damaged."""
        self.by_partition[partition] = Tail(partition, offset, 0)

    def truncate(self, partition: Partition, end: int) -> None:
        """Replace the tail with an empty one at `end`, from where the log has other records."""
        before = self.by_partition[partition]
        tail = Tail(partition, end, 0, before.epochs.before(end))
        tail.truncated_at = end
        self.by_partition[partition] = tail

    def _add(self, made: list[Tail]) -> None:
        for tail in made:
            self.by_partition[tail.partition] = tail
        self.missing.difference_update(self.by_partition)
        self._gained &= self.missing

    async def _make(
        self, partitions: Sequence[Partition], gained: Collection[Partition]
    ) -> tuple[list[Tail], list[LogUnavailable]]:
        """Return the tails of the reachable partitions, and the errors of the others."""
        bounds: dict[Partition, Bounds] = {}
        errors: list[LogUnavailable] = []
        left = list(partitions)
        while left and not bounds:
            try:
                bounds = await self._log.bounds(left)
            except LogUnavailable as error:
                if error.partitions.isdisjoint(left):
                    raise
                errors.append(error)
                left = [p for p in left if p not in error.partitions]
        made = await asyncio.gather(
            *(self._tail(p, bounds[p], at_end=p not in gained) for p in left)
        )
        errors += [each for each in made if isinstance(each, LogUnavailable)]
        return [each for each in made if isinstance(each, Tail)], errors

    async def _tail(
        self, partition: Partition, bounds: Bounds, *, at_end: bool
    ) -> Tail | LogUnavailable:
        if not at_end:
            return Tail(partition, bounds.oldest, 0)
        try:
            return await self._at_end(partition, bounds)
        except LogUnavailable as error:
            if partition not in error.partitions:
                raise
            return error
        except (OffsetOutOfRange, LogCorrupt) as error:
            return LogUnavailable(str(error), [partition])

    async def _at_end(self, partition: Partition, bounds: Bounds) -> Tail:
        begin = max(bounds.oldest, bounds.end - _LOOK_BACK)
        timestamp_ms = 0
        epochs = NO_EPOCHS
        while begin < bounds.end:
            try:
                found = await self._log.read(partition, begin, _LOOK_BACK_BYTES)
            except RecordsDamaged as error:
                begin, timestamp_ms = error.next, 0
                continue
            before = [event for event in found.events if event.offset < bounds.end]
            timestamp_ms = before[-1].timestamp_ms if before else timestamp_ms
            if found.next <= bounds.end or any(e.offset == bounds.end - 1 for e in before):
                epochs = epochs.then(found.epochs)
            else:
                epochs = NO_EPOCHS  # a batch begins before the end and ends after it
            if found.next <= begin:
                break
            begin = found.next
        if begin < bounds.end:
            epochs = NO_EPOCHS
        return Tail(partition, bounds.end, timestamp_ms, epochs.before(bounds.end))

    async def _exists(self, topic: str) -> bool:
        try:
            await self._log.bounds(self._topics[topic][:1])
        except UnknownTopic:
            return False
        except LogUnavailable as error:
            if not error.partitions:
                raise
        return True
