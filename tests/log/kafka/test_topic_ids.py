"""Topics are distinguished from others of the same name by their ids."""

from __future__ import annotations

import pytest

from eventstreams.errors import LogUnavailable, UnknownTopic
from eventstreams.log.kafka import protocol
from eventstreams.log.kafka.log import KafkaLog
from eventstreams.model.event import Partition, Record
from tests.support.kafka_tools import (
    PLENTY,
    follow_until,
    opened,
    read_all,
    recreate,
    topic_with,
    values,
)

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


@pytest.mark.parametrize("count", [0, 2, 9])
async def test_a_recreated_topic_is_reported_as_unknown(
    kafka: str, log: KafkaLog, count: int
) -> None:
    topic = await topic_with(kafka)
    partition = Partition(topic, 0)
    await log.append([Record(topic, b"old")] * 5)
    follower = log.follow({partition: 0})
    await follow_until(follower, 5)
    await recreate(kafka, topic)
    new = [b"new %d" % n for n in range(count)]
    if new:
        async with opened(kafka) as other:
            await other.append([Record(topic, value) for value in new])
    # `next` was not called meanwhile, so the follower did not see that the topic was missing.
    with pytest.raises(UnknownTopic) as error:
        await follow_until(follower, 1)
    assert error.value.topic == topic
    follower.assign({partition: 0})
    await log.append([Record(topic, b"last")])
    assert values(await follow_until(follower, count + 1)) == [*new, b"last"]
    assert values(await read_all(log, partition)) == [*new, b"last"]


async def test_history_is_not_read_from_a_recreated_topic(kafka: str) -> None:
    topic = await topic_with(kafka)
    partition = Partition(topic, 0)
    async with opened(kafka, request_timeout_s=4.0) as log:
        await log.append([Record(topic, b"old")] * 5)
        follower = log.follow({partition: 0})
        await follow_until(follower, 5)
        await recreate(kafka, topic)
        async with opened(kafka) as other:
            await other.append([Record(topic, b"new")] * 9)
        with pytest.raises(LogUnavailable):
            await log.read(partition, 3, PLENTY)
        with pytest.raises(UnknownTopic):
            await follow_until(follower, 1)
        assert values([*(await log.read(partition, 3, PLENTY)).events]) == [b"new"] * 6


async def test_brokers_without_topic_ids_are_read_by_name(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_supports", lambda *_: False)
    topic = await topic_with(kafka, 2)
    async with opened(kafka) as log:
        assert await log.partitions([topic]) == {topic: (Partition(topic, 0), Partition(topic, 1))}
        follower = log.follow({Partition(topic, number): 0 for number in range(2)})
        for number in range(2):
            await log.append([Record(topic, b"x", partition=number)])
            assert values(await read_all(log, Partition(topic, number))) == [b"x"]
        assert values(await follow_until(follower, 2)) == [b"x"] * 2
