"""Checks each sentence of the protocol of Log, over every backend."""

from __future__ import annotations

import asyncio
import time
import zlib

import pytest

from eventstreams.errors import OffsetOutOfRange, UnknownPartition, UnknownTopic
from eventstreams.log.base import Follower, Log
from eventstreams.model.event import Bounds, Event, Partition, Placed, Record
from tests.support.backends import Backend, over_all_backends, read_all

pytestmark = [pytest.mark.anyio, over_all_backends]

PATIENCE_S = 60.0
PLENTY = 1 << 20


async def fill(log: Log, partition: Partition, values: list[bytes | None]) -> list[Placed]:
    topic, number = partition
    return await log.append([Record(topic, value, partition=number) for value in values])


async def follow_until(follower: Follower, count: int) -> dict[Partition, list[Event]]:
    events: dict[Partition, list[Event]] = {}
    nexts: dict[Partition, int] = {}
    async with asyncio.timeout(PATIENCE_S):
        while sum(map(len, events.values())) < count:
            slices = await follower.next()
            assert slices
            assert len({slice_.partition for slice_ in slices}) == len(slices)
            for partition, found, following, _ in slices:
                assert all(event.offset >= nexts.get(partition, 0) for event in found)
                events.setdefault(partition, []).extend(found)
                nexts[partition] = following
    return events


def offsets(events: list[Event]) -> list[int]:
    return [event.offset for event in events]


# partitions, create_topic


async def test_partitions_are_in_order_and_exclude_unknown_topics(
    backend: Backend, log: Log
) -> None:
    topic = await backend.topic(log, 3)
    found = await log.partitions([topic, backend.topic_name()])
    assert found == {topic: tuple(Partition(topic, number) for number in range(3))}


async def test_creating_a_topic_again_adds_but_never_removes_partitions(
    backend: Backend, log: Log
) -> None:
    topic = await backend.topic(log, 2)
    await fill(log, Partition(topic, 1), [b"kept"])
    await log.create_topic(topic, 4)
    await log.create_topic(topic, 4)
    await log.create_topic(topic, 1)
    assert len((await log.partitions([topic]))[topic]) == 4
    assert await log.bounds([Partition(topic, 1), Partition(topic, 3)]) == {
        Partition(topic, 1): Bounds(0, 1),
        Partition(topic, 3): Bounds(0, 0),
    }


async def test_the_first_append_may_create_a_topic(backend: Backend, log: Log) -> None:
    if not backend.makes_topics:
        pytest.skip("this backend does not create topics on first use")
    topic = backend.topic_name()
    await log.append([Record(topic, b"first")])
    assert len((await log.partitions([topic]))[topic]) == backend.partitions_per_topic


async def test_missing_topics_and_partitions_raise_errors(backend: Backend, log: Log) -> None:
    missing, topic = Partition(backend.topic_name(), 0), await backend.topic(log, 1)
    beside, negative = Partition(topic, 1), Partition(topic, -1)
    for call in (
        lambda p: log.bounds([p]),
        lambda p: log.offset_at({p: 0}),
        lambda p: log.read(p, 0, PLENTY),
    ):
        with pytest.raises(UnknownTopic) as topic_error:
            await call(missing)
        assert topic_error.value.topic == missing.topic
        for partition in (beside, negative):
            with pytest.raises(UnknownPartition) as partition_error:
                await call(partition)
            assert partition_error.value.partition == partition


# append


async def test_append_returns_the_place_of_each_record(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 3)
    numbers = [2, 0, 2, 1, 0, 2]
    placed = await log.append([Record(topic, b"%d" % n, partition=n) for n in numbers])
    assert [(p.partition.number, p.offset) for p in placed] == [
        (2, 0), (0, 0), (2, 1), (1, 0), (0, 1), (2, 2),
    ]  # fmt: skip
    for partition, offset in placed:
        (event, *_) = (await log.read(partition, offset, 1)).events
        assert event.value == b"%d" % partition.number


async def test_records_are_read_as_they_were_appended(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 1)
    everything = bytes(range(256)) + b"\0\n\0"
    records = [
        Record(topic, b"plain", None, 1_000),
        Record(topic, None, b"tombstone", 2_000),
        Record(topic, b"", b"", 3_000),
        Record(topic, everything, everything, 2**40),
        Record(topic, None, None, 0),
        Record(topic, b"\xff\xfe", b"\x00", 5),
    ]
    await log.append(records)
    partition = Partition(topic, 0)
    assert await read_all(log, partition, 0, PLENTY) == [
        Event(partition, offset, record.timestamp_ms or 0, record.value, record.key)
        for offset, record in enumerate(records)
    ]


