"""Three brokers, each behind a proxy, and a writer that does not use the proxies."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from eventstreams.tasks import background
from tests.support.kafka_node import KafkaNode, new_topic, own_cluster, require
from tests.support.kafka_tools import admin, create_patiently, eventually, producer
from tests.support.tcp_proxy import Proxy
from tests.support.waiting import PATIENCE_S

PARTITIONS = 3
_EVERY_S = 0.01
"""The pause between events, which limits how many are in transit when a fault occurs."""


@dataclass
class Cluster:
    nodes: list[KafkaNode]
    doors: list[socket.socket]
    bootstrap: str

    @property
    def by_doors(self) -> str:
        """The settings of a gateway for this cluster."""
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
        """Create a topic on all brokers, with this leader of its first partition.

        Start stopped brokers, and wait for all replicas.
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

            async def settled() -> bool:
                [reported] = await client.describe_topics([topic])
                return {
                    p["partition"]: (p["leader"], len(p["isr"])) for p in reported["partitions"]
                } == {number: (home[0], 3) for number, home in homes.items()}

            await create_patiently(client, new)
            await eventually(settled)
        return topic

    async def kept(self, topic: str) -> dict[int, dict[int, int]]:
        """Return what another consumer reads: each partition's offsets with numbers of events."""
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
    """Writes numbered events to all partitions in turn, each until all in-sync replicas have it."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.acknowledged: set[int] = set()
        self._sent = 0

    @asynccontextmanager
    async def writing(self, bootstrap: str) -> AsyncIterator[Writer]:
        """Write during the block; at its end, everything is acknowledged."""
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
        """Wait until this many more are acknowledged."""
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
