"""Three brokers, each behind a proxy, and one who writes to them, not by the proxies."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError

from eventstreams.tasks import background
from tests.faults.clients import eventually
from tests.faults.proxy import Proxy
from tests.kafka_node import KafkaNode, new_topic, own_cluster, require
from tests.log.kafka_tools import PATIENCE_S, admin, producer

PARTITIONS = 3
_EVERY_S = 0.01
"""Between an event and the next: so many, and no more, are under way when something happens."""


@dataclass
class Cluster:
    nodes: list[KafkaNode]
    doors: list[socket.socket]
    bootstrap: str

    @property
    def by_doors(self) -> str:
        """Where a gateway finds it."""
        return ",".join(f"127.0.0.1:{door.getsockname()[1]}" for door in self.doors)

    @asynccontextmanager
    async def proxied(self) -> AsyncGenerator[list[Proxy]]:
        proxies = [
            Proxy(door, node.port_of("CLIENT"))
            for door, node in zip(self.doors, self.nodes, strict=True)
        ]
        async with AsyncExitStack() as stack:
            for proxy in proxies:
                await stack.enter_async_context(proxy.open())
            yield proxies

    async def topic(self, leader: int) -> str:
        """On all brokers, its first partition led by that one; once all of them keep up.

        Starts those that are down.
        """
        await asyncio.to_thread(require, *self.nodes)
        topic = new_topic()
        homes = {}
        for number in range(PARTITIONS):
            homes[number] = [(leader - 1 + number + n) % len(self.nodes) + 1 for n in range(3)]
        new = NewTopic(
            topic, -1, -1, replica_assignments=homes, topic_configs={"min.insync.replicas": "2"}
        )
        async with admin(self.bootstrap) as client:

            async def made() -> bool:
                """A broker that has just come back may not be counted in yet."""
                try:
                    answer = await client.create_topics([new])
                except KafkaError:
                    return False
                return answer.topic_errors[0][1] in (0, 36)

            async def settled() -> bool:
                [told] = await client.describe_topics([topic])
                return {
                    p["partition"]: (p["leader"], len(p["isr"])) for p in told["partitions"]
                } == {number: (home[0], 3) for number, home in homes.items()}

            await eventually(made)
            await eventually(settled)
        return topic

    async def kept(self, topic: str) -> dict[int, dict[int, int]]:
        """What another consumer finds: per partition its offsets, and the event's number there."""
        homes = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, enable_auto_commit=False)
        await consumer.start()
        try:
            consumer.assign(homes)
            await consumer.seek_to_beginning(*homes)
            ends = await consumer.end_offsets(homes)
            found: dict[int, dict[int, int]] = {number: {} for number in range(PARTITIONS)}
            async with asyncio.timeout(PATIENCE_S):
                while any([await consumer.position(home) < ends[home] for home in homes]):
                    for home, records in (await consumer.getmany(timeout_ms=200)).items():
                        for record in records:
                            found[home.partition][record.offset] = json.loads(record.value)["n"]
        finally:
            await consumer.stop()
        return found


@contextmanager
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        doors = [stack.enter_context(socket.socket()) for _ in range(3)]
        for door in doors:
            door.bind(("127.0.0.1", 0))
        ports = [door.getsockname()[1] for door in doors]
        nodes = stack.enter_context(own_cluster(doors=ports))
        yield Cluster(nodes, doors, require(*nodes))


class Writer:
    """Numbered events to all partitions in turn, each sent until all in-sync replicas have it."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.acknowledged: set[int] = set()
        self._sent = 0

    @asynccontextmanager
    async def writing(self, bootstrap: str) -> AsyncIterator[Writer]:
        """At its end all that was sent is acknowledged."""
        options = {"acks": "all", "enable_idempotence": True, "retry_backoff_ms": 50}
        async with producer(
            bootstrap, request_timeout_ms=2000, metadata_max_age_ms=500, **options
        ) as client:
            over = asyncio.Event()
            async with background(self._write(client, over)):
                yield self
                over.set()
                async with asyncio.timeout(PATIENCE_S):
                    while len(self.acknowledged) < self._sent:
                        await asyncio.sleep(0.02)

    async def more(self, count: int) -> None:
        """Until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.acknowledged) < wanted:
                await asyncio.sleep(0.02)

    async def _write(self, client: AIOKafkaProducer, over: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            while not over.is_set():
                n, self._sent = self._sent, self._sent + 1
                value = json.dumps({"n": n}).encode()
                acknowledged = await client.send(self.topic, value, partition=n % PARTITIONS)
                tasks.create_task(self._confirm(n, acknowledged))
                await asyncio.sleep(_EVERY_S)

    async def _confirm(self, n: int, acknowledged: asyncio.Future[object]) -> None:
        await acknowledged
        self.acknowledged.add(n)
