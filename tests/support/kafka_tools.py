"""Tools for tests of the Kafka log: other clients of the broker, and readers that wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import LogUnavailable
from eventstreams.log.base import Follower, Log
from eventstreams.log.kafka import follower
from eventstreams.log.kafka.log import KafkaLog
from eventstreams.model.event import Event, Partition
from tests.support.kafka_node import new_topic
from tests.support.waiting import PATIENCE_S, until

PLENTY = 1 << 20
_NO_ERROR, _TOPIC_ALREADY_EXISTS = 0, 36


@asynccontextmanager
async def opened(
    bootstrap: str, *, patience_s: float = follower.PATIENCE_S, **settings: Any
) -> AsyncIterator[KafkaLog]:
    servers = tuple(bootstrap.split(","))
    kafka = KafkaSettings(bootstrap_servers=servers, **settings)
    log = KafkaLog(settings=kafka, patience_s=patience_s)
    await log.start()
    try:
        yield log
    finally:
        await log.aclose()


@asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def producer(bootstrap: str, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(bootstrap_servers=bootstrap, **options)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def topic_with(bootstrap: str, partitions: int = 1, **config: str) -> str:
    """Create a topic. `config` names settings, with `_` in place of `.`."""
    topic = new_topic()
    configs = {key.replace("_", "."): value for key, value in config.items()}
    async with admin(bootstrap) as client:
        answer = await client.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])
        assert answer.topic_errors[0][1] == 0, answer
        await _there(client, topic)
    return topic


async def recreate(bootstrap: str, topic: str) -> None:
    """Delete the topic and create another of the same name with one partition."""
    async with admin(bootstrap) as client:
        await client.delete_topics([topic])

        async def made() -> bool:
            answer = await client.create_topics([NewTopic(topic, 1, 1)])
            return bool(answer.topic_errors[0][1] == 0)

        await eventually(made)
        await _there(client, topic)


async def _there(client: AIOKafkaAdminClient, topic: str) -> None:
    """Wait until the broker knows of changes that its controller has made."""

    async def there() -> bool:
        return bool((await client.describe_topics([topic]))[0]["error_code"] == 0)

    await eventually(there)


async def create_patiently(client: AIOKafkaAdminClient, new: NewTopic) -> None:
    """Create a topic, again while a restarted broker is not in sync yet."""

    async def made() -> bool:
        try:
            answer = await client.create_topics([new])
        except KafkaError:
            return False
        return answer.topic_errors[0][1] in (_NO_ERROR, _TOPIC_ALREADY_EXISTS)

    await eventually(made)


async def read_all(log: Log, partition: Partition, offset: int = 0) -> list[Event]:
    """Read from `offset` to the present end, with `next` only."""
    events: list[Event] = []
    end = (await log.bounds([partition]))[partition].end
    while offset < end:
        found = await log.read(partition, offset, PLENTY)
        assert found.next > offset, "a reader would spin"
        events += found.events
        offset = found.next
    assert offset == end
    return events


async def follow_until(follower: Follower, count: int) -> list[Event]:
    """Return this number of events, however long the broker is unavailable meanwhile."""
    events: list[Event] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(events) < count:
            try:
                for slice_ in await follower.next():
                    events += slice_.events
            except LogUnavailable:
                continue
    return events


async def eventually(met: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Wait for something that happens asynchronously in the broker."""
    await until(met, every_s=0.05)


def offsets(events: list[Event]) -> list[int]:
    return [event.offset for event in events]


def values(events: list[Event]) -> list[bytes | None]:
    return [event.value for event in events]
