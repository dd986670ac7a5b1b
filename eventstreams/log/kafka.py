"""The log in Apache Kafka: one consumer that follows, a few connections that read history.

Partitions are read by hand, without a consumer group: the gateway's clients carry the offsets.
The end of a partition is its last stable offset, so a reader never stands behind a record that a
transaction may yet take back. docs/decisions/0003-kafka-reads.md says which parts of aiokafka this
stands on, and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from eventstreams.errors import LogError, LogUnavailable, OffsetOutOfRange
from eventstreams.log import kafka_errors as errors
from eventstreams.log.base import NOTHING_KNOWN, Slice
from eventstreams.log.future import FutureLimit
from eventstreams.log.kafka_appender import Appender
from eventstreams.log.kafka_brokers import METADATA_LANE, Brokers, bounded
from eventstreams.log.kafka_fetch import (
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
from eventstreams.log.kafka_follower import KafkaFollower
from eventstreams.log.kafka_records import unpacked
from eventstreams.log.kafka_topics import make_topic
from eventstreams.model.epochs import NO_EPOCH, NO_EPOCHS
from eventstreams.model.event import Bounds, Event, Partition, Placed, Record
from eventstreams.settings import KafkaSettings

_RETRY_PAUSE_S = 0.1


class KafkaLog:
    """`request_timeout_s` bounds every call: beyond it LogUnavailable is raised."""

    def __init__(self, *, settings: KafkaSettings, future_limit: FutureLimit | None = None) -> None:
        self._settings = settings
        self._future_limit = future_limit or FutureLimit()
        self._isolation = settings.isolation_level
        self._brokers = Brokers(settings=settings)
        self._appender = Appender(brokers=self._brokers, settings=settings)
        # By broker, so that one that is silent has only those wait that need it.
        self._free_lanes: dict[int, asyncio.LifoQueue[str]] = {}
        self._followers: list[KafkaFollower] = []

    async def start(self) -> None:
        """Also raises ConfigError when the password or a TLS file cannot be used."""
        async with self._bounded("start"):
            await self._brokers.open()

    async def partitions(self, topics: Collection[str]) -> dict[str, tuple[Partition, ...]]:
        """Asks a broker each time, once for all topics, also for none; never makes a topic."""
        async with self._bounded("name the partitions"):
            counts = await self._brokers.refresh(topics)
        return {
            topic: tuple(Partition(topic, number) for number in range(counts[topic]))
            for topic in topics
            if topic in counts
        }

    async def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        oldest: dict[Partition, int] = {}
        end: dict[Partition, int] = {}
        async with self._bounded("tell the bounds", partitions, oldest, end):
            await self._offsets(dict.fromkeys(partitions, EARLIEST), oldest)
            await self._offsets(dict.fromkeys(partitions, LATEST), end)
        # Retention may pass an end that was asked for later; never the other way round.
        return {p: Bounds(oldest[p], max(oldest[p], end[p])) for p in partitions}

    async def offset_at(self, times: Mapping[Partition, int]) -> dict[Partition, int | None]:
        """A record of an aborted transaction counts: reading from there finds what comes after."""
        # Negative times have another meaning to Kafka, and no record has one.
        asked = {p: min(max(0, time_ms), INT64_MAX) for p, time_ms in times.items()}
        found: dict[Partition, int] = {}
        async with self._bounded("find a time", asked, found):
            await self._offsets(asked, found)
        return {
            partition: None if found[partition] < 0 else found[partition] for partition in times
        }

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        """Whole batches as they were appended, so it may be more than `max_bytes`."""
        async with self._bounded("read", [partition]):
            if not is_offset(offset):
                raise await self._out_of_range(partition, offset)
            return await self._read(partition, offset, max_bytes)

    async def divergence(self, partition: Partition, offset: int, epoch: int) -> int | None:
        """Brokers before Kafka 3.1 can't tell."""
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
            starts, epochs, brokers=self._brokers, settings=self._settings, bounds=self.bounds
        )
        self._followers.append(follower)
        return follower

    async def append(self, records: Sequence[Record]) -> list[Placed]:
        """Idempotent, acknowledged by all in-sync replicas.

        After LogUnavailable the records may or may not have been kept: the broker did not say.
        """
        return await self._appender.append(self._future_limit.apply(records))

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        return await self._appender.offer(self._future_limit.apply(records))

    async def create_topic(self, topic: str, partitions: int) -> None:
        async with self._bounded("make a topic"):
            await make_topic(self._brokers, topic, partitions, self._settings.request_timeout_s)

    async def aclose(self) -> None:
        for follower in self._followers:
            await follower.aclose()
        await self._appender.aclose()
        await self._brokers.aclose()

    async def _read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        events: Sequence[Event] = ()
        epochs = NO_EPOCHS
        following = offset
        while True:  # past a run of aborted transactions there may still be events
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
        """History is that of the topic which is followed."""
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
        """Adds what the leaders know to `found`; asks until all have answered."""
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
        """`found`: those that each step has had an answer for, one step after the other."""

        def unanswered() -> Collection[Partition]:
            missing = ([p for p in partitions if p not in step] for step in found)
            return next(filter(None, missing), () if found else partitions)

        return bounded(self._settings.request_timeout_s, doing, unanswered)
