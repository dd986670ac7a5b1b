"""Topics that are told from others of the same name by their ids."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventstreams.errors import LogUnavailable, UnknownTopic
from eventstreams.log import kafka_protocol
from eventstreams.log.kafka import KafkaLog
from eventstreams.model.event import Partition, Record
from tests.log.kafka_tools import (
    PLENTY,
    follow_until,
    make_anew,
    opened,
    read_all,
    topic_with,
    values,
)

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


@pytest.fixture
async def log(kafka: str) -> AsyncIterator[KafkaLog]:
    async with opened(kafka) as log:
        yield log


@pytest.mark.parametrize("count", [0, 2, 9])
async def test_a_topic_made_anew_is_another_whatever_it_holds(
    kafka: str, log: KafkaLog, count: int
) -> None:
    topic = await topic_with(kafka)
    partition = Partition(topic, 0)
    await log.append([Record(topic, b"old")] * 5)
    follower = log.follow({partition: 0})
    await follow_until(follower, 5)
    await make_anew(kafka, topic)
    new = [b"new %d" % n for n in range(count)]
    if new:
        async with opened(kafka) as other:
            await other.append([Record(topic, value) for value in new])
    # The follower was not asked meanwhile, so it did not see that the topic was away.
    with pytest.raises(UnknownTopic) as error:
        await follow_until(follower, 1)
    assert error.value.topic == topic
    follower.assign({partition: 0})
    await log.append([Record(topic, b"last")])
    assert values(await follow_until(follower, count + 1)) == [*new, b"last"]
    assert values(await read_all(log, partition)) == [*new, b"last"]


async def test_history_is_not_that_of_another_topic_of_the_name(kafka: str) -> None:
    topic = await topic_with(kafka)
    partition = Partition(topic, 0)
    async with opened(kafka, request_timeout_s=1.0) as log:
        await log.append([Record(topic, b"old")] * 5)
        follower = log.follow({partition: 0})
        await follow_until(follower, 5)
        await make_anew(kafka, topic)
        async with opened(kafka) as other:
            await other.append([Record(topic, b"new")] * 9)
        with pytest.raises(LogUnavailable):
            await log.read(partition, 3, PLENTY)
        with pytest.raises(UnknownTopic):
            await follow_until(follower, 1)
        assert values([*(await log.read(partition, 3, PLENTY)).events]) == [b"new"] * 6


async def test_brokers_too_old_for_ids_are_read_by_name(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_protocol, "_speaks", lambda *_: False)
    topic = await topic_with(kafka, 2)
    async with opened(kafka) as log:
        assert await log.partitions([topic]) == {topic: (Partition(topic, 0), Partition(topic, 1))}
        follower = log.follow({Partition(topic, number): 0 for number in range(2)})
        for number in range(2):
            await log.append([Record(topic, b"x", partition=number)])
            assert values(await read_all(log, Partition(topic, number))) == [b"x"]
        assert values(await follow_until(follower, 2)) == [b"x"] * 2
