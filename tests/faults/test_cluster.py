"""The promise through every fault of a cluster: a hundred clients of one gateway, some of which
hang up all the time, have in the end all that the log holds, once and in order.

The fault strikes the broker that leads the first partition. The gateway is impatient and ends
streams in the longer ones, so that its clients also come back in the middle of the trouble.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from eventstreams.tasks import background
from tests.faults import clients
from tests.faults.clients import Client, eventually
from tests.faults.cluster import PARTITIONS, Cluster, Writer, cluster
from tests.faults.gateway import Gateway, over_kafka, serving
from tests.faults.proxy import Proxy
from tests.kafka_node import KafkaNode

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

CLIENTS = 100
EVENTS = 60
"""Acknowledged before a fault, while it lasts, and after it."""


@pytest.fixture(scope="module")
def brokers() -> Iterator[Cluster]:
    with cluster() as brokers:
        yield brokers


class Place:
    """What a fault may strike, and what there is to see of it."""

    def __init__(
        self, node: KafkaNode, proxy: Proxy, gateway: Gateway, writer: Writer, partition: str
    ) -> None:
        self.node = node
        self.proxy = proxy
        self.gateway = gateway
        self.writer = writer
        self.partition = partition

    async def noticed(self) -> None:
        """The gateway can't reach the partition, and says so."""

        async def named() -> bool:
            return self.partition in await self.gateway.unreachable()

        await eventually(named)


@asynccontextmanager
async def killed(place: Place) -> AsyncIterator[None]:
    await asyncio.to_thread(place.node.kill)
    yield


@asynccontextmanager
async def restarted(place: Place) -> AsyncIterator[None]:
    await asyncio.to_thread(place.node.stop)
    await asyncio.to_thread(place.node.start)
    yield


@asynccontextmanager
async def paused(place: Place) -> AsyncIterator[None]:
    with place.node.hanging():
        await place.noticed()
        await place.writer.more(EVENTS)
    yield


@asynccontextmanager
async def cut_off(place: Place) -> AsyncIterator[None]:
    with place.proxy.cut():
        await place.noticed()
        await place.writer.more(EVENTS)
    yield


@asynccontextmanager
async def made_slow(place: Place) -> AsyncIterator[None]:
    with place.proxy.slow(latency_s=0.1, chunk_bytes=1024):
        await place.writer.more(EVENTS)
        yield


FAULTS = (killed, restarted, paused, cut_off, made_slow)


@pytest.mark.parametrize("fault", FAULTS)
async def test_clients_have_all_that_the_log_holds_once_and_in_order_through_a_fault_of_a_leader(
    brokers: Cluster,
    tmp_path: Path,
    fault: Callable[[Place], AbstractAsyncContextManager[None]],
) -> None:
    leader = FAULTS.index(fault) % len(brokers.nodes)
    topic = await brokers.topic(leader + 1)
    writer = Writer(topic)
    async with AsyncExitStack() as stack:
        proxies = await stack.enter_async_context(brokers.proxied())
        gateway = await stack.enter_async_context(
            serving(
                tmp_path,
                over_kafka(brokers.by_doors),
                {"s": [topic]},
                fanout={"log_patience_s": 1.0, "refresh_s": 1.0},
            )
        )
        crowd = [
            Client(gateway.port, topic, PARTITIONS, hangs_up_every=0 if n % 4 else 5 + n)
            for n in range(CLIENTS)
        ]
        await stack.enter_async_context(background(*(client.run() for client in crowd)))
        await clients.until(crowd, lambda client: client.open.is_set(), "open")
        async with writer.writing(brokers.bootstrap):
            await writer.more(EVENTS)
            place = Place(brokers.nodes[leader], proxies[leader], gateway, writer, f"{topic}/0")
            async with fault(place):
                await writer.more(EVENTS)
            await writer.more(EVENTS)
        kept = await brokers.kept(topic)
        assert writer.acknowledged <= {n for events in kept.values() for n in events.values()}
        count = sum(map(len, kept.values()))
        await clients.until(crowd, lambda client: client.count >= count, f"all {count}")
        for client in crowd:
            assert not client.wrong
            assert client.got == kept
            assert [list(client.got[n]) for n in kept] == [list(kept[n]) for n in kept]
            assert client.count == count
