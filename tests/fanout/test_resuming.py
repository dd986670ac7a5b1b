"""A client that resumes with any id it received loses and repeats no event of a partition, or gets
a gap. Clients have any speed and disconnect at any byte, while records are added and deleted.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from eventstreams.fanout.timing import Timing
from eventstreams.log.base import Log
from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Partition, Record
from tests.fanout.reader import History, Reader
from tests.support.backends import Backend, Memory, over_all_backends
from tests.support.fanout import Client, Gateway, Socket, serving
from tests.support.hesitant_log import HesitantLog
from tests.support.strategies import close_timestamps_ms

CLIENTS = 4
TOPICS = 2
EAGER = Timing(keyframe_every_s=0.0)
"""Clients may join compressed streams at any time."""

numbers = st.integers(0, 63)
"""Indices, taken modulo the number of choices."""

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"), numbers, st.lists(close_timestamps_ms, min_size=1, max_size=9)
        ),
        st.tuples(
            st.just("append_odd"), numbers, st.sampled_from(["nonsense", "tombstone", "hole"])
        ),
        st.tuples(st.just("retain"), numbers, st.integers(0, 100)),
        st.tuples(st.just("grow"), numbers, st.just(None)),
        st.tuples(st.just("read"), numbers, st.integers(1, 900)),
        st.tuples(st.just("cut"), numbers, st.integers(1, 900)),
        st.tuples(st.just("turns"), numbers, st.integers(1, 12)),
    ),
    min_size=5,
    max_size=45,
)

sizes = st.fixed_dictionaries(
    {
        "tail_bytes_max": st.sampled_from([1, 1_500, 10**6]),
        "cache_bytes_max": st.sampled_from([2_000, 10**6]),
        "block_bytes": st.sampled_from([1, 120, 10**6]),
        "batch_bytes_max": st.sampled_from([1, 700, 10**6]),
        "catch_up_slots": st.sampled_from([1, 8]),
        "pace_max_ms": st.sampled_from([0, 2]),
    }
)

starts = st.lists(
    st.tuples(
        numbers,
        st.integers(0, 100),
        st.sampled_from([None, 1, 400, 3_000]),
        st.booleans(),
        st.sampled_from(["none", "gzip"]),
    ),
    min_size=1,
    max_size=CLIENTS,
)
"""For each client: its stream, its start in percent of the log, the size of its socket's buffer,
whether the server exposes its connection, and its encoding."""
Visit = tuple[int, int, int | None, bool, str]


class Visitor:
    """A client that reconnects with its last id whenever it is disconnected."""

    def __init__(
        self,
        world: World,
        stream: str,
        percent: int,
        high_water: int | None,
        *,
        exposed: bool,
        compress: str,
    ) -> None:
        wanted = world.topics if stream == "all" else [stream]
        at = {p: world.history.end(p) * percent // 100 for p in world.partitions(wanted)}
        self.world = world
        self.stream = stream
        self.high_water = high_water
        self.exposed = exposed
        self.query = f"compress={compress}"
        self.reader = Reader(world.history, at, set(wanted))
        self.client = self._come()
        self._taken = 0

    def _come(self) -> Client:
        socket = Socket(high_water=self.high_water)
        last_id = self.reader.last_id or self.reader.initial_id()
        client = Client(
            self.world.gateway,
            self.stream,
            socket=socket,
            exposed=self.exposed,
            last_event_id=last_id,
            query=self.query,
        )
        self.world.tasks.create_task(client.serve())
        return client

    def take(self) -> None:
        frames = self.client.socket.frames
        self.reader.take(frames[self._taken :])
        self._taken = len(frames)

    def cut(self) -> None:
        """Disconnect at any byte, and reconnect. An incomplete frame is ignored."""
        self.take()
        self.client.socket.hang_up()
        self.client = self._come()
        self._taken = 0

    async def finish(self) -> None:
        self.client.socket.take_all()
        partitions = list(self.world.history.texts)

        def complete() -> bool:
            self.take()
            there = self.client.socket.status == 200 and not self.reader.missing(partitions)
            return there or self.client.done.is_set()

        await self.client.socket.until(complete)
        assert not self.client.done.is_set(), self.client.socket.written[-300:]

    def has_ended_whole(self) -> None:
        """Check that the last response is complete."""
        socket = self.client.socket
        assert socket.complete
        if self.query == "compress=gzip":
            assert gzip.decompress(socket.taken) == socket.decoded


class World:
    def __init__(
        self,
        backend: Backend,
        log: Log,
        gateway: Gateway,
        topics: list[str],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.backend = backend
        self.log = log
        self.gateway = gateway
        self.topics = topics
        self.tasks = tasks
        self.history = History()
        self.counts = dict.fromkeys(topics, 2)
        self.visitors: list[Visitor] = []

    def partitions(self, topics: list[str]) -> list[Partition]:
        return [Partition(t, n) for t in topics for n in range(self.counts[t])]

    def visit(
        self, which: int, percent: int, high_water: int | None, exposed: bool, compress: str
    ) -> None:
        stream = ["all", *self.topics][which % (TOPICS + 1)]
        visitor = Visitor(self, stream, percent, high_water, exposed=exposed, compress=compress)
        self.visitors.append(visitor)

    def _partition(self, number: int) -> Partition:
        mine = self.partitions(self.topics)
        return mine[number % len(mine)]

    def _visitor(self, number: int) -> Visitor:
        return self.visitors[number % len(self.visitors)]

    async def append(self, number: int, stamps: list[int]) -> None:
        partition = self._partition(number)
        first = self.history.end(partition)
        texts = [
            f"{partition.number}:{first + i}:" + "x" * (stamps[0] % 50) for i in range(len(stamps))
        ]
        records = [
            Record(
                partition.topic, json.dumps({"text": text}).encode(), None, stamp, partition.number
            )
            for text, stamp in zip(texts, stamps, strict=True)
        ]
        for i, placed in enumerate(await self.log.append(records)):
            self.history.add(partition, placed.offset, stamps[i], texts[i])

    async def append_odd(self, number: int, kind: str) -> None:
        partition = self._partition(number)
        hole = kind == "hole" and isinstance(self.log, MemoryLog)
        value = None if kind == "tombstone" else b"nonsense"
        record = Record(partition.topic, value, None, 1_010, partition.number)
        [placed] = await self.log.append([record])
        if hole:  # before any reader has seen the record
            assert isinstance(self.log, MemoryLog)
            self.log.punch_hole(partition, placed.offset)
        self.history.add(partition, placed.offset, 1_010, None, hole=hole)

    async def retain(self, number: int, percent: int) -> None:
        partition = self._partition(number)
        below = self.history.end(partition) * percent // 100
        self.history.forgotten.add(partition)
        await self.backend.forget_before(self.log, partition, below)

    async def grow(self, number: int, _: None) -> None:
        topic = self.topics[number % TOPICS]
        if self.counts[topic] < 4:
            self.counts[topic] += 1
            await self.log.create_topic(topic, self.counts[topic])
            await self.gateway.hub.follower.refresh()

    async def read(self, number: int, count: int) -> None:
        visitor = self._visitor(number)
        visitor.client.socket.take(count)
        visitor.take()

    async def cut(self, number: int, count: int) -> None:
        visitor = self._visitor(number)
        visitor.client.socket.take(count)
        visitor.cut()

    async def turns(self, _: int, count: int) -> None:
        for _turn in range(count):
            await asyncio.sleep(0)


async def _resumes(
    kind: type[Backend],
    gateway_settings: dict[str, Any],
    seed: list[list[int]],
    visits: list[Visit],
    todo: list[tuple[str, int, Any]],
) -> None:
    async with kind.place() as backend:
        log = await backend.open()
        try:
            topics = [await backend.topic(log, 2) for _ in range(TOPICS)]
            async with serving(log, topics, timing=EAGER, **gateway_settings) as gateway:
                async with asyncio.TaskGroup() as tasks:
                    world = World(backend, log, gateway, topics, tasks)
                    for number, stamps in enumerate(seed):
                        await world.append(number, stamps)
                    for visit in visits:
                        world.visit(*visit)
                    for name, number, argument in todo:
                        step: Callable[..., Coroutine[Any, Any, None]] = getattr(world, name)
                        await step(number, argument)
                    for visitor in world.visitors:
                        await visitor.finish()
                    await gateway.hub.drain(0)
                for visitor in world.visitors:
                    visitor.has_ended_whole()
                gateway.assert_nobody_is_left()
        finally:
            await log.aclose()


class Hesitant(Memory):
    """A log whose calls all take some time, so that other steps happen meanwhile."""

    name = "hesitant"
    seed = 0

    async def open(self) -> Log:
        return HesitantLog(self.seed, partitions_per_topic=self.partitions_per_topic)


def test_resuming_works_while_the_log_changes() -> None:
    @settings(
        max_examples=Memory.examples * 5,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.integers(0, 2**32),
        sizes,
        st.lists(st.lists(close_timestamps_ms, max_size=9).filter(bool), max_size=6),
        starts,
        steps,
    )
    def resumes(
        hesitation: int,
        gateway_settings: dict[str, Any],
        seed: list[list[int]],
        visits: list[Visit],
        todo: list[tuple[str, int, Any]],
    ) -> None:
        kind = type("Seeded", (Hesitant,), {"seed": hesitation})
        asyncio.run(_resumes(kind, gateway_settings, seed, visits, todo))

    resumes()


@over_all_backends
def test_resuming_from_any_id_loses_and_repeats_nothing(kind: type[Backend]) -> None:
    @settings(
        max_examples=kind.examples * 3 if kind.name == "memory" else kind.examples // 2,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        sizes,
        st.lists(st.lists(close_timestamps_ms, max_size=9).filter(bool), max_size=6),
        starts,
        steps,
    )
    def resumes(
        gateway_settings: dict[str, Any],
        seed: list[list[int]],
        visits: list[Visit],
        todo: list[tuple[str, int, Any]],
    ) -> None:
        asyncio.run(_resumes(kind, gateway_settings, seed, visits, todo))

    resumes()
