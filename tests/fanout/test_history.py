"""History: read once for everyone who comes at the same time, and bounded."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.errors import OffsetOutOfRange
from eventstreams.fanout.chunk import Portion
from eventstreams.fanout.compression import Encoding, apart
from eventstreams.fanout.history import ChunkCache, History
from eventstreams.fanout.want import Format, Want
from eventstreams.log.base import Slice
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition, Record
from eventstreams.model.position import Position

pytestmark = pytest.mark.anyio
P = Partition("t", 0)


class CountingLog(MemoryLog):
    """Answers only after a turn of the loop, and counts what it read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []
        self.events_read = 0

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        await asyncio.sleep(0)
        found = await super().read(partition, offset, max_bytes)
        self.reads.append(offset)
        self.events_read += len(found.events)
        return found


async def log_of(count: int, *, holes: Sequence[int] = (), oldest: int = 0) -> CountingLog:
    log = CountingLog()
    await log.append([Record("t", b"x" * 10, None, 1_000 + n, 0) for n in range(count)])
    for hole in holes:
        log.punch_hole(P, hole)
    log.forget_before(P, oldest)
    return log


def history_of(log: CountingLog, *, block: int = 400, most: int = 10**6) -> History:
    return History(log=log, block_bytes=block, bytes_max=most, metrics=Metrics())


async def read_all(history: History, offset: int, end: int) -> list[int]:
    seen: list[int] = []
    while offset < end:
        run = history.cached(P, offset) or await history.load(P, offset)
        seen += [frame.offset for frame in run.frames]
        assert run.next > offset, "a reader would spin"
        offset = run.next
        await asyncio.sleep(0)
    return seen


async def test_readers_at_nearby_positions_cost_one_read_of_each_record() -> None:
    log = await log_of(3_000)
    history = history_of(log)
    starts = [50 + 7 * n for n in range(40)]
    found = await asyncio.gather(*(read_all(history, start, 3_000) for start in starts))
    assert found == [list(range(start, 3_000)) for start in starts]
    assert log.events_read <= 1.2 * 3_000


async def test_readers_at_the_same_place_share_one_read() -> None:
    log = await log_of(100)
    history = history_of(log)
    runs = await asyncio.gather(*(history.load(P, 10) for _ in range(20)))
    assert len(log.reads) == 1
    assert len({id(run.frames[0]) for run in runs}) == 1, "parsed and encoded once, too"


async def test_other_partitions_are_read_at_the_same_time() -> None:
    log = await log_of(10)
    await log.create_topic("u", 1)
    await log.append([Record("u", b"{}", None, 1, 0)])
    history = history_of(log)
    one, other = await asyncio.gather(history.load(P, 0), history.load(Partition("u", 0), 0))
    assert (one.next, other.next) == (10, 1)


@settings(deadline=None)
@given(
    st.sets(st.integers(0, 299)),
    st.integers(0, 150),
    st.lists(st.integers(0, 300), min_size=1, max_size=8),
    st.sampled_from([1, 60, 500]),
    st.sampled_from([300, 3_000, 10**6]),
)
def test_whatever_is_cached_a_reader_gets_what_the_log_holds(
    holes: set[int], oldest: int, starts: list[int], block: int, most: int
) -> None:
    async def check() -> None:
        log = await log_of(300, holes=sorted(holes), oldest=oldest)
        history = history_of(log, block=block, most=most)

        async def one(start: int) -> None:
            if start < oldest:
                with pytest.raises(OffsetOutOfRange):
                    await history.load(P, start)
                return
            expected = [n for n in range(start, 300) if n not in holes]
            assert await read_all(history, start, 300) == expected

        await asyncio.gather(*(one(start) for start in starts))
        assert history._bytes == sum(block.bytes for block in history._blocks.values())
        assert history._bytes <= most or len(history._blocks) == 1
        assert sorted(s for _, s in history._blocks) == history._starts.get(P, [])
        held = sorted((block.start, block.next) for block in history._blocks.values())
        assert all(end <= start for (_, end), (start, _) in pairwise(held)), "held twice"

    asyncio.run(check())


