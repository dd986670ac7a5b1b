"""An election takes a replica that lacks the end of a partition: other records get its offsets.

200 records are read; the replica that becomes the leader has 100 of them, and takes 150 new ones
while the gateway sees nothing. Whoever had read beyond 100 gets a gap, and then all that is new.
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
from tests.faults.clients import eventually
from tests.faults.cluster import Cluster, cluster
from tests.faults.gateway import Gateway, over_kafka, serving
from tests.faults.proxy import Proxy
from tests.faults.test_topic_anew import stream
from tests.kafka_node import new_topic
from tests.log.kafka_tools import admin, opened
from tests.web.client import Frame, Stream

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

COMMON, LOST, NEW = 100, 100, 150
OLD = COMMON + LOST


@pytest.fixture(scope="module")
def brokers() -> Iterator[Cluster]:
    with cluster() as brokers:
        yield brokers


class Place:
    """A topic whose records are on the first two brokers; the first leads, and may lose an end."""

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

            async def made() -> bool:
                try:
                    answer = await client.create_topics([new])
                except KafkaError:
                    return False
                return answer.topic_errors[0][1] in (0, 36)

            await eventually(made)
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
                    [told] = await client.describe_topics([self.topic])
            except KafkaError:
                return False
            [partition] = told["partitions"] or [{"leader": -1, "isr": []}]
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
                except UnknownTopic:  # a broker has yet to hear of it
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
    """A gap from `requested` to `resumed`, and every record that the log holds from there on."""
    gap, *frames = await reader.frames(1 + COMMON + NEW - resumed)
    assert gap.event == "gap", gap
    [told] = gap.document["partitions"]
    assert (told["requested"], told["resumed"]) == (requested, resumed)
    assert told["cause"] == "truncation"
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
            serving(
                tmp_path,
                over_kafka(brokers.by_doors),
                {"s": [place.topic]},
                fanout={"log_patience_s": 120.0, "refresh_s": 1.0},
            )
        )
        start = f'[{{"topic":"{place.topic}","partition":0,"offset":0}}]'
        live = await stack.enter_async_context(stream(gateway, start))
        old = await live.frames(OLD)
        assert {frame.document["log"] for frame in old} == {"old"}
        with fault(gateway, proxies):
            await place.elect()
        new = await all_new(live, OLD, COMMON)

        for requested in (OLD, COMMON + 50, COMMON + 1):
            async with stream(gateway, old[requested - 1].id) as reader:
                assert await all_new(reader, requested, COMMON) == new
        for requested in (COMMON, COMMON - 50):  # nothing of what these have read is lost
            async with stream(gateway, old[requested - 1].id) as reader:
                frames = await reader.frames(COMMON + NEW - requested)
            assert [frame.event for frame in frames] == ["message"] * len(frames)
            assert frames[-NEW:] == new
        async with stream(gateway, new[49].id) as reader:
            assert await reader.frames(NEW - 50) == new[50:]
        said = "\n".join(str(line) for line in gateway.lines)
        assert "UnknownTopic" not in said
        assert "is gone" not in said