async def test_a_record_without_timestamp_gets_the_time_of_appending(
    backend: Backend, log: Log
) -> None:
    topic = await backend.topic(log, 1)
    before_ms = int(time.time() * 1000)
    await log.append([Record(topic, b"now")])
    after_ms = int(time.time() * 1000)
    (event,) = await read_all(log, Partition(topic, 0), 0, PLENTY)
    assert before_ms <= event.timestamp_ms <= after_ms


async def test_records_with_equal_keys_share_a_partition_others_are_spread(
    backend: Backend, log: Log
) -> None:
    topic = await backend.topic(log, 3)
    by_key: dict[bytes, set[int]] = {}
    for key in [b"%d" % (n % 10) for n in range(40)]:
        (placed,) = await log.append([Record(topic, b"", key)])
        by_key.setdefault(key, set()).add(placed.partition.number)
    assert all(len(numbers) == 1 for numbers in by_key.values())
    if backend.keeps_keys_together_by_crc32:
        assert by_key == {key: {zlib.crc32(key) % 3} for key in by_key}
    placed_alone = [await log.append([Record(topic, b"")]) for _ in range(30)]
    assert {placed.partition.number for (placed,) in placed_alone} == {0, 1, 2}


async def test_an_append_to_a_missing_partition_stores_nothing(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 2)
    for number in (2, -1):
        with pytest.raises(UnknownPartition):
            await log.append(
                [Record(topic, b"a", partition=0), Record(topic, b"b", partition=number)]
            )
    assert await log.bounds([Partition(topic, 0)]) == {Partition(topic, 0): Bounds(0, 0)}


async def test_appending_no_records_succeeds(log: Log) -> None:
    assert await log.append([]) == []


async def test_concurrent_appends_get_different_offsets(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 1)
    partition = Partition(topic, 0)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(fill(log, partition, [b"%d.%d" % (task, n) for n in range(5)]))
            for task in range(20)
        ]
    values = [event.value for event in await read_all(log, partition, 0, PLENTY)]
    assert len(values) == 100
    for number, task in enumerate(tasks):
        at = [placed.offset for placed in task.result()]
        assert at == sorted(at)
        assert [values[offset] for offset in at] == [b"%d.%d" % (number, n) for n in range(5)]


async def test_the_log_works_after_a_cancelled_append(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 1)
    partition = Partition(topic, 0)
    for number in range(20):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fill(log, partition, [b"maybe", b"maybe"]))
            await asyncio.sleep(0)
            task.cancel()
        (placed,) = await fill(log, partition, [b"%d" % number])
        (event, *_) = (await log.read(partition, placed.offset, 1)).events
        assert event.value == b"%d" % number
    events = await read_all(log, partition, 0, PLENTY)
    assert offsets(events) == list(range(len(events)))
    assert [event.value for event in events if event.value != b"maybe"] == [
        b"%d" % number for number in range(20)
    ]


async def test_records_persist_when_the_log_is_opened_again(
    kind: type[Backend], backend: Backend
) -> None:
    if not backend.durable:
        pytest.skip(f"{kind.name} keeps no records")
    log = await backend.open()
    topic = await backend.topic(log, 2)
    partition = Partition(topic, 1)
    await fill(log, partition, [b"a", None, b"c"])
    events = await read_all(log, partition, 0, PLENTY)
    await log.aclose()
    log = await backend.open()
    try:
        assert await read_all(log, partition, 0, PLENTY) == events
        assert [placed.offset for placed in await fill(log, partition, [b"d"])] == [3]
    finally:
        await log.aclose()


# bounds, read


async def test_bounds_follow_appends_and_retention(backend: Backend, log: Log) -> None:
    partition = Partition(await backend.topic(log, 2), 1)
    assert await log.bounds([partition]) == {partition: Bounds(0, 0)}
    await fill(log, partition, [b"x"] * 10)
    assert await log.bounds([partition]) == {partition: Bounds(0, 10)}
    await backend.forget_before(log, partition, 4)
    assert await log.bounds([partition]) == {partition: Bounds(4, 10)}
    await backend.forget_before(log, partition, 10)
    assert await log.bounds([partition]) == {partition: Bounds(10, 10)}
    assert [placed.offset for placed in await fill(log, partition, [b"y"])] == [10]
    assert await log.bounds([]) == {}


