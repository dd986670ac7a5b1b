"""`offer` with any mix of refusals: a refused record affects no other record."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.errors import AppendRefused, LogError, UnknownPartition, UnknownTopic
from eventstreams.log.base import Log
from eventstreams.model.event import Partition, Placed, Record
from tests.support.backends import Backend, Kafka, Memory, over_all_backends, read_all
from tests.support.strategies import records

pytestmark = [pytest.mark.anyio, over_all_backends]
PLENTY = 1 << 20
PARTITIONS = 3


async def kept(log: Log, topic: str) -> dict[Placed, Record]:
    found: dict[Placed, Record] = {}
    for partition in (await log.partitions([topic])).get(topic, ()):
        for event in await read_all(log, partition, 0, PLENTY):
            record = Record(topic, event.value, event.key, event.timestamp_ms, partition.number)
            found[Placed(partition, event.offset)] = record
    return found


async def agrees(
    log: Log, topic: str, offered: list[Record], outcomes: list[Placed | LogError]
) -> None:
    """Check that exactly the placed records are read, in the order in which they were offered."""
    assert len(outcomes) == len(offered)
    there = await kept(log, topic)
    places = [(r, o) for r, o in zip(offered, outcomes, strict=True) if isinstance(o, Placed)]
    assert len({o for _, o in places}) == len(places)
    assert {o for _, o in places} == there.keys()
    last: dict[Partition, int] = {}
    for record, where in places:
        assert last.get(where.partition, -1) < where.offset
        last[where.partition] = where.offset
        found = there[where]
        assert (found.value, found.key) == (record.value, record.key)
        assert record.timestamp_ms in (None, found.timestamp_ms)
        assert record.partition in (None, where.partition.number)


async def test_refusals_of_all_kinds_do_not_affect_other_records(
    backend: Backend, log: Log
) -> None:
    topic = await backend.topic(log, PARTITIONS)
    offered: list[Record] = []
    for n in range(40):
        offered.append(Record(topic, b"%d" % n, key=b"%d" % (n % 5), timestamp_ms=n))
        if n % 7 == 0:
            offered.append(Record(topic, b"nowhere", partition=PARTITIONS + n))
        if n % 9 == 0 and not isinstance(backend, Memory):
            offered.append(Record(topic, b"x" * (17 << 20), key=b"1"))
        if n % 11 == 0 and not backend.makes_topics:
            offered.append(Record(backend.topic_name(), b"lost"))
            offered.append(Record("no/topic" + "x" * n, b"lost"))
    outcomes = await log.offer(offered)
    await agrees(log, topic, offered, outcomes)
    for record, outcome in zip(offered, outcomes, strict=True):
        if record.topic != topic:
            assert isinstance(outcome, UnknownTopic), outcome
        elif record.value == b"nowhere":
            assert isinstance(outcome, UnknownPartition)
        elif len(record.value or b"") > 100:
            assert isinstance(outcome, AppendRefused), outcome
        else:
            assert isinstance(outcome, Placed)


async def test_offers_of_several_batches_keep_their_order(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 1)
    offered = [Record(topic, b"%d " % n + b"x" * (n % 5) * 50_000) for n in range(60)]
    outcomes = await log.offer(offered)
    await agrees(log, topic, offered, outcomes)
    assert all(isinstance(o, Placed) for o in outcomes)


@pytest.mark.parametrize("timestamp_ms", [-1, -(2**63), 2**63 - 1, 2**63, -(2**70)])
async def test_only_records_with_impossible_times_are_refused(
    backend: Backend, log: Log, timestamp_ms: int
) -> None:
    topic = await backend.topic(log, 1)
    offered = [
        Record(topic, b"a"),
        Record(topic, b"odd", timestamp_ms=timestamp_ms),
        Record(topic, b"b"),
    ]
    outcomes = await log.offer(offered)
    assert [isinstance(o, Placed) for o in outcomes][::2] == [True, True]
    assert isinstance(outcomes[1], Placed | LogError)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "é", "x" * 300, "a\0b", "\ud800"])
async def test_only_records_with_impossible_topic_names_are_refused(
    backend: Backend, log: Log, name: str
) -> None:
    topic = await backend.topic(log, 1)
    offered = [Record(topic, b"a"), Record(name, b"odd"), Record(topic, b"b")]
    outcomes = await log.offer(offered)
    assert [isinstance(o, Placed) for o in outcomes][::2] == [True, True]
    assert isinstance(outcomes[1], Placed | LogError)


async def test_concurrent_offers_and_appends_survive_refusals(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 1)
    big = b"x" * (17 << 20)

    async def offer(who: int) -> tuple[list[Record], list[Placed | LogError]]:
        mine = [Record(topic, b"%d-%d" % (who, n), partition=0) for n in range(10)]
        if not isinstance(backend, Memory):
            mine.insert(5, Record(topic, big, partition=0))
        mine.insert(3, Record(topic, b"nowhere", partition=9))
        return mine, await log.offer(mine)

    async def append(who: int) -> tuple[list[Record], list[Placed | LogError]]:
        mine = [Record(topic, b"a%d-%d" % (who, n), partition=0) for n in range(10)]
        return mine, list(await log.append(mine))

    done = await asyncio.gather(*(offer(n) for n in range(6)), *(append(n) for n in range(6)))
    there = await kept(log, topic)
    placed = 0
    for mine, outcomes in done:
        offsets = []
        for record, outcome in zip(mine, outcomes, strict=True):
            good = record.partition == 0 and record.value is not big
            assert isinstance(outcome, Placed) == good, outcome
            if good:
                assert there[outcome].value == record.value
                offsets.append(outcome.offset)
        assert offsets == sorted(offsets)
        placed += len(offsets)
    assert placed == len(there) == 120


async def test_the_log_works_after_a_cancelled_offer(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 1)
    for number in range(15):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(log.offer([Record(topic, b"maybe")] * 3))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            task.cancel()
        [outcome] = await log.offer([Record(topic, b"%d" % number)])
        assert isinstance(outcome, Placed)
    values = [r.value for r in (await kept(log, topic)).values() if r.value != b"maybe"]
    assert values == [b"%d" % n for n in range(15)]


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(records("any", PARTITIONS + 2), max_size=8), max_size=4))
def test_each_offered_record_is_either_stored_or_refused(
    kind: type[Backend], batches: list[list[Record]]
) -> None:
    async def run() -> None:
        async with kind.place() as backend:
            log = await backend.open()
            topic = await backend.topic(log, PARTITIONS)
            offered, outcomes = [], []
            for batch in batches:
                mine = [Record(topic, r.value, r.key, r.timestamp_ms, r.partition) for r in batch]
                offered += mine
                outcomes += await log.offer(mine)
            await agrees(log, topic, offered, outcomes)
            for record, outcome in zip(offered, outcomes, strict=True):
                inside = record.partition is None or record.partition < PARTITIONS
                assert isinstance(outcome, Placed if inside else UnknownPartition)
            await log.aclose()

    if kind is Kafka:
        pytest.skip("the examples above are enough for a broker")
    asyncio.run(run())