async def test_what_was_used_longest_ago_goes_first() -> None:
    log = await log_of(3_000)
    history = history_of(log, block=10 * 256, most=400_000)
    for offset in (0, 256, 512):
        await history.load(P, offset)
    for offset in range(1_024, 3_000, 256):
        assert history.cached(P, 0) is not None
        await history.load(P, offset)
    assert history._bytes <= 400_000
    assert history.cached(P, 0) is not None
    assert history.cached(P, 256) is None


async def test_an_aligned_start_that_is_no_longer_kept_is_no_obstacle() -> None:
    log = await log_of(300, oldest=270)
    run = await history_of(log).load(P, 280)
    assert [frame.offset for frame in run.frames] == list(range(280, 300))


async def test_at_the_end_there_is_nothing_and_it_stays_there() -> None:
    log = await log_of(10)
    run = await history_of(log).load(P, 10)
    assert (list(run.frames), run.next) == ([], 10)


@pytest.mark.parametrize("offset", range(1, 11))
async def test_the_time_before_an_offset_is_that_of_the_record_before_it(offset: int) -> None:
    history = history_of(await log_of(10))
    assert await history.timestamp_before(P, offset) == 999 + offset


async def test_the_time_before_the_oldest_kept_is_not_to_be_had() -> None:
    history = history_of(await log_of(10, oldest=4))
    with pytest.raises(OffsetOutOfRange):
        await history.timestamp_before(P, 4)
    assert await history.timestamp_before(P, 5) == 1_004


async def test_what_was_forgotten_is_read_anew() -> None:
    log = await log_of(10)
    history = history_of(log)
    await history.load(P, 0)
    history.forget(P)
    assert history.cached(P, 0) is None
    assert history._bytes == 0
    await history.load(P, 0)
    assert len(log.reads) == 2


W = Want((P,), frozenset(), Format.SSE)


def at(offset: int, stamp: int = 0) -> Position:
    return Position((P,), (offset,), (stamp,))


def a_portion(body: bytes, offset: int, events: int) -> Portion:
    piece = apart(Encoding.IDENTITY, body, events) if body else None
    return Portion(piece, at(offset), 0, 0.0)


def test_chunks_are_found_by_want_position_and_time() -> None:
    cache = ChunkCache(bytes_max=10**6)
    chunk = a_portion(b"abc", 5, 5)
    cache.keep(W, at(0), chunk)
    assert cache.get(W, at(0), (9,)) is chunk
    assert cache.get(W._replace(format=Format.NDJSON), at(0), (9,)) is None
    assert cache.get(W, at(1), (9,)) is None
    assert cache.get(W, at(0, 7), (9,)) is None, "its ids would carry another time"
    cache.clear()
    assert cache.get(W, at(0), (9,)) is None


def test_a_chunk_that_goes_beyond_what_may_be_read_is_not_taken() -> None:
    cache = ChunkCache(bytes_max=10**6)
    cache.keep(W, at(0), a_portion(b"abc", 5, 5))
    assert cache.get(W, at(0), (5,)) is not None
    assert cache.get(W, at(0), (4,)) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3_000)), max_size=40))
def test_the_cache_of_chunks_is_bounded(kept: list[tuple[int, int]]) -> None:
    cache = ChunkCache(bytes_max=10_000)
    for offset, size in kept:
        cache.keep(W, at(offset), a_portion(b"x" * size, offset + 1, 1))
        assert sum(len(p.piece.content) for p in cache._chunks.values() if p.piece) <= 10_000
        assert cache._bytes <= 10_000
        assert cache.get(W, at(offset), (99,)) is not None


def test_chunks_without_events_take_no_more_memory_than_is_counted() -> None:
    partitions = tuple(Partition("t", n) for n in range(100))
    want = Want(partitions, frozenset(), Format.SSE)
    cache = ChunkCache(bytes_max=2_000_000)
    tracemalloc.start()
    try:
        for n in range(500):
            offsets, times, epochs, *after = (
                tuple(10**9 + 1000 * n + i for i in range(100)) for _ in range(6)
            )
            chunk = Portion(None, Position(partitions, *after), 0, 0.0)
            cache.keep(want, Position(partitions, offsets, times, epochs), chunk)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.5 * 2_000_000