async def test_a_read_at_the_end_returns_no_events_and_the_same_offset(
    backend: Backend, log: Log
) -> None:
    partition = Partition(await backend.topic(log, 1), 0)
    for _ in range(2):
        end = (await log.bounds([partition]))[partition].end
        found = await log.read(partition, end, PLENTY)
        assert (found.partition, list(found.events), found.next) == (partition, [], end)
        await fill(log, partition, [b"x"] * 3)


@pytest.mark.parametrize("offset", [-1, 2, 11, 2**40, 2**70])
async def test_an_offset_out_of_range_raises_an_error_with_the_bounds(
    backend: Backend, log: Log, offset: int
) -> None:
    partition = Partition(await backend.topic(log, 1), 0)
    await fill(log, partition, [b"x"] * 10)
    await backend.forget_before(log, partition, 3)
    with pytest.raises(OffsetOutOfRange) as error:
        await log.read(partition, offset, PLENTY)
    assert (error.value.partition, error.value.offset) == (partition, offset)
    assert error.value.bounds == Bounds(3, 10)


@pytest.mark.parametrize("max_bytes", [1, 99, 100, 101, 250, 10_000])
async def test_a_read_returns_about_max_bytes_and_at_least_one_event(
    backend: Backend, log: Log, max_bytes: int
) -> None:
    partition = Partition(await backend.topic(log, 1), 0)
    await fill(log, partition, [b"x" * 100] * 30)
    found = await log.read(partition, 3, max_bytes)
    assert found.events[0].offset == 3
    if backend.exact_bytes:
        assert len(found.events) == min(27, -(-max_bytes // 100))
    assert offsets(await read_all(log, partition, 3, max_bytes)) == list(range(3, 30))


async def test_records_of_very_different_sizes_are_read_completely(
    backend: Backend, log: Log
) -> None:
    partition = Partition(await backend.topic(log, 1), 0)
    values = [b"", b"x" * 300_000, None, b"y", b"z" * 70_000, *[b"w"] * 300]
    await fill(log, partition, list(values))
    for max_bytes in (1, 1_000, 100_000):
        events = await read_all(log, partition, 0, max_bytes)
        assert [event.value for event in events] == values


async def test_reading_from_any_offset_returns_exactly_the_rest(backend: Backend, log: Log) -> None:
    partition = Partition(await backend.topic(log, 2), 1)
    await fill(log, Partition(partition.topic, 0), [b"other"] * 5)
    await fill(log, partition, [b"%d" % n for n in range(12)])
    for offset in range(12):
        assert offsets(await read_all(log, partition, offset, 4)) == list(range(offset, 12))


async def test_next_skips_holes(backend: Backend, log: Log) -> None:
    partition = Partition(await backend.topic(log, 1), 0)
    await fill(log, partition, [b"x"] * 10)
    await backend.punch_holes(log, partition, [0, 3, 4, 5, 9])
    assert await log.bounds([partition]) == {partition: Bounds(0, 10)}
    for offset in range(10):
        events = await read_all(log, partition, offset, 1)
        assert offsets(events) == [n for n in (1, 2, 6, 7, 8) if n >= offset]
    follower = log.follow({partition: 0})
    assert offsets((await follow_until(follower, 5))[partition]) == [1, 2, 6, 7, 8]
    await follower.aclose()


# offset_at


async def test_offset_at_finds_the_first_record_at_or_after_a_time(
    backend: Backend, log: Log
) -> None:
    topic = await backend.topic(log, 1)
    partition = Partition(topic, 0)
    times = [500, 100, 300, 300, 200, 700, 700, 50, 900, 600]
    await log.append([Record(topic, b"", timestamp_ms=time_ms) for time_ms in times])
    for kept in (0, 1, 6, 9, 10):
        await backend.forget_before(log, partition, kept)
        for asked in (0, 50, 100, 250, 300, 301, 500, 501, 700, 701, 900, 901, 2**62):
            expected = next((n for n in range(kept, 10) if times[n] >= asked), None)
            assert await log.offset_at({partition: asked}) == {partition: expected}


async def test_offset_at_a_deleted_time_finds_the_oldest_record_kept(
    backend: Backend, log: Log
) -> None:
    """The times are days apart, so that Kafka begins new segments, which it removes later."""
    topic = await backend.topic(log, 1)
    partition = Partition(topic, 0)
    day_ms = 86_400_000
    times = [1_600_000_000_000 + 10 * day_ms * n for n in range(6)]
    for time_ms in times:
        await log.append([Record(topic, b"", timestamp_ms=time_ms + n) for n in range(2)])
    flat = [time_ms + n for time_ms in times for n in range(2)]
    for kept in (1, 2, 3, 4, 7, 12):
        await backend.forget_before(log, partition, kept)
        for asked in (0, *flat, *(time_ms + 2 for time_ms in flat), 2**62):
            expected = next((n for n in range(kept, len(flat)) if flat[n] >= asked), None)
            assert await log.offset_at({partition: asked}) == {partition: expected}


async def test_offset_at_works_in_long_partitions(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 2)
    times = [10_000 + 10 * n - 5_000 * (n % 97 == 0) for n in range(2_000)]
    times[300] = 22_000  # a record from a clock that was ahead
    for number in (0, 1):
        await log.append(
            [Record(topic, b"", timestamp_ms=t + number, partition=number) for t in times]
        )
    first, second = Partition(topic, 0), Partition(topic, 1)
    for kept in (0, 290, 301, 1_000):
        await backend.forget_before(log, first, kept)
        for asked in (0, 10_000, 12_999, 13_000, 21_990, 22_001, 25_005, 29_991, 40_000):
            expected = next((n for n in range(kept, 2_000) if times[n] >= asked), None)
            beside = next((n for n in range(2_000) if times[n] + 1 >= asked), None)
            found = await log.offset_at({first: asked, second: asked})
            assert found == {first: expected, second: beside}


async def test_offset_at_finds_nothing_in_an_empty_partition(backend: Backend, log: Log) -> None:
    partition = Partition(await backend.topic(log, 1), 0)
    assert await log.offset_at({partition: 0}) == {partition: None}
    assert await log.offset_at({}) == {}


# follow


@pytest.mark.parametrize("start", [0, 1, 5, 9, 10])
async def test_following_from_any_offset_returns_later_and_new_events(
    backend: Backend, log: Log, start: int
) -> None:
    partition = Partition(await backend.topic(log, 1), 0)
    await fill(log, partition, [b"x"] * 10)
    follower = log.follow({partition: start})
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow_until(follower, 30 - start))
        for _ in range(20):
            await fill(log, partition, [b"y"])
    assert offsets(task.result()[partition]) == list(range(start, 30))
    await follower.aclose()


async def test_a_follower_at_the_end_waits_for_new_events(backend: Backend, log: Log) -> None:
    first = Partition(await backend.topic(log, 1), 0)
    second = Partition(await backend.topic(log, 1), 0)
    follower = log.follow({first: 0, second: 0})
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow_until(follower, 1))
        await fill(log, second, [b"news"])
    assert offsets(task.result()[second]) == [0]
    await follower.aclose()


