"""When a cluster loses a broker, leaders move, and partitions without a leader affect no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator

import pytest
from aiokafka.admin import NewTopic

from eventstreams.config.settings import FanoutSettings
from eventstreams.errors import LogError, LogUnavailable
from eventstreams.fanout.log_follower import LogFollower
from eventstreams.fanout.timing import Timing
from eventstreams.log.base import Follower
from eventstreams.log.kafka.log import KafkaLog
from eventstreams.metrics import Metrics
from eventstreams.model.event import Event, Partition, Record
from eventstreams.tasks import background
from tests.support.kafka_node import KafkaNode, new_topic, own_cluster, require
from tests.support.kafka_tools import PLENTY, admin, offsets, opened, read_all, values
from tests.support.listener import RecordingListener
from tests.support.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[KafkaNode]]:
    with own_cluster() as nodes:
        yield nodes


@pytest.fixture
async def log(nodes: list[KafkaNode]) -> AsyncIterator[KafkaLog]:
    bootstrap = await asyncio.to_thread(require, *nodes)  # an earlier test may have killed one
    async with opened(bootstrap, request_timeout_s=3.0) as log:
        yield log


async def placed(log: KafkaLog, *replicas: int) -> Partition:
    """Create a topic of one partition on these brokers, led by the first."""
    topic = new_topic()
    async with admin(",".join(log._settings.bootstrap_servers)) as client:
        await client.create_topics([NewTopic(topic, -1, -1, replica_assignments={0: [*replicas]})])
    partition = Partition(topic, 0)
    await until(lambda: answered(log, [partition]))
    return partition


async def answered(log: KafkaLog, partitions: Collection[Partition]) -> bool:
    try:
        found = await log.partitions({p.topic for p in partitions})
        await log.bounds(partitions)
    except LogError:  # a broker may learn of a topic a moment after another
        return False
    return len(found) == len(partitions)


async def append(log: KafkaLog, partition: Partition, count: int) -> None:
    """Append each until it is acknowledged; unacknowledged appends may be kept as well."""
    async with asyncio.timeout(PATIENCE_S):
        for n in range(count):
            while True:
                try:
                    await log.append([Record(partition.topic, b"%d" % n, partition=0)])
                    break
                except LogUnavailable:
                    continue


class Follow:
    """Return what a follower has read, and which partitions it reported as unreachable."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self.events: dict[Partition, list[Event]] = {}
        self.named: set[Partition] = set()
        self.whole: list[LogUnavailable] = []
        """Errors of the whole log."""

    async def run(self) -> None:
        while True:
            try:
                for partition, events, *_ in await self._follower.next():
                    self.events.setdefault(partition, []).extend(events)
            except LogUnavailable as error:
                self.named |= error.partitions
                self.whole += [] if error.partitions else [error]

    async def has(self, partition: Partition, last: Event) -> None:
        async def there() -> bool:
            return any(event == last for event in self.events.get(partition, [])[-1:])

        await until(there)


async def test_a_dead_brokers_partitions_move_or_wait(
    nodes: list[KafkaNode], log: KafkaLog
) -> None:
    moving, lone, other = [await placed(log, *where) for where in ((1, 2, 3), (1,), (2,))]
    partitions = (moving, lone, other)
    followed = Follow(log.follow(dict.fromkeys(partitions, 0)))
    async with background(followed.run()):
        for partition in partitions:
            await append(log, partition, 20)
        before = {partition: await read_all(log, partition) for partition in partitions}
        for partition in partitions:
            await followed.has(partition, before[partition][-1])

        await asyncio.to_thread(nodes[0].kill)
        for partition in (other, moving):
            await append(log, partition, 20)
            await followed.has(partition, (await read_all(log, partition))[-1])

        async def only_lone_is_out() -> bool:
            try:
                await log.bounds(partitions)
            except LogUnavailable as error:
                return error.partitions == {lone} and lone in followed.named
            return False

        await until(only_lone_is_out)
        assert other not in followed.named
        with pytest.raises(LogUnavailable) as caught:
            await log.read(lone, 0, PLENTY)
        assert caught.value.partitions == {lone}
        with pytest.raises(LogUnavailable) as caught:
            await log.offset_at(dict.fromkeys(partitions, 0))
        assert caught.value.partitions == {lone}

        await asyncio.to_thread(nodes[0].start)
        for partition in partitions:
            await append(log, partition, 20)
            await followed.has(partition, (await read_all(log, partition))[-1])
    assert not followed.whole
    for partition in partitions:
        events = followed.events[partition]
        assert offsets(events) == list(range(len(events)))
        assert events == await read_all(log, partition)
        assert [v for n, v in enumerate(values(events)) if n < 20] == values(before[partition])


async def test_a_gateway_starts_despite_a_silent_broker(
    nodes: list[KafkaNode], log: KafkaLog
) -> None:
    lone, other = [await placed(log, where) for where in (3, 2)]
    await append(log, lone, 3)
    listener = RecordingListener()
    feed = LogFollower(
        log=log,
        topics=[lone.topic, other.topic],
        settings=FanoutSettings(log_patience_s=3.0, refresh_s=0.5),
        metrics=Metrics(),
        listener=listener,
        timing=Timing(),
        started=True,
    )

    async def given_up() -> bool:
        return listener.given_up == {lone}

    async def has(partition: Partition, end: int) -> bool:
        return feed.tails.end(partition) == end

    async with asyncio.timeout(PATIENCE_S), background(feed.look(), feed.follow()):
        with nodes[2].hanging():
            await feed.reachable.wait()
            await until(given_up)
            await append(log, other, 3)
            await until(lambda: has(other, 3))
            assert feed.unreachable == {lone}
            assert feed.trouble is None
        await feed.reach([lone, other])
        await append(log, lone, 2)
        await until(lambda: has(lone, 5))
        assert feed.tails.floor(lone) == 3
    await feed.aclose()
    assert not listener.gave_all_up
