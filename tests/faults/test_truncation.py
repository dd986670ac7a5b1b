"""A replica without the end of a partition becomes its leader, and other records get the offsets.

Of 200 records read, the new leader has 100, and gets 150 new ones while the gateway is paused.
Readers beyond 100 get a gap and then all new records.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError

from eventstreams.errors import UnknownTopic
from eventstreams.model.event import Record
from tests.faults.cluster import Cluster, cluster
from tests.support.client import Frame, Stream
from tests.support.kafka_node import new_topic
from tests.support.kafka_tools import admin, create_patiently, eventually, opened
from tests.support.process import Gateway, over_kafka, serving_over, streaming
from tests.support.tcp_proxy import Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

COMMON, LOST, NEW = 100, 100, 150
OLD = COMMON + LOST


@pytest.fixture(scope="module")
def brokers() -> Iterator[Cluster]:
    with cluster() as brokers:
        yield brokers


class Place:
    """Create a topic on the first two brokers; the first leads, and may lose the end."""

    def __init__(self, brokers: Cluster) -> None:
        self.topic = new_topic()
        self._brokers = brokers

    async def make(self) -> None:
        new = NewTopic(
            self.topic,
            -1,
            -1,
            replica_assignments={0: [1, 2]},
            topic_configs={
                "unclean.leader.election.enable": "true",
                "min.insync.replicas": "1",
            },
        )
        async with admin(self._brokers.bootstrap) as client:
            await create_patiently(client, new)
        await self.settled(1, {1, 2})
        await self.fill("old", 0, COMMON)
        await asyncio.to_thread(self._brokers.nodes[1].kill)
        await self.settled(1, {1})
        await self.fill("old", COMMON, LOST)

    async def elect(self) -> None:
        await asyncio.to_thread(self._brokers.nodes[0].kill)
        await asyncio.to_thread(self._brokers.nodes[1].start)
        await self.settled(2, {2})
        await self.fill("new", COMMON, NEW)
        await asyncio.to_thread(self._brokers.nodes[0].start)
        await self.settled(2, {1, 2})

    async def settled(self, leader: int, in_sync: set[int]) -> None:
        alive = self._brokers.bootstrap.split(",")

        async def is_so() -> bool:
            try:
                async with admin(",".join(alive)) as client:
                    [reported] = await client.describe_topics([self.topic])
            except KafkaError:
                return False
            [partition] = reported["partitions"] or [{"leader": -1, "isr": []}]
            return partition["leader"] == leader and set(partition["isr"]) == in_sync

        await eventually(is_so)

    async def fill(self, name: str, first: int, count: int) -> None:
        records = [
            Record(self.topic, b'{"log":"%s","n":%d}' % (name.encode(), n), None, None, 0)
            for n in range(first, first + count)
        ]
        async with opened(self._brokers.bootstrap) as log:

            async def filled() -> bool:
                try:
                    await log.append(records)
                except UnknownTopic:  # some broker does not know it yet
                    return False
                return True

            await eventually(filled)


def paused(gateway: Gateway, _: list[Proxy]) -> AbstractContextManager[None]:
    @contextmanager
    def looking_away() -> Iterator[None]:
        os.kill(gateway.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(gateway.process.pid, signal.SIGCONT)

    return looking_away()


def cut_off(_: Gateway, proxies: list[Proxy]) -> AbstractContextManager[None]:
    stack = ExitStack()
    for proxy in proxies:
        stack.enter_context(proxy.cut())
    return stack


async def all_new(reader: Stream, requested: int, resumed: int) -> list[Frame]:
    """Check for a gap from `requested` to `resumed`, and then every record of the log."""
    gap, *frames = await reader.frames(1 + COMMON + NEW - resumed)
    assert gap.event == "gap", gap
    [reported] = gap.document["partitions"]
    assert (reported["requested"], reported["resumed"]) == (requested, resumed)
    assert reported["cause"] == "truncation"
    assert [frame.document["n"] for frame in frames] == list(range(resumed, COMMON + NEW))
    assert {frame.document["log"] for frame in frames[COMMON - resumed :]} == {"new"}
    return frames


@pytest.mark.parametrize("fault", [paused, cut_off])
async def test_records_lost_by_an_election_are_reported_as_a_gap(
    brokers: Cluster,
    tmp_path: Path,
    fault: Callable[[Gateway, list[Proxy]], AbstractContextManager[None]],
) -> None:
    place = Place(brokers)
    async with AsyncExitStack() as stack:
        proxies = await stack.enter_async_context(brokers.proxied())
        await place.make()
        gateway = await stack.enter_async_context(
            serving_over(
                tmp_path,
                over_kafka(brokers.by_doors),
                {"s": [place.topic]},
                fanout={"log_patience_s": 120.0, "refresh_s": 1.0},
            )
        )
        start = f'[{{"topic":"{place.topic}","partition":0,"offset":0}}]'
        live = await stack.enter_async_context(streaming(gateway.port, last_event_id=start))
        old = await live.frames(OLD)
        assert {frame.document["log"] for frame in old} == {"old"}
        with fault(gateway, proxies):
            await place.elect()
        new = await all_new(live, OLD, COMMON)

        for requested in (OLD, COMMON + 50, COMMON + 1):
            async with streaming(gateway.port, last_event_id=old[requested - 1].id) as reader:
                assert await all_new(reader, requested, COMMON) == new
        for requested in (COMMON, COMMON - 50):  # these have read no lost records
            async with streaming(gateway.port, last_event_id=old[requested - 1].id) as reader:
                frames = await reader.frames(COMMON + NEW - requested)
            assert [frame.event for frame in frames] == ["message"] * len(frames)
            assert frames[-NEW:] == new
        async with streaming(gateway.port, last_event_id=new[49].id) as reader:
            assert await reader.frames(NEW - 50) == new[50:]
        said = "\n".join(str(line) for line in gateway.lines)
        assert "UnknownTopic" not in said
        assert "is gone" not in said
