"""A log in memory: a simple implementation with which the other logs must agree."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence

from eventstreams.errors import (
    BookmarkLost,
    LogError,
    OffsetOutOfRange,
    RecordsDamaged,
    UnknownPartition,
    UnknownTopic,
)
from eventstreams.log.base import NOTHING_KNOWN, Slice
from eventstreams.log.embedded import EmbeddedBookmark, Partitioner, entry_of
from eventstreams.log.future import FutureLimit
from eventstreams.model.event import Bounds, Event, Partition, Placed, Record


class _Run:
    """The events of one partition, by offset. Tests can make holes and damage records."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.damaged: set[int] = set()
        self.oldest = 0
        self.end = 0

    def slice(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        if offset in self.damaged:
            following = offset + 1
            while following in self.damaged:
                following += 1
            raise RecordsDamaged(partition, offset, following, Bounds(self.oldest, self.end))
        first = last = bisect_left(self.events, offset, key=lambda event: event.offset)
        taken = 0
        while last < len(self.events) and (last == first or taken < max_bytes):
            if self.events[last].offset in self.damaged:
                return Slice(partition, self.events[first:last], self.events[last].offset)
            taken += len(self.events[last].value or b"")
            last += 1
        at_end = last == len(self.events)
        following = self.end if at_end else self.events[last - 1].offset + 1
        return Slice(partition, self.events[first:last], following)


class MemoryLog:
    """Implements Log and keeps all events until the process ends.

    Topics are created by the first append.
    """

    def __init__(
        self, *, partitions_per_topic: int = 1, future_limit: FutureLimit | None = None
    ) -> None:
        self._future_limit = future_limit or FutureLimit()
        self._partitions_per_topic = partitions_per_topic
        self._topics: dict[str, list[_Run]] = {}
        self._partitioner = Partitioner()
        self._followers: set[MemoryFollower] = set()
        self._states: dict[str, bytes] = {}
        self._owners: dict[str, int] = {}

    async def start(self) -> None:
        pass

    async def partitions(self, topics: Collection[str]) -> dict[str, tuple[Partition, ...]]:
        return {
            topic: tuple(Partition(topic, number) for number in range(len(self._topics[topic])))
            for topic in topics
            if topic in self._topics
        }

    async def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        return {p: Bounds((run := self.run(p)).oldest, run.end) for p in partitions}

    async def offset_at(self, times: Mapping[Partition, int]) -> dict[Partition, int | None]:
        return {
            p: next((e.offset for e in self.run(p).events if e.timestamp_ms >= time_ms), None)
            for p, time_ms in times.items()
        }

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        run = self.run(partition)
        if not run.oldest <= offset <= run.end:
            raise OffsetOutOfRange(partition, offset, Bounds(run.oldest, run.end))
        return run.slice(partition, offset, max_bytes)

    async def divergence(self, partition: Partition, offset: int, epoch: int) -> int | None:  # noqa: ARG002
        """Return None: this log has no elections, and so no epochs."""
        return None

    def follow(
        self,
        starts: Mapping[Partition, int],
        epochs: Mapping[Partition, int] = NOTHING_KNOWN,  # noqa: ARG002
    ) -> MemoryFollower:
        follower = MemoryFollower(self, starts)
        self._followers.add(follower)
        return follower

    async def append(self, records: Sequence[Record]) -> list[Placed]:
        records = self._future_limit.apply(records)
        runs = [self._choose(record) for record in records]  # raises before anything is appended
        placed = [self._append(*pair) for pair in zip(runs, records, strict=True)]
        self.wake_followers()
        return placed

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        outcomes: list[Placed | LogError] = []
        for record in records:
            try:
                outcomes += await self.append([record])
            except LogError as error:
                outcomes.append(error)
        return outcomes

    async def create_topic(self, topic: str, partitions: int) -> None:
        runs = self._topics.setdefault(topic, [])
        runs.extend(_Run() for _ in range(partitions - len(runs)))

    async def claim(self, name: str) -> EmbeddedBookmark:
        owner = self._owners[name] = self._owners.get(name, 0) + 1

        async def append(records: Sequence[Record], state: bytes) -> None:
            """Append records and state. No other task runs between the steps."""
            if self._owners[name] != owner:
                raise BookmarkLost(f"another owner has claimed the bookmark {name}")
            await MemoryLog.append(self, records)
            self._states[name] = state

        return EmbeddedBookmark(self._states.get(name), append)

    async def aclose(self) -> None:
        self._followers.clear()

    # Methods for tests and for the follower.

    def run(self, partition: Partition) -> _Run:
        return entry_of(partition, self._topics)

    def forget_before(self, partition: Partition, offset: int) -> None:
        """Drop events below `offset`, as retention does. Offsets are never reused."""
        run = self.run(partition)
        run.oldest = max(run.oldest, min(offset, run.end))
        run.events = [event for event in run.events if event.offset >= run.oldest]

    def punch_hole(self, partition: Partition, offset: int) -> None:
        """Remove a record but not its offset, as compaction does."""
        run = self.run(partition)
        run.events = [event for event in run.events if event.offset != offset]

    def damage(self, partition: Partition, offset: int) -> None:
        """Make a record unreadable, as if its bytes had changed on a disk."""
        self.run(partition).damaged.add(offset)

    def delete_topic(self, topic: str) -> None:
        del self._topics[topic]
        self.wake_followers()

    def wake_followers(self) -> None:
        for follower in self._followers:
            follower.news.set()

    def unfollow(self, follower: MemoryFollower) -> None:
        self._followers.discard(follower)

    def _choose(self, record: Record) -> Partition:
        if record.topic not in self._topics:
            self._topics[record.topic] = [_Run() for _ in range(self._partitions_per_topic)]
        number = self._partitioner.number(record, len(self._topics[record.topic]))
        return Partition(record.topic, number)

    def _append(self, partition: Partition, record: Record) -> Placed:
        run = self.run(partition)
        stamp = record.timestamp_ms if record.timestamp_ms is not None else int(time.time() * 1000)
        run.events.append(Event(partition, run.end, stamp, record.value, record.key))
        run.end += 1
        return Placed(partition, run.end - 1)


class MemoryFollower:
    _BATCH_BYTES = 1 << 20

    def __init__(self, log: MemoryLog, starts: Mapping[Partition, int]) -> None:
        self._log = log
        self._nexts = dict(starts)
        self.news = asyncio.Event()

    async def next(self) -> list[Slice]:
        while True:
            self.news.clear()  # before reading, so that later appends set it again
            slices: list[Slice] = []
            for partition in list(self._nexts):
                try:
                    found = self._read(partition)
                except (
                    UnknownTopic,
                    UnknownPartition,
                    OffsetOutOfRange,
                    RecordsDamaged,
                ) as error:
                    if slices:  # return these first; the next call raises the error
                        return slices
                    whole_topic = isinstance(error, UnknownTopic)
                    self.drop(
                        [p for p in self._nexts if whole_topic and p.topic == partition.topic]
                    )
                    self.drop([partition])
                    raise
                if found is not None:
                    slices.append(found)
            if slices:
                return slices
            await self.news.wait()

    def assign(
        self,
        starts: Mapping[Partition, int],
        epochs: Mapping[Partition, int] = NOTHING_KNOWN,  # noqa: ARG002
    ) -> None:
        self._nexts.update(starts)
        self.news.set()

    def drop(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._nexts.pop(partition, None)

    async def aclose(self) -> None:
        self._log.unfollow(self)

    def _read(self, partition: Partition) -> Slice | None:
        offset = self._nexts[partition]
        run = self._log.run(partition)
        if not run.oldest <= offset <= run.end:
            raise OffsetOutOfRange(partition, offset, Bounds(run.oldest, run.end))
        if offset == run.end:
            return None
        found = run.slice(partition, offset, self._BATCH_BYTES)
        self._nexts[partition] = found.next
        return found
