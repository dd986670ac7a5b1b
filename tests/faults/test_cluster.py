"""Through every fault of a cluster, a hundred clients of a gateway get everything in the log once
and in order, although some of them disconnect all the time.

The fault affects the broker that leads the first partition. The gateway ends streams early in the
longer faults, so that clients also reconnect during them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from eventstreams.tasks import background
from tests.faults import clients
from tests.faults.clients import Client
from tests.faults.cluster import PARTITIONS, Cluster, Writer, cluster
from tests.support.kafka_node import KafkaNode
from tests.support.kafka_tools import eventually
from tests.support.process import Gateway, over_kafka, serving_over
from tests.support.tcp_proxy import Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

CLIENTS = 100
EVENTS = 60
"""Events acknowledged before, during and after a fault."""


@pytest.fixture(scope="module")
def brokers() -> Iterator[Cluster]:
    with cluster() as brokers:
        yield brokers


class Place:
    """The parts that a fault affects."""

    def __init__(
        self, node: KafkaNode, proxy: Proxy, gateway: Gateway, writer: Writer, partition: str
    ) -> None:
        self.node = node
        self.proxy = proxy
        self.gateway = gateway
        self.writer = writer
        self.partition = partition

    async def noticed(self) -> None:
        """Wait until the gateway reports the partition as unreachable."""

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
async def test_leader_failures_lose_and_repeat_nothing(
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
            serving_over(
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
