"""The log in Apache Kafka: one follower, and a few connections that read history.

Partitions are read without a consumer group, because the gateway's clients keep the offsets. The
end of a partition is its last stable offset, so no reader gets past a record whose transaction may
still be aborted. docs/decisions/0003-kafka-reads.md says which parts of aiokafka are used, and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple
from weakref import WeakSet

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import LogError, LogUnavailable, OffsetOutOfRange, RecordsDamaged
from eventstreams.log.base import NOTHING_KNOWN, Slice
from eventstreams.log.future import FutureLimit
from eventstreams.log.kafka import errors
from eventstreams.log.kafka.appender import Appender
from eventstreams.log.kafka.bookmark import (
    BOOKMARK_CONFIGS,
    BOOKMARK_PREFIX,
    KafkaBookmark,
    claim,
)
from eventstreams.log.kafka.brokers import METADATA_LANE, Brokers, bounded
from eventstreams.log.kafka.fetch import (
    EARLIEST,
    INT64_MAX,
    LATEST,
    Fetched,
    fetch_request,
    fetched,
    is_offset,
    offsets_found,
    offsets_request,
)
from eventstreams.log.kafka.follower import PATIENCE_S, KafkaFollower
from eventstreams.log.kafka.records import unpacked
from eventstreams.log.kafka.topics import make_topic
from eventstreams.model.epochs import NO_EPOCH, NO_EPOCHS
from eventstreams.model.event import Bounds, Event, Partition, Placed, Record

_RETRY_PAUSE_S = 0.1


class _OldestTime(NamedTuple):
    """The time of the oldest record of a partition, which changes only when records are deleted."""

    oldest: int
    """The oldest offset when the record was read."""
    offset: int
    timestamp_ms: int


class KafkaLog:
    """Implements Log. A call that takes longer than `request_timeout_s` raises LogUnavailable."""

    def __init__(
        self,
        *,
        settings: KafkaSettings,
        future_limit: FutureLimit | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Set the collaborators. For `patience_s` see `PATIENCE_S`, its default."""
        self._settings = settings
        self._patience_s = patience_s
        self._future_limit = future_limit or FutureLimit()
        self._isolation = settings.isolation_level
        self._brokers = Brokers(settings=settings)
        self._appender = Appender(brokers=self._brokers, settings=settings)
        # By broker, so that only reads from a silent broker wait for it.
        self._free_lanes: dict[int, asyncio.LifoQueue[str]] = {}
        self._followers: list[KafkaFollower] = []
        self._oldest_times: dict[Partition, _OldestTime] = {}
        self._bookmarks: WeakSet[KafkaBookmark] = WeakSet()

    async def start(self) -> None:
        """Connect to the cluster. Raises ConfigError if the password or a TLS file is unusable."""
        async with self._bounded("start"):
            await self._brokers.open()

    async def partitions(self, topics: Collection[str]) -> dict[str, tuple[Partition, ...]]:
        """Ask a broker, once for all topics, even if there are none. Never creates a topic."""
        async with self._bounded("list the partitions"):
            counts = await self._brokers.refresh(topics)
        return {
            topic: tuple(Partition(topic, number) for number in range(counts[topic]))
            for topic in topics
            if topic in counts
        }

    async def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        oldest: dict[Partition, int] = {}
        end: dict[Partition, int] = {}
        async with self._bounded("read the bounds", partitions, oldest, end):
            await self._offsets(dict.fromkeys(partitions, EARLIEST), oldest)
            await self._offsets(dict.fromkeys(partitions, LATEST), end)
        # Retention may have moved the oldest offset since, beyond an end that was read before.
        return {p: Bounds(oldest[p], max(oldest[p], end[p])) for p in partitions}

    async def offset_at(self, times: Mapping[Partition, int]) -> dict[Partition, int | None]:
        """Find offsets by time, also of records of aborted transactions, which reads skip."""
        # Negative times have a special meaning in Kafka, and no record has one.
        asked = {p: min(max(0, time_ms), INT64_MAX) for p, time_ms in times.items()}
        found: dict[Partition, int] = {}
        async with self._bounded("find a time", asked, found):
            await self._offsets(asked, found)
        missing = {p: time_ms for p, time_ms in asked.items() if found[p] < 0}
        oldest: dict[Partition, int] = {}
        async with self._bounded("find a time", missing, oldest):
            await self._offsets(dict.fromkeys(missing, EARLIEST), oldest)
            # If no record was deleted, the broker's answer is correct.
            cut = [(p, oldest[p], time_ms) for p, time_ms in missing.items() if oldest[p] > 0]
            at_oldest = dict(await asyncio.gather(*(self._at_oldest(*each) for each in cut)))
        return {p: at_oldest.get(p) if found[p] < 0 else found[p] for p in times}

    async def _at_oldest(
        self, partition: Partition, oldest: int, time_ms: int
    ) -> tuple[Partition, int | None]:
        """Return the offset of the oldest record kept if its time is `time_ms` or later.

        After DeleteRecords, a broker may answer that no record has this time or a later one,
        although there are such records: it searches only the first segment that contained such a
        record, and that segment's records may be deleted. This lasts until the broker removes the
        segment. If times ascend, the oldest record is then the one that was searched for.
        """
        known = self._oldest_times.get(partition)
        if known is None or known.oldest != oldest:
            try:
                events = (await self._read(partition, oldest, 1)).events
            except OffsetOutOfRange:  # more records were deleted meanwhile
                bounds = await self.bounds([partition])
                return await self._at_oldest(partition, bounds[partition].oldest, time_ms)
            except RecordsDamaged:
                return partition, None
            if not events:
                return partition, None
            known = _OldestTime(oldest, events[0].offset, events[0].timestamp_ms)
            self._oldest_times[partition] = known
        return partition, known.offset if known.timestamp_ms >= time_ms else None

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        """Read complete batches, which may exceed `max_bytes`."""
        async with self._bounded("read", [partition]):
            if not is_offset(offset):
                raise await self._out_of_range(partition, offset)
            return await self._read(partition, offset, max_bytes)

    async def divergence(self, partition: Partition, offset: int, epoch: int) -> int | None:
        """Compare epochs. Always None with brokers older than Kafka 3.1."""
        async with self._bounded("compare epochs", [partition]):
            if not is_offset(offset):
                raise await self._out_of_range(partition, offset)
            found = await self._fetch(partition, offset, 1, epoch)
        if found.diverging is None:
            return None
        return NO_EPOCHS.common_end(offset, found.diverging)

    def follow(
        self, starts: Mapping[Partition, int], epochs: Mapping[Partition, int] = NOTHING_KNOWN
    ) -> KafkaFollower:
        follower = KafkaFollower(
            starts,
            epochs,
            brokers=self._brokers,
            settings=self._settings,
            bounds=self.bounds,
            patience_s=self._patience_s,
        )
        self._followers.append(follower)
        return follower

    async def append(self, records: Sequence[Record]) -> list[Placed]:
        """Append idempotently; all in-sync replicas must acknowledge.

        After LogUnavailable the records may have been stored, because no answer arrived.
        """
        return await self._appender.append(self._future_limit.apply(records))

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        return await self._appender.offer(self._future_limit.apply(records))

    async def create_topic(self, topic: str, partitions: int) -> None:
        async with self._bounded("create a topic"):
            await make_topic(self._brokers, topic, partitions, self._settings.request_timeout_s)

    async def claim(self, name: str) -> KafkaBookmark:
        """Claim a bookmark, whose state is in the topic `eventstreams.bookmark.NAME`."""
        topic = f"{BOOKMARK_PREFIX}{name}"
        async with self._bounded("create a topic"):
            timeout_s = self._settings.request_timeout_s
            await make_topic(self._brokers, topic, 1, timeout_s, BOOKMARK_CONFIGS)
        bookmark = await claim(self, Partition(topic, 0), self._settings, self._future_limit)
        self._bookmarks.add(bookmark)
        return bookmark

    async def aclose(self) -> None:
        for follower in self._followers:
            await follower.aclose()
        for bookmark in list(self._bookmarks):
            await bookmark.aclose()
        await self._appender.aclose()
        await self._brokers.aclose()

    async def _read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        events: Sequence[Event] = ()
        epochs = NO_EPOCHS
        following = offset
        while True:  # there may be events after a run of aborted transactions
            found = await self._fetch(partition, following, max_bytes)
            started = following
            try:
                _, events, following, more = await unpacked(
                    partition, started, found.data, found.aborted
                )
            except errors.FOREIGN as error:
                raise errors.translated(error, f"reading {partition.topic}", partition) from error
            epochs = epochs.then(more)
            if events or following == started or following >= found.end:
                return Slice(partition, events, following, epochs)

    async def _fetch(
        self, partition: Partition, offset: int, max_bytes: int, epoch: int = NO_EPOCH
    ) -> Fetched:
        while True:
            for node in await self._brokers.route([partition]):
                request = fetch_request(
                    {partition: offset},
                    ids=self._ids(partition.topic),
                    epochs={partition: epoch},
                    leader_epochs=self._brokers.leader_epochs,
                    isolation=self._isolation,
                    wait_ms=0,
                    bytes_max=max_bytes,
                    partition_bytes_max=max_bytes,
                )
                try:
                    async with self._lane(node) as lane:
                        answer = await self._brokers.ask(lane, node, request)
                except LogUnavailable:
                    break
                found = next(fetched(request, answer, self._isolation))
                if found.code == errors.NONE:
                    return found
                if found.code == errors.OFFSET_OUT_OF_RANGE:
                    raise await self._out_of_range(partition, offset)
                if found.code not in errors.PASSING:
                    raise errors.refusal(found.code, f"reading {partition.topic}", partition)
            self._brokers.forget([partition])
            await asyncio.sleep(_RETRY_PAUSE_S)

    def _ids(self, topic: str) -> dict[str, bytes]:
        """Return the id of the topic that is followed, so that history comes from the same one."""
        followed = (follower.topic_id(topic) for follower in self._followers)
        id_ = next(filter(None, followed), None) or self._brokers.topic_id(topic)
        return {topic: id_} if id_ else {}

    @asynccontextmanager
    async def _lane(self, node: int) -> AsyncGenerator[str]:
        if node not in self._free_lanes:
            lanes = self._free_lanes[node] = asyncio.LifoQueue()
            for number in range(self._settings.history_readers):
                lanes.put_nowait(f"history-{number}")
        lane = await self._free_lanes[node].get()
        try:
            yield lane
        finally:
            self._free_lanes[node].put_nowait(lane)

    async def _out_of_range(self, partition: Partition, offset: int) -> OffsetOutOfRange:
        bounds = await self.bounds([partition])
        return OffsetOutOfRange(partition, offset, bounds[partition])

    async def _offsets(self, times: Mapping[Partition, int], found: dict[Partition, int]) -> None:
        """Add the offsets for these times to `found`; ask until all leaders have answered."""
        while missing := [partition for partition in times if partition not in found]:
            by_node = await self._brokers.route(missing)
            asked = [
                self._offsets_of(node, {p: times[p] for p in partitions}, found)
                for node, partitions in by_node.items()
            ]
            await asyncio.gather(*asked)
            if len(found) < len(times):
                self._brokers.forget(p for p in missing if p not in found)
                await asyncio.sleep(_RETRY_PAUSE_S)

    async def _offsets_of(
        self, node: int, times: Mapping[Partition, int], found: dict[Partition, int]
    ) -> None:
        request = offsets_request(times, isolation=self._isolation)
        try:
            answer = await self._brokers.ask(METADATA_LANE, node, request)
        except LogUnavailable:
            return
        for partition, code, offset in offsets_found(answer):
            if code == errors.NONE:
                found[partition] = offset
            elif code not in errors.PASSING:
                raise errors.refusal(code, f"asking for offsets of {partition.topic}", partition)

    def _bounded(
        self, doing: str, partitions: Collection[Partition] = (), *found: Collection[Partition]
    ) -> AbstractAsyncContextManager[None]:
        """Bound a call that has one or more steps.

        Each of `found` collects the partitions that one step has been answered for. The error names
        those that the first incomplete step still waits for.
        """

        def unanswered() -> Collection[Partition]:
            missing = ([p for p in partitions if p not in step] for step in found)
            return next(filter(None, missing), () if found else partitions)

        return bounded(self._settings.request_timeout_s, doing, unanswered)
