"""`offer` returns one outcome for each record, in order."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.errors import AppendRefused, LogError, UnknownPartition, UnknownTopic
from eventstreams.log.base import Log
from eventstreams.model.event import Partition, Placed, Record
from tests.support.backends import Backend, Memory, Sqlite, over_all_backends, read_all

pytestmark = [pytest.mark.anyio, over_all_backends]
PLENTY = 1 << 20


async def kept(log: Log, topic: str) -> dict[tuple[int, int], bytes | None]:
    """Return the values of all records, by partition and offset."""
    found: dict[tuple[int, int], bytes | None] = {}
    for partition in (await log.partitions([topic])).get(topic, ()):
        for event in await read_all(log, partition, 0, PLENTY):
            found[partition.number, event.offset] = event.value
    return found


async def test_outcomes_are_places_in_the_order_of_the_records(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 3)
    records = [Record(topic, b"%d" % n, partition=n % 3) for n in range(30)]
    outcomes = await log.offer(records)
    assert len(outcomes) == 30
    places: list[Placed] = [o for o in outcomes if isinstance(o, Placed)]
    assert len(places) == 30
    assert {(p.partition.number, p.offset): b"%d" % n for n, p in enumerate(places)} == await kept(
        log, topic
    )
    for number in range(3):
        offsets = [p.offset for p in places if p.partition.number == number]
        assert offsets == list(range(10)), "the order within each partition is kept"


async def test_offering_no_records_succeeds(backend: Backend, log: Log) -> None:
    await backend.topic(log, 1)
    assert await log.offer([]) == []


async def test_a_refused_record_does_not_affect_the_others(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 1)
    bad = [Record(topic, b"nowhere", partition=7), Record(topic, b"x", partition=-1)]
    outcomes = await log.offer(
        [Record(topic, b"a"), bad[0], Record(topic, b"b"), bad[1], Record(topic, b"c")]
    )
    assert [isinstance(o, UnknownPartition) for o in outcomes] == [False, True, False, True, False]
    assert [(o.partition, o.offset) for o in outcomes if isinstance(o, Placed)] == [
        (Partition(topic, 0), n) for n in range(3)
    ]
    assert await kept(log, topic) == {(0, 0): b"a", (0, 1): b"b", (0, 2): b"c"}


async def test_a_record_that_is_too_large_does_not_affect_the_others(
    backend: Backend, log: Log
) -> None:
    if isinstance(backend, Memory):
        pytest.skip("memory accepts records of any size")
    topic = await backend.topic(log, 1)
    huge = Record(topic, b"x" * (70 << 20))
    outcomes = await log.offer([Record(topic, b"a"), huge, Record(topic, b"b")])
    assert isinstance(outcomes[1], AppendRefused)
    assert await kept(log, topic) == {(0, 0): b"a", (0, 1): b"b"}


async def test_a_missing_topic_fails_only_its_own_records(backend: Backend, log: Log) -> None:
    if backend.makes_topics:
        pytest.skip("topics are made on first use")
    topic, missing = await backend.topic(log, 1), backend.topic_name()
    outcomes = await log.offer([Record(missing, b"x"), Record(topic, b"a"), Record(missing, b"y")])
    assert [isinstance(o, UnknownTopic) for o in outcomes] == [True, False, True]
    assert await kept(log, topic) == {(0, 0): b"a"}


async def test_concurrent_offers_lose_nothing(backend: Backend, log: Log) -> None:
    topic = await backend.topic(log, 1)
    sent = [[Record(topic, b"%d-%d" % (who, n)) for n in range(20)] for who in range(8)]
    answers = await asyncio.gather(*(log.offer(records) for records in sent))
    found = await kept(log, topic)
    assert len(found) == 160
    for records, outcomes in zip(sent, answers, strict=True):
        offsets: list[int] = []
        for record, outcome in zip(records, outcomes, strict=True):
            assert isinstance(outcome, Placed)
            assert found[0, outcome.offset] == record.value
            offsets.append(outcome.offset)
        assert offsets == sorted(offsets)


async def test_a_closed_log_is_reported_as_an_outcome(backend: Backend) -> None:
    log = await backend.open()
    topic = await backend.topic(log, 1)
    await log.aclose()
    if isinstance(backend, Memory):
        pytest.skip("memory has nothing to close")
    [outcome] = await log.offer([Record(topic, b"late")])
    assert isinstance(outcome, LogError)


_batches = st.lists(
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 5]), st.binary(max_size=8)), max_size=6),
    max_size=5,
)


@settings(deadline=None, max_examples=30)
@given(_batches)
def test_exactly_the_placed_records_are_stored(
    kind: type[Backend], batches: list[list[tuple[int, bytes]]]
) -> None:
    if kind not in (Memory, Sqlite):
        pytest.skip("the examples above are enough for a broker")

    async def check() -> None:
        async with kind.place() as backend:
            log = await backend.open()
            topic = await backend.topic(log, 3)
            expected: dict[tuple[int, int], bytes] = {}
            nexts = [0, 0, 0]
            for batch in batches:
                records = [Record(topic, value, partition=number) for number, value in batch]
                outcomes = await log.offer(records)
                for (number, value), outcome in zip(batch, outcomes, strict=True):
                    if number > 2:
                        assert isinstance(outcome, UnknownPartition)
                        continue
                    assert isinstance(outcome, Placed)
                    assert outcome.offset == nexts[number]
                    nexts[number] += 1
                    expected[number, outcome.offset] = value
            assert await kept(log, topic) == expected
            await log.aclose()

    asyncio.run(check())