async def test_following_during_concurrent_appends_loses_and_repeats_nothing(
    backend: Backend, log: Log
) -> None:
    topic = await backend.topic(log, 4)
    partitions = [Partition(topic, number) for number in range(4)]
    follower = log.follow(dict.fromkeys(partitions, 0))

    async def produce(producer: int) -> None:
        for n in range(25):
            await log.append(
                [Record(topic, b"%d/%d" % (producer, n), partition=p) for p in range(4)]
            )

    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow_until(follower, 4 * 100))
        for producer in range(4):
            group.create_task(produce(producer))
    for partition in partitions:
        events = task.result()[partition]
        assert offsets(events) == list(range(100))
        assert events == await read_all(log, partition, 0, PLENTY)
    await follower.aclose()


async def test_following_a_large_backlog_reaches_every_partition(
    backend: Backend, log: Log
) -> None:
    topic = await backend.topic(log, 8)
    for number in range(8):
        await fill(log, Partition(topic, number), [b"x" * 200_000] * 8)
    follower = log.follow({Partition(topic, number): 0 for number in range(8)})
    found = await follow_until(follower, 64)
    assert all(offsets(events) == list(range(8)) for events in found.values())
    await follower.aclose()


async def test_cancelling_a_waiting_next_loses_nothing(backend: Backend, log: Log) -> None:
    partition = Partition(await backend.topic(log, 1), 0)
    follower = log.follow({partition: 0})
    events: list[Event] = []
    for number in range(30):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(follower.next())
            append = group.create_task(fill(log, partition, [b"%d" % number]))
            for _ in range(number % 6):
                await asyncio.sleep(0)
            if number % 3 == 0:
                await append
            task.cancel()
        if not task.cancelled():
            events.extend(event for slice_ in task.result() for event in slice_.events)
    if len(events) < 30:
        events.extend((await follow_until(follower, 30 - len(events)))[partition])
    assert offsets(events) == list(range(30))
    await follower.aclose()


