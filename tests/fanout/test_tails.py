"""Tails are bounded in bytes, complete from their floor on, and report what they do not know."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.fanout.spec import Format, SubscriptionSpec
from eventstreams.fanout.tails import Tail, Tails
from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Bounds, Event, Partition, Record
from eventstreams.model.frame import Frame
from eventstreams.model.position import Position

pytestmark = pytest.mark.anyio
P = Partition("t", 0)

batches = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 90)), max_size=4), st.integers(0, 2)
    ),
    max_size=8,
)
"""For each append: the hole before each frame and its size, and the hole after the last one."""


def frames_of(batch: list[tuple[int, int]], offset: int) -> tuple[list[Frame], int]:
    frames: list[Frame] = []
    for hole, size in batch:
        offset += hole
        frames.append(Frame(Event(P, offset, 1_000 + offset, b"x" * size)))
        offset += 1
    return frames, offset


@given(batches, st.integers(0, 10), st.integers(1, 1_500))
def test_a_tail_is_exact_from_its_floor_on_and_bounded(
    todo: list[tuple[list[tuple[int, int]], int]], start: int, bytes_max: int
) -> None:
    tail = Tail(P, start, 0)
    everything: list[Frame] = []
    for batch, hole in todo:
        frames, end = frames_of(batch, tail.next)
        tail.append(frames, end + hole)
        everything += frames
        tail.trim(bytes_max)
        assert tail.next == end + hole
        assert tail.bytes <= bytes_max
        kept = [f for f in everything if f.offset >= tail.floor]
        assert tail.bytes == sum(f.size for f in kept)
        dropped = [f for f in everything if f.offset < tail.floor]
        assert not dropped or tail.floor == dropped[-1].offset + 1
        for offset in range(tail.floor, tail.next + 1):
            since = tail.since(offset)
            assert since[:2] == ([f for f in kept if f.offset >= offset], tail.next)
            before = [f for f in everything if f.offset < offset]
            known = tail.timestamp_before(offset)
            assert known in (None, before[-1].timestamp_ms if before else None)
            if any(f.offset < offset for f in kept):
                assert known is not None
        if everything:
            assert tail.timestamp_before(tail.next) == everything[-1].timestamp_ms


def test_trimming_keeps_as_much_as_fits() -> None:
    tail = Tail(P, 0, 0)
    frames = [Frame(Event(P, n, n, b"x" * 10)) for n in range(5)]
    tail.append(frames, 5)
    tail.trim(tail.bytes)
    assert tail.floor == 0
    tail.trim(2 * frames[0].size)
    assert tail.since(tail.floor).frames == frames[3:]
    tail.trim(0)
    assert (tail.floor, tail.next, tail.bytes) == (5, 5, 0)


def test_records_without_a_value_are_bounded_too() -> None:
    tail = Tail(P, 0, 0)
    tail.append([Frame(Event(P, n, n, None)) for n in range(10_000)], 10_000)
    tail.trim(50_000)
    assert len(tail.since(tail.floor).frames) < 1_000


def test_an_empty_tail_has_no_times() -> None:
    assert Tail(P, 7, 0).timestamp_before(7) is None
    assert Tail(P, 7, 1_000).timestamp_before(7) == 1_000


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400)), max_size=20), st.integers(1, 3_000)
)
def test_the_largest_tails_are_trimmed_first(
    appends: list[tuple[int, int]], bytes_max: int
) -> None:
    tails = Tails(log=MemoryLog(), bytes_max=bytes_max)
    for number in range(3):
        p = Partition("t", number)
        tails.by_partition[p] = Tail(p, 0, 0)
    for number, size in appends:
        p = Partition("t", number)
        at = tails.end(p)
        tails.append(p, [Frame(Event(p, at, at, b"x" * size))], at + 1)
        before = {t: t.bytes for t in tails.by_partition.values()}
        total = tails.trim()
        assert total == sum(t.bytes for t in tails.by_partition.values()) <= bytes_max
        largest = max(t.bytes for t in tails.by_partition.values())
        assert all(t.bytes == was or was >= largest for t, was in before.items())
    assert tails.since(Partition("t", 0), tails.end(Partition("t", 0)) + 1) is None
    assert tails.since(Partition("other", 0), 0) is None


async def test_tails_begin_at_the_ends_with_the_time_before() -> None:
    log = MemoryLog()
    await log.create_topic("t", 2)
    await log.append([Record("t", b"{}", None, 100 + n, 0) for n in range(30)])
    log.punch_hole(P, 29)
    tails = Tails(log=log, bytes_max=1)
    new, added, gone, missing = await tails.refresh(["t", "missing"])
    assert (new, added, gone, missing) == ([P, Partition("t", 1)], [], [], [])
    assert (tails.end(P), tails.end(Partition("t", 1))) == (30, 0)
    assert tails.by_partition[P].timestamp_before(30) == 128
    assert tails.by_partition[Partition("t", 1)].timestamp_before(0) is None
    assert tails.now((P,)) == Position((P,), (30,), (128,))
    assert tails.of([P, Partition("no", 0)]) is None


class Busy(MemoryLog):
    """A log that gets a record after each request for its bounds."""

    async def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        found = await super().bounds(partitions)
        await self.append([Record("t", b"{}", None, 999, 0)])
        return found


async def test_a_tail_does_not_use_the_time_of_a_later_record() -> None:
    """Resuming from another log at that time would skip the record."""
    log = Busy()
    await log.create_topic("t", 1)
    await log.append([Record("t", b"{}", None, 100 + n, 0) for n in range(3)])
    tails = Tails(log=log, bytes_max=1)
    await tails.refresh(["t"])
    assert tails.now((P,)).offsets == (3,)
    assert tails.now((P,)).timestamps == (102,)


async def test_refresh_finds_new_and_deleted_topics_and_partitions() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.create_topic("u", 1)
    tails = Tails(log=log, bytes_max=1)
    await tails.refresh(["t", "u"])
    await log.create_topic("t", 3)
    await log.append([Record("t", b"{}", None, 1, 2)])
    added = (await tails.refresh(["t", "u"])).added
    assert added == [Partition("t", 1), Partition("t", 2)]
    assert [tails.end(p) for p in added] == [0, 0]
    assert tails.partitions("t") == tuple(Partition("t", n) for n in range(3))
    log.delete_topic("t")
    assert await tails.refresh(["t", "u"]) == ([], [], ["t"], [])
    assert tails.drop("t") == {Partition("t", n) for n in range(3)}
    assert set(tails.by_partition) == {Partition("u", 0)}
    assert await tails.refresh(["t", "u"]) == ([], [], [], [])


async def test_added_partitions_are_read_from_their_first_records() -> None:
    log = MemoryLog()
    for topic in ("t", "u"):
        await log.create_topic(topic, 2)
    tails = Tails(log=log, bytes_max=1)
    await tails.refresh(["t", "u"])
    mine = (*tails.partitions("t"), *tails.partitions("u"))
    spec = SubscriptionSpec(mine, frozenset({"t"}), Format.SSE)
    position = Position(mine, (1, 2, 3, 4), (5, 6, 7, 8))
    same = tails.grown(spec, position)
    assert same[0] is spec
    assert same[1] is position
    for topic in ("t", "u"):
        await log.create_topic(topic, 3)
    await tails.refresh(["t", "u"])
    grown, at = tails.grown(spec, position)
    t, u = tails.partitions("t"), tails.partitions("u")
    assert grown.partitions == at.partitions == (*t, *u[:2])
    assert at.offsets == (1, 2, 0, 3, 4)
    assert at.timestamps == (5, 6, 0, 7, 8)
    assert (grown.growing, grown.format) == (spec.growing, spec.format)


async def test_a_tail_that_retention_overtook_continues_at_the_oldest_record() -> None:
    log = MemoryLog()
    await log.append([Record("t", b"{}", None, stamp, 0) for stamp in range(100, 110)])
    tails = Tails(log=log, bytes_max=1)
    await tails.refresh(["t"])
    tails.by_partition[P] = Tail(P, 5, 120)
    tails.skip(P, 8)
    assert tails.end(P) == tails.floor(P) == 8
    assert tails.by_partition[P].timestamp_before(8) is None
