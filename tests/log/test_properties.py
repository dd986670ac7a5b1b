"""Any sequence of appends, retention, reads and following agrees with a simple model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.errors import OffsetOutOfRange
from eventstreams.log.base import Follower, Log
from eventstreams.model.event import Bounds, Event, Partition, Record
from tests.support.backends import BACKENDS, Backend, over_all_backends
from tests.support.strategies import close_timestamps_ms, records
from tests.support.waiting import PATIENCE_S

PARTITIONS = 2
TOPIC = "any"  # replaced by the topic of one example

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(records(TOPIC, PARTITIONS), min_size=1, max_size=5)),
        st.tuples(st.just("forget"), st.tuples(st.integers(0, PARTITIONS - 1), st.integers(0, 12))),
        st.tuples(
            st.just("read"),
            st.tuples(st.integers(0, PARTITIONS - 1), st.integers(-1, 20), st.integers(1, 90)),
        ),
        st.tuples(st.just("offset_at"), close_timestamps_ms),
        st.tuples(st.just("follow"), st.none()),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=25,
)


class Model:
    """What the log must hold, and what its follower must still return."""

    def __init__(self, backend: Backend, log: Log, topic: str) -> None:
        self.backend = backend
        self.log = log
        self.topic = topic
        self.partitions = [Partition(topic, number) for number in range(PARTITIONS)]
        self.events: dict[Partition, list[Event]] = {p: [] for p in self.partitions}
        self.oldest = dict.fromkeys(self.partitions, 0)
        self.seen = dict.fromkeys(self.partitions, 0)
        self.follower: Follower = log.follow(self.seen)

    async def append(self, batch: list[Record]) -> None:
        batch = [Record(self.topic, r.value, r.key, r.timestamp_ms, r.partition) for r in batch]
        placed = await self.log.append(batch)
        for record, (partition, offset) in zip(batch, placed, strict=True):
            assert offset == len(self.events[partition])
            assert record.partition in {None, partition.number}
            assert record.timestamp_ms is not None
            self.events[partition].append(
                Event(partition, offset, record.timestamp_ms, record.value, record.key)
            )

    async def forget(self, where: tuple[int, int]) -> None:
        partition = self.partitions[where[0]]
        below = min(where[1], len(self.events[partition]))
        await self.backend.forget_before(self.log, partition, below)
        self.oldest[partition] = max(self.oldest[partition], below)

    async def read(self, where: tuple[int, int, int]) -> None:
        number, offset, max_bytes = where
        partition = self.partitions[number]
        kept = Bounds(self.oldest[partition], len(self.events[partition]))
        assert await self.log.bounds([partition]) == {partition: kept}
        if not kept.oldest <= offset <= kept.end:
            with pytest.raises(OffsetOutOfRange):
                await self.log.read(partition, offset, max_bytes)
            return
        found = await self.log.read(partition, offset, max_bytes)
        assert list(found.events) == self.events[partition][offset : found.next]
        assert (found.next > offset) == (offset < kept.end)
        if self.backend.exact_bytes:
            assert sum(len(event.value or b"") for event in found.events[:-1]) < max_bytes

    async def offset_at(self, time_ms: int) -> None:
        expected = {
            p: next(
                (e.offset for e in self.events[p][self.oldest[p] :] if e.timestamp_ms >= time_ms),
                None,
            )
            for p in self.partitions
        }
        assert await self.log.offset_at(dict.fromkeys(self.partitions, time_ms)) == expected

    async def follow(self, _: None) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while any(self.seen[p] < len(self.events[p]) for p in self.partitions):
                try:
                    slices = await self.follower.next()
                except OffsetOutOfRange as error:
                    self.overtaken(error.partition)
                    continue
                for partition, events, following, _ in slices:
                    assert list(events) == self.events[partition][self.seen[partition] : following]
                    self.seen[partition] = following

    def overtaken(self, partition: Partition) -> None:
        assert self.seen[partition] < self.oldest[partition]
        self.seen[partition] = self.oldest[partition]
        self.follower.assign({partition: self.seen[partition]})

    async def reopen(self, _: None) -> None:
        if not self.backend.durable:
            return
        await self.follower.aclose()
        await self.log.aclose()
        self.log = await self.backend.open()
        self.follower = self.log.follow(self.seen)


async def _agrees(kind: type[Backend], todo: list[tuple[str, Any]]) -> None:
    async with kind.place() as backend:
        log = await backend.open()
        model = Model(backend, log, await backend.topic(log, PARTITIONS))
        try:
            for name, argument in [*todo, ("follow", None)]:
                step: Callable[[Any], Coroutine[Any, Any, None]] = getattr(model, name)
                await step(argument)
        finally:
            await model.follower.aclose()
            await model.log.aclose()


@over_all_backends
def test_any_interleaving_agrees_with_a_simple_model(kind: type[Backend]) -> None:
    @settings(
        max_examples=kind.examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(steps)
    def agrees(todo: list[tuple[str, Any]]) -> None:
        asyncio.run(_agrees(kind, todo))

    agrees()


def test_every_backend_has_its_own_name() -> None:
    assert len({kind.name for kind in BACKENDS}) == len(BACKENDS)
