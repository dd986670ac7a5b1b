"""A broker that stops, crashes, hangs and returns.

The broker of this module creates topics on request, as many do in production. Therefore a test can
check that no request asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import LogUnavailable, UnknownTopic
from eventstreams.log.kafka.log import KafkaLog
from eventstreams.model.event import Partition, Record
from tests.support.kafka_node import KafkaNode, new_topic, own_node, require
from tests.support.kafka_tools import (
    PLENTY,
    admin,
    eventually,
    follow_until,
    offsets,
    opened,
    read_all,
    topic_with,
    values,
)
from tests.support.waiting import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


@pytest.fixture(scope="module")
def node() -> Iterator[KafkaNode]:
    with own_node({"auto.create.topics.enable": "true"}) as node:
        require(node)
        yield node


@pytest.fixture
def address(node: KafkaNode) -> str:
    return require(node)  # the previous test may have stopped it


@pytest.fixture
async def log(address: str) -> AsyncIterator[KafkaLog]:
    async with opened(address, request_timeout_s=5.0) as log:
        yield log


async def append_through(log: KafkaLog, topic: str, value: bytes) -> None:
    """Append repeatedly until the append succeeds, as a producer does."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await log.append([Record(topic, value)])
            except LogUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_follower_continues_after_a_broker_restart(
    node: KafkaNode, log: KafkaLog, how: str
) -> None:
    topic = await topic_with(require(node), 2)
    partitions = [Partition(topic, number) for number in range(2)]
    follower = log.follow(dict.fromkeys(partitions, 0))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow_until(follower, 60))
        for n in range(40):
            await log.append([Record(topic, b"before %d" % n, partition=n % 2)])
        await asyncio.to_thread(node.kill if how == "kill" else node.stop)
        for call in (
            log.partitions([topic]),
            log.bounds(partitions),
            log.offset_at({partitions[0]: 0}),
            log.read(partitions[0], 0, PLENTY),
        ):
            with pytest.raises(LogUnavailable):
                await call
        await asyncio.to_thread(node.start)
        for n in range(20):
            await append_through(log, topic, b"after %d" % n)
    for partition in partitions:
        events = [event for event in task.result() if event.partition == partition]
        assert offsets(events) == list(range(len(events)))
        assert events == await read_all(log, partition)


async def test_an_append_during_a_restart_is_written_once(node: KafkaNode, address: str) -> None:
    topic = await topic_with(address)
    async with opened(address, request_timeout_s=60.0) as log, asyncio.TaskGroup() as group:
        await log.append([Record(topic, b"0")])
        node_comes_back = group.create_task(asyncio.to_thread(_crash_and_return, node))
        placed = []
        for n in range(1, 1000):
            placed += await log.append([Record(topic, b"%d" % n)])
            if node_comes_back.done() and n > 100:
                break
        assert [each.offset for each in placed] == list(range(1, len(placed) + 1))
        kept = values(await read_all(log, Partition(topic, 0)))
        assert kept == [b"%d" % n for n in range(len(placed) + 1)]


def _crash_and_return(node: KafkaNode) -> None:
    node.kill()
    node.start()


async def test_every_call_detects_a_broker_that_does_not_answer(
    node: KafkaNode, address: str
) -> None:
    topic = await topic_with(address)
    partition = Partition(topic, 0)
    async with opened(address) as patient:  # a broker that has just started may be slow
        await patient.append([Record(topic, b"before")])
    async with opened(address, request_timeout_s=1.0) as log:
        follower = log.follow({partition: 0})
        assert values(await follow_until(follower, 1)) == [b"before"]
        with node.hanging():
            for name, call in (
                ("partitions", lambda: log.partitions([topic])),
                ("bounds", lambda: log.bounds([partition])),
                ("offset_at", lambda: log.offset_at({partition: 0})),
                ("read", lambda: log.read(partition, 0, PLENTY)),
                ("append", lambda: log.append([Record(topic, b"perhaps")])),
                ("create_topic", lambda: log.create_topic(new_topic(), 1)),
                ("next", follower.next),
                ("next, again", follower.next),
            ):
                with pytest.raises(LogUnavailable):
                    async with asyncio.timeout(PATIENCE_S):
                        pytest.fail(f"{name} returned {await call()!r}")
        await append_through(log, topic, b"after")
        events = await follow_until(follower, 1)
        while events[-1].value != b"after":
            events += await follow_until(follower, 1)
        assert [b"before", *values(events)] == values(await read_all(log, partition))


async def test_start_fails_without_a_broker_and_can_be_repeated(
    node: KafkaNode, address: str
) -> None:
    await asyncio.to_thread(node.stop)
    log = KafkaLog(settings=KafkaSettings(bootstrap_servers=(address,), request_timeout_s=2.0))
    try:
        with pytest.raises(LogUnavailable):
            await log.start()
        await asyncio.to_thread(node.start)
        await log.start()
        assert await log.partitions([new_topic()]) == {}
    finally:
        await log.aclose()


async def test_the_log_never_creates_a_topic_by_itself(address: str, log: KafkaLog) -> None:
    deleted, never = await topic_with(address), new_topic()
    follower = log.follow({Partition(deleted, 0): 0})
    await log.append([Record(deleted, b"x")])
    await follow_until(follower, 1)
    missing = Partition(never, 0)
    async with admin(address) as client:
        await client.delete_topics([deleted])

        async def gone() -> bool:
            return deleted not in await client.list_topics()

        await eventually(gone)
        for topic in (deleted, never):
            partition = Partition(topic, 0)
            with pytest.raises(UnknownTopic):
                await log.append([Record(topic, b"x")])
            with pytest.raises(UnknownTopic):
                await log.read(partition, 0, PLENTY)
            assert await log.partitions([topic]) == {}
        follower.assign({missing: 0})
        for _ in range(2):
            with pytest.raises(UnknownTopic):
                await follow_until(follower, 1)
        assert not {deleted, never} & set(await client.list_topics())