async def test_assign_adds_and_moves_partitions_while_next_waits(
    backend: Backend, log: Log
) -> None:
    topic = await backend.topic(log, 3)
    first, second, third = (Partition(topic, number) for number in range(3))
    for partition in (first, second, third):
        await fill(log, partition, [b"x"] * 4)
    follower = log.follow({third: 4})
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow_until(follower, 3))
        await asyncio.sleep(0)
        follower.assign({first: 1})
    assert {p: offsets(events) for p, events in task.result().items()} == {first: [1, 2, 3]}
    follower.assign({second: 2, first: 3})
    found = await follow_until(follower, 3)
    assert {p: offsets(events) for p, events in found.items()} == {second: [2, 3], first: [3]}
    await fill(log, third, [b"news"])
    assert offsets((await follow_until(follower, 1))[third]) == [4]
    await follower.aclose()


async def test_a_follower_without_partitions_waits_for_assign(backend: Backend, log: Log) -> None:
    partition = Partition(await backend.topic(log, 1), 0)
    await fill(log, partition, [b"x"])
    follower = log.follow({})
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow_until(follower, 1))
        await asyncio.sleep(0)
        assert not task.done()
        follower.assign({partition: 0})
    assert offsets(task.result()[partition]) == [0]
    await follower.aclose()


async def test_dropped_partitions_are_no_longer_read(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 2)
    kept, dropped = Partition(topic, 0), Partition(topic, 1)
    follower = log.follow({kept: 0, dropped: 0})
    follower.drop([dropped, Partition(backend.topic_name(), 7)])
    await fill(log, dropped, [b"x"])
    await fill(log, kept, [b"x"])
    assert list(await follow_until(follower, 1)) == [kept]
    await follower.aclose()


async def test_a_follower_that_retention_overtakes_gets_an_error(
    backend: Backend, log: Log
) -> None:
    topic = await backend.topic(log, 2)
    first, second = Partition(topic, 0), Partition(topic, 1)
    await fill(log, first, [b"x"] * 6)
    await backend.forget_before(log, first, 4)
    follower = log.follow({first: 2, second: 0})
    with pytest.raises(OffsetOutOfRange) as error:
        await follow_until(follower, 1)
    assert (error.value.partition, error.value.offset) == (first, 2)
    await fill(log, first, [b"unseen"])
    await fill(log, second, [b"seen"])
    assert list(await follow_until(follower, 1)) == [second], (
        "the partition is dropped before the error is raised"
    )
    follower.assign({first: 4})
    assert offsets((await follow_until(follower, 3))[first]) == [4, 5, 6]
    await follower.aclose()


async def test_a_follower_beyond_the_end_gets_an_error(backend: Backend, log: Log) -> None:
    partition = Partition(await backend.topic(log, 1), 0)
    await fill(log, partition, [b"x"])
    for offset in (2, 2**70, -1):
        follower = log.follow({partition: offset})
        with pytest.raises(OffsetOutOfRange):
            await follow_until(follower, 1)
        await follower.aclose()


async def test_a_missing_partition_is_reported_to_its_follower_once(
    backend: Backend, log: Log
) -> None:
    topic, missing = await backend.topic(log, 1), backend.topic_name()
    known, beside = Partition(topic, 0), Partition(topic, 1)
    follower = log.follow({Partition(missing, 0): 0, Partition(missing, 1): 0, beside: 0, known: 0})
    errors: list[UnknownTopic | UnknownPartition] = []
    for _ in range(2):
        try:
            await follow_until(follower, 1)
        except (UnknownTopic, UnknownPartition) as error:
            errors.append(error)
    assert {type(error) for error in errors} == {UnknownTopic, UnknownPartition}
    await fill(log, known, [b"x"])
    assert list(await follow_until(follower, 1)) == [known]
    await follower.aclose()


async def test_a_follower_reads_nothing_before_its_first_next(backend: Backend, log: Log) -> None:
    follower = log.follow({Partition(backend.topic_name(), 0): 0})
    await follower.aclose()


# aclose


async def test_a_log_may_be_closed_twice(backend: Backend) -> None:
    log = await backend.open()
    follower = log.follow({})
    await log.append([Record(await backend.topic(log, 1), b"x")])
    await follower.aclose()
    await follower.aclose()
    await log.aclose()
    await log.aclose()


async def test_closing_finishes_appends_in_progress(backend: Backend) -> None:
    log = await backend.open()
    partition = Partition(await backend.topic(log, 1), 0)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fill(log, partition, [b"x"] * 10)) for _ in range(10)]
        await asyncio.sleep(0)
        await log.aclose()
    assert sorted(placed.offset for task in tasks for placed in task.result()) == list(range(100))
