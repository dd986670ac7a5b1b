"""History is read once for all clients that need it at the same time, and is bounded."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.errors import LogUnavailable, OffsetOutOfRange
from eventstreams.fanout.batch import EncodedBatch
from eventstreams.fanout.compression import Encoding, apart
from eventstreams.fanout.history import BatchCache, History
from eventstreams.fanout.spec import Format, SubscriptionSpec
from eventstreams.log.base import Slice
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Partition, Record
from eventstreams.model.position import Position
from tests.support.epoch_log import EpochLog

pytestmark = pytest.mark.anyio
P = Partition("t", 0)


class CountingLog(MemoryLog):
    """A log that answers after one pass of the event loop, and counts its reads."""

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
        assert run.next > offset, "a reader would loop forever"
        offset = run.next
        await asyncio.sleep(0)
    return seen


async def test_nearby_readers_share_reads() -> None:
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
    assert len({id(run.frames[0]) for run in runs}) == 1, "frames are parsed and encoded once too"


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
def test_cached_history_equals_the_log(
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
        assert all(end <= start for (_, end), (start, _) in pairwise(held)), "cached twice"

    asyncio.run(check())


async def test_the_least_recently_used_block_is_dropped() -> None:
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


async def test_an_aligned_start_may_be_deleted() -> None:
    log = await log_of(300, oldest=270)
    run = await history_of(log).load(P, 280)
    assert [frame.offset for frame in run.frames] == list(range(280, 300))


async def test_reading_at_the_end_returns_nothing() -> None:
    log = await log_of(10)
    run = await history_of(log).load(P, 10)
    assert (list(run.frames), run.next) == ([], 10)


@pytest.mark.parametrize("offset", range(1, 11))
async def test_the_time_before_an_offset_is_that_of_the_record_before_it(offset: int) -> None:
    history = history_of(await log_of(10))
    assert await history.timestamp_before(P, offset) == 999 + offset


async def test_the_time_before_the_oldest_record_is_unknown() -> None:
    history = history_of(await log_of(10, oldest=4))
    with pytest.raises(OffsetOutOfRange):
        await history.timestamp_before(P, 4)
    assert await history.timestamp_before(P, 5) == 1_004


async def test_forgotten_blocks_are_read_again() -> None:
    log = await log_of(10)
    history = history_of(log)
    await history.load(P, 0)
    history.forget(P)
    assert history.cached(P, 0) is None
    assert history._bytes == 0
    await history.load(P, 0)
    assert len(log.reads) == 2


SPEC = SubscriptionSpec((P,), frozenset(), Format.SSE)


def at(offset: int, stamp: int = 0) -> Position:
    return Position((P,), (offset,), (stamp,))


def a_batch(body: bytes, offset: int, events: int) -> EncodedBatch:
    piece = apart(Encoding.IDENTITY, body, events) if body else None
    return EncodedBatch(piece, at(offset), 0, 0.0)


def test_batches_are_cached_by_spec_position_and_time() -> None:
    cache = BatchCache(bytes_max=10**6)
    batch = a_batch(b"abc", 5, 5)
    cache.keep(SPEC, at(0), batch)
    assert cache.get(SPEC, at(0), (9,)) is batch
    assert cache.get(SPEC._replace(format=Format.NDJSON), at(0), (9,)) is None
    assert cache.get(SPEC, at(1), (9,)) is None
    assert cache.get(SPEC, at(0, 7), (9,)) is None, "its ids would have another time"
    cache.clear()
    assert cache.get(SPEC, at(0), (9,)) is None


def test_a_cached_batch_beyond_the_permitted_ends_is_not_used() -> None:
    cache = BatchCache(bytes_max=10**6)
    cache.keep(SPEC, at(0), a_batch(b"abc", 5, 5))
    assert cache.get(SPEC, at(0), (5,)) is not None
    assert cache.get(SPEC, at(0), (4,)) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3_000)), max_size=40))
def test_the_cache_of_batches_is_bounded(kept: list[tuple[int, int]]) -> None:
    cache = BatchCache(bytes_max=10_000)
    for offset, size in kept:
        cache.keep(SPEC, at(offset), a_batch(b"x" * size, offset + 1, 1))
        assert sum(len(p.piece.content) for p in cache._batches.values() if p.piece) <= 10_000
        assert cache._bytes <= 10_000
        assert cache.get(SPEC, at(offset), (99,)) is not None


def test_batches_without_events_take_no_more_memory_than_counted() -> None:
    partitions = tuple(Partition("t", n) for n in range(100))
    spec = SubscriptionSpec(partitions, frozenset(), Format.SSE)
    cache = BatchCache(bytes_max=2_000_000)
    tracemalloc.start()
    try:
        for n in range(500):
            offsets, times, epochs, *after = (
                tuple(10**9 + 1000 * n + i for i in range(100)) for _ in range(6)
            )
            batch = EncodedBatch(None, Position(partitions, *after), 0, 0.0)
            cache.keep(spec, Position(partitions, offsets, times, epochs), batch)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.5 * 2_000_000


def test_a_cached_batch_serves_a_client_ahead_in_another_partition() -> None:
    """Its cohort is behind in the second partition, of which the batch has no events."""
    partitions = (P, Partition("t", 1))
    spec = SubscriptionSpec(partitions, frozenset(), Format.SSE)
    cache = BatchCache(bytes_max=10**6)
    before, after = (Position(partitions, (n, 9), (0, 0)) for n in (0, 5))
    batch = EncodedBatch(apart(Encoding.IDENTITY, b"abc", 5), after, 0, 0.0)
    cache.keep(spec, before, batch)
    assert cache.get(spec, before, (5, 4)) is batch
    assert cache.get(spec, before, (4, 4)) is None


async def test_blocks_of_partitions_read_together_fit_into_the_cache() -> None:
    partitions = [Partition("t", n) for n in range(8)]
    log = CountingLog()
    await log.create_topic("t", len(partitions))
    records = [Record("t", b"x" * 1_000, None, n, p.number) for n in range(60) for p in partitions]
    await log.append(records)
    history = history_of(log, block=100_000, most=200_000)
    for partition in partitions:
        await history.load(partition, 0, len(partitions))
    assert all(history.cached(partition, 0) for partition in partitions)


async def test_a_block_has_no_epoch_of_records_after_its_end() -> None:
    """With a wrong epoch in its id, the client would seem to have read the lost records."""
    log = EpochLog()
    await log.create_topic("t", 1)
    await log.append([Record("t", b"x", None, 1_000 + n, 0) for n in range(400)])
    await log.lose(P, 300, [Record("t", b"y", None, 2_000 + n, 0) for n in range(100)])
    history = History(log=log, block_bytes=10**6, bytes_max=10**6, metrics=Metrics())
    await history.load(P, 300)  # from 256 on
    run = await history.load(P, 0)
    assert run.next == 256
    assert run.last_epoch in (0, NO_EPOCH)


async def test_a_block_whose_partition_changes_during_the_read_is_not_cached() -> None:
    log = await log_of(10)
    history = history_of(log)
    reading = asyncio.create_task(history.load(P, 0))
    while not history._reading:
        await asyncio.sleep(0)
    assert not log.reads
    history.forget(P)
    with pytest.raises(LogUnavailable, match="changed while it was being read"):
        await reading
    assert history.cached(P, 0) is None
