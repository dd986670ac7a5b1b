"""The tails of all partitions that can be read: which there are, and where each begins."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple

from eventstreams.errors import (
    LogCorrupt,
    LogUnavailable,
    OffsetOutOfRange,
    RecordsDamaged,
    UnknownTopic,
)
from eventstreams.fanout.tail import Run, Tail
from eventstreams.fanout.want import Want
from eventstreams.log.base import Log
from eventstreams.model.epochs import NO_EPOCH, NO_EPOCHS, Epochs
from eventstreams.model.event import Bounds, Event, Partition
from eventstreams.model.frame import Frame
from eventstreams.model.position import Position
from eventstreams.model.redaction import Redactions

_LOOK_BACK = 16
"""Offsets before an end within which its last record is looked for; transaction markers and holes
may lie in between."""
_LOOK_BACK_BYTES = 64 * 1024


class Found(NamedTuple):
    """What a look at the log found."""

    came: list[Partition]
    """Of new topics."""
    grew: list[Partition]
    """That known topics have gained."""
    gone: list[str]
    """Topics that do not exist any more, and still have tails."""
    missing: list[LogUnavailable]
    """Why there are partitions without a tail."""


class Tails:
    def __init__(self, *, log: Log, bytes_max: int) -> None:
        self.by_partition: dict[Partition, Tail] = {}
        self.missing: set[Partition] = set()
        """They exist, but have no tail yet: they could not be asked where they end."""
        self._gained: set[Partition] = set()
        """Of these, the ones that a known topic has gained, to be read from their first record."""
        self.redactions = Redactions()
        """Of what is read from here on, and of all that is held."""
        self._topics: dict[str, tuple[Partition, ...]] = {}
        self._log = log
        self._bytes_max = bytes_max

    def partitions(self, topic: str) -> tuple[Partition, ...]:
        """Ascending, also those that are out of reach; none where the topic does not exist."""
        return self._topics.get(topic, ())

    @property
    def known(self) -> set[Partition]:
        return self.by_partition.keys() | self.missing

    def of(self, partitions: Sequence[Partition]) -> list[Tail] | None:
        """Their tails, unless one is gone."""
        tails = [self.by_partition.get(partition) for partition in partitions]
        return None if None in tails else [tail for tail in tails if tail is not None]

    def now(self, partitions: tuple[Partition, ...]) -> Position:
        """Where they end. Raises LogUnavailable where one has no tail yet, UnknownTopic."""
        if missing := self.missing.intersection(partitions):
            raise LogUnavailable("partitions are out of reach", missing)
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
        """Where its tail ends; 0 where it has none."""
        tail = self.by_partition.get(partition)
        return tail.next if tail is not None else 0

    def floor(self, partition: Partition) -> int:
        """Where its tail begins; 0 where it has none."""
        tail = self.by_partition.get(partition)
        return tail.floor if tail is not None else 0

    def since(self, partition: Partition, offset: int) -> Run | None:
        """What its tail holds from `offset` on, if it reaches back that far."""
        tail = self.by_partition.get(partition)
        if tail is None or not tail.floor <= offset <= tail.next:
            return None
        return tail.since(offset)

    def epochs(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Of what is directly before the end of each tail, where it is known."""
        tails = [self.by_partition[p] for p in partitions if p in self.by_partition]
        known = {tail.partition: tail.epoch_before(tail.next) for tail in tails}
        return {partition: epoch for partition, epoch in known.items() if epoch != NO_EPOCH}

    def frames(self, events: Sequence[Event]) -> list[Frame]:
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
        """Keeps the sum within bounds at the cost of the largest; returns it, in bytes."""
        total = sum(tail.bytes for tail in self.by_partition.values())
        while total > self._bytes_max:
            largest = max(self.by_partition.values(), key=lambda tail: tail.bytes)
            before = largest.bytes
            largest.trim(before - (total - self._bytes_max))
            total -= before - largest.bytes
        return total

    def grown(self, want: Want, position: Position) -> tuple[Want, Position]:
        """With the partitions that its growing topics have gained, each at its first record."""
        partitions = list(want.partitions)
        offsets = dict(zip(want.partitions, position.offsets, strict=True))
        stamps = dict(zip(want.partitions, position.timestamps, strict=True))
        epochs = dict(zip(want.partitions, position.epochs, strict=True))
        for topic in dict.fromkeys(p.topic for p in want.partitions if p.topic in want.growing):
            after = max(i for i, p in enumerate(partitions) if p.topic == topic) + 1
            gained = [
                p for p in self.partitions(topic) if p not in offsets and p not in self.missing
            ]
            partitions[after:after] = gained
            for partition in gained:
                offsets[partition], stamps[partition], epochs[partition] = 0, 0, NO_EPOCH
        if len(partitions) == len(want.partitions):
            return want, position  # the same objects: thousands of clients hold them
        ordered = tuple(partitions)
        return want._replace(partitions=ordered), Position(
            ordered,
            tuple(offsets[p] for p in ordered),
            tuple(stamps[p] for p in ordered),
            tuple(epochs[p] for p in ordered),
        )

    async def refresh(self, topics: Collection[str]) -> Found:
        """Looks which partitions there are; those that cannot be asked where they end are left out,
        and are to be reached later. Raises LogUnavailable where the whole log is out of reach.
        """
        found = await self._log.partitions(topics)
        new = [p for mine in found.values() for p in mine if p not in self.known]
        gained = [p for p in new if p.topic in self._topics]
        made, errors = await self._make(new, gained)
        went = [topic for topic in self._topics if topic not in found]
        gone = [topic for topic in went if not await self._exists(topic)]
        # From here on nothing waits: all of it is seen, or nothing.
        came = [p for p in new if p.topic not in self._topics]
        self.missing.update(new)
        self._gained.update(gained)
        self._topics.update(found)
        self._add(made)
        added = {tail.partition for tail in made}
        return Found(
            [p for p in came if p in added], [p for p in gained if p in added], gone, errors
        )

    async def reach(self) -> list[Partition]:
        """Tries the missing ones again; returns those that have a tail now. Raises LogUnavailable
        where the whole log is out of reach."""
        made, _ = await self._make(sorted(self.missing), self._gained)
        made = [tail for tail in made if tail.partition in self.missing]  # others were dropped
        self._add(made)
        return [tail.partition for tail in made]

    def drop(self, topic: str) -> set[Partition]:
        """Forgets a topic; returns what its partitions were."""
        lost = set(self._topics.pop(topic, ()))
        for partition in lost:
            self.by_partition.pop(partition, None)
        self.missing -= lost
        self._gained -= lost
        return lost

    def skip(self, partition: Partition, offset: int) -> None:
        """Records of the tail are lost or damaged: empties it and continues at this offset."""
        self.by_partition[partition] = Tail(partition, offset, 0)

    def truncate(self, partition: Partition, end: int) -> None:
        """The log holds other records from `end` on: empties the tail and continues there."""
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
        """Their tails, as far as they can be reached, and why the others can't."""
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
                epochs = NO_EPOCHS  # a batch begins before the end and ends behind it
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
