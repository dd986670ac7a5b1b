"""Features of Kafka alone: codecs, transactions, compaction, topics that are deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewPartitions, NewTopic

from eventstreams.errors import AppendRefused, LogUnavailable, UnknownTopic
from eventstreams.log.kafka.brokers import Brokers
from eventstreams.log.kafka.log import KafkaLog
from eventstreams.model.event import Bounds, Partition, Record
from tests.support.kafka_node import new_topic
from tests.support.kafka_tools import (
    PLENTY,
    admin,
    eventually,
    follow_until,
    offsets,
    opened,
    producer,
    read_all,
    topic_with,
    values,
)

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


# Batches


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_batches_of_every_codec_are_read(kafka: str, log: KafkaLog, codec: str) -> None:
    partition = Partition(await topic_with(kafka), 0)
    written = [b"%d " % n * 100 for n in range(200)]
    compression = None if codec == "none" else codec
    async with producer(kafka, compression_type=compression, linger_ms=5) as client:
        sent = [await client.send(partition.topic, value, partition=0) for value in written]
        await asyncio.gather(*sent)
    assert values(await read_all(log, partition)) == written
    assert offsets(await read_all(log, partition, 77)) == list(range(77, 200))
    follower = log.follow({partition: 133})
    assert offsets(await follow_until(follower, 67)) == list(range(133, 200))


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_other_clients_read_appends_in_every_codec(kafka: str, codec: str) -> None:
    topic = await topic_with(kafka)
    async with opened(kafka, compression=codec) as log:
        await log.append([Record(topic, b"%d" % n * 1000, b"k", 1_000 + n) for n in range(50)])
    where = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([where])
        found: list[Any] = []
        while len(found) < 50:
            found += (await consumer.getmany(timeout_ms=1000)).get(where, [])
    finally:
        await consumer.stop()
    assert [(one.value, one.key, one.timestamp) for one in found] == [
        (b"%d" % n * 1000, b"k", 1_000 + n) for n in range(50)
    ]


async def test_a_topic_may_use_the_time_of_appending(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka, message_timestamp_type="LogAppendTime")
    await log.append([Record(topic, b"x", timestamp_ms=1_000)])
    (event,) = await read_all(log, Partition(topic, 0))
    assert event.timestamp_ms > 1_600_000_000_000


async def test_records_larger_than_a_fetch_are_read_from_every_partition(kafka: str) -> None:
    topic = await topic_with(kafka, 3)
    partitions = [Partition(topic, number) for number in range(3)]
    async with opened(kafka, fetch_bytes_max=4096) as log:
        for _ in range(3):
            for partition in partitions:
                await log.append([Record(topic, b"x" * 50_000, partition=partition.number)])
        for partition in partitions:
            found = await log.read(partition, 0, 100)
            assert len(found.events) == found.next == 1
            assert offsets(await read_all(log, partition)) == [0, 1, 2]
        events = await follow_until(log.follow(dict.fromkeys(partitions, 0)), 9)
    for partition in partitions:
        assert [event.offset for event in events if event.partition == partition] == [0, 1, 2]


async def test_a_busy_partition_does_not_delay_a_large_record_of_another(kafka: str) -> None:
    topic = await topic_with(kafka, 2)
    busy, other = Partition(topic, 0), Partition(topic, 1)
    async with opened(kafka, fetch_bytes_max=4096) as log:
        await log.append([Record(topic, b"y" * 50_000, partition=1)])
        for _ in range(40):
            await log.append([Record(topic, b"x" * 3000, partition=0)])
        events = await follow_until(log.follow({busy: 0, other: 0}), 41)
    assert [event.partition for event in events].index(other) < 5


# Transactions


async def readable(log: KafkaLog, partition: Partition, end: int) -> None:
    """Wait until records up to this offset can be read.

    A commit and an abort are answered before their marker is written, and until then, nothing
    behind the first record of the transaction can be read.
    """

    async def decided() -> bool:
        return (await log.bounds([partition]))[partition].end == end

    await eventually(decided)


async def test_records_of_aborted_transactions_are_never_read(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka)
    partition = Partition(topic, 0)
    follower = log.follow({partition: 0})
    kept: list[bytes] = []
    async with (
        producer(kafka, transactional_id=new_topic("first")) as first,
        producer(kafka, transactional_id=new_topic("second")) as second,
        producer(kafka) as plain,
    ):
        for turn in range(4):
            await first.begin_transaction()
            await second.begin_transaction()
            for n in range(3):  # of two transactions and without one, interleaved
                for client, name in ((first, b"first"), (second, b"second"), (plain, b"plain")):
                    value = b"%s %d.%d" % (name, turn, n)
                    await client.send_and_wait(topic, value, partition=0)
                    aborted = (client is first and turn % 2) or (client is second and turn > 1)
                    if not aborted:
                        kept.append(value)
            await (first.abort_transaction if turn % 2 else first.commit_transaction)()
            await (second.abort_transaction if turn > 1 else second.commit_transaction)()

    await readable(log, partition, 4 * (9 + 2))
    events = await read_all(log, partition)
    assert values(events) == kept
    assert await follow_until(follower, len(kept)) == events
    end = (await log.bounds([partition]))[partition].end
    for start in range(end):  # including those in a transaction and of its marker
        assert await read_all(log, partition, start) == [e for e in events if e.offset >= start]


async def test_a_read_skips_a_long_aborted_transaction(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka)
    async with producer(kafka, transactional_id=new_topic("aborting")) as client:
        await client.begin_transaction()
        for _ in range(20):
            await client.send_and_wait(topic, b"x" * 10_000, partition=0)
        await client.abort_transaction()
    await log.append([Record(topic, b"after")])
    await readable(log, Partition(topic, 0), 22)
    found = await log.read(Partition(topic, 0), 0, 1_000)
    assert values(list(found.events)) == [b"after"]
    assert found.next == 22


async def test_the_end_is_before_an_open_transaction(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka)
    partition = Partition(topic, 0)
    await log.append([Record(topic, b"before", timestamp_ms=1_000)])
    follower = log.follow({partition: 0})
    async with producer(kafka, transactional_id=new_topic("open")) as client:
        await client.begin_transaction()
        await client.send_and_wait(topic, b"inside", partition=0, timestamp_ms=2_000)
        await log.append([Record(topic, b"beside", timestamp_ms=3_000)])
        assert await log.bounds([partition]) == {partition: Bounds(0, 1)}
        assert values(await read_all(log, partition)) == [b"before"]
        found = await log.read(partition, 1, PLENTY)
        assert (list(found.events), found.next) == ([], 1)
        assert await log.offset_at({partition: 2_000}) == {partition: None}
        assert values(await follow_until(follower, 1)) == [b"before"]
        await client.commit_transaction()
    assert values(await follow_until(follower, 2)) == [b"inside", b"beside"]
    assert await log.bounds([partition]) == {partition: Bounds(0, 4)}  # including the marker
    assert await log.offset_at({partition: 2_000}) == {partition: 1}


async def test_read_uncommitted_reads_everything(kafka: str) -> None:
    topic = await topic_with(kafka)
    partition = Partition(topic, 0)
    async with (
        opened(kafka, isolation_level="read_uncommitted") as log,
        producer(kafka, transactional_id=new_topic("any")) as client,
    ):
        await client.begin_transaction()
        await client.send_and_wait(topic, b"aborted", partition=0)
        await client.abort_transaction()
        await client.begin_transaction()
        await client.send_and_wait(topic, b"open", partition=0)
        assert values(await read_all(log, partition)) == [b"aborted", b"open"]
        assert values(await follow_until(log.follow({partition: 0}), 2)) == [b"aborted", b"open"]
        await client.abort_transaction()


# Compaction


async def test_holes_from_compaction_are_skipped(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka, cleanup_policy="compact", segment_ms="50")
    partition = Partition(topic, 0)
    for n in range(30):
        await log.append([Record(topic, b"%d" % n, b"key %d" % (n % 4))])

    async def compacted() -> bool:
        await log.append([Record(topic, b"", b"roll")])  # only an append begins a new segment
        events = [event for event in await read_all(log, partition) if event.key != b"roll"]
        return len(events) == len(survivors)

    survivors = {26: b"26", 27: b"27", 28: b"28", 29: b"29"}
    await eventually(compacted)
    events = await read_all(log, partition)
    assert {e.offset: e.value for e in events if e.key != b"roll"} == survivors
    for start in range(30):
        found = await log.read(partition, start, 1)
        assert found.events[0].offset == max(start, 26)
        assert found.next > start
    assert offsets(await follow_until(log.follow({partition: 3}), 4))[:4] == [26, 27, 28, 29]


# Topics that come and go


async def test_partitions_added_by_other_clients_are_found(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka, 1)
    assert await log.partitions([topic]) == {topic: (Partition(topic, 0),)}
    async with admin(kafka) as client:
        await client.create_partitions({topic: NewPartitions(3)})

    async def seen() -> bool:
        return len((await log.partitions([topic]))[topic]) == 3

    await eventually(seen)
    follower = log.follow({Partition(topic, 2): 0})
    await log.append([Record(topic, b"new", partition=2)])
    assert values(await follow_until(follower, 1)) == [b"new"]


async def test_an_append_finds_partitions_added_by_other_clients(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka, 1)
    await log.append([Record(topic, b"")])
    async with admin(kafka) as client:
        await client.create_partitions({topic: NewPartitions(2)})
    async with opened(kafka) as other:

        async def there() -> bool:
            return len((await other.partitions([topic]))[topic]) == 2

        await eventually(there)
    (placed,) = await log.append([Record(topic, b"", partition=1)])
    assert placed == (Partition(topic, 1), 0)


async def test_a_topic_created_later_is_found(kafka: str, log: KafkaLog) -> None:
    topic = new_topic()
    assert await log.partitions([topic]) == {}
    with pytest.raises(UnknownTopic):
        await log.append([Record(topic, b"too early")])
    async with admin(kafka) as client:
        await client.create_topics([NewTopic(topic, 2, 1)])

    async def seen() -> bool:
        return topic in await log.partitions([topic])

    await eventually(seen)
    await log.append([Record(topic, b"in time", partition=1)])
    assert values(await read_all(log, Partition(topic, 1))) == [b"in time"]


async def test_a_follower_reports_a_deleted_topic_once(kafka: str, log: KafkaLog) -> None:
    doomed, other = await topic_with(kafka, 2), await topic_with(kafka)
    follower = log.follow(
        {Partition(doomed, 0): 0, Partition(doomed, 1): 0, Partition(other, 0): 0}
    )
    await log.append([Record(doomed, b"x", partition=0), Record(other, b"x")])
    await follow_until(follower, 2)
    async with admin(kafka) as client:
        await client.delete_topics([doomed])
    with pytest.raises(UnknownTopic) as error:
        await follow_until(follower, 1)
    assert error.value.topic == doomed
    await log.append([Record(other, b"y")])
    assert values(await follow_until(follower, 1)) == [b"y"], "the error is reported once"
    gone = Partition(doomed, 0)
    assert await log.partitions([doomed]) == {}
    with pytest.raises(UnknownTopic):
        await log.read(gone, 0, PLENTY)
    with pytest.raises(UnknownTopic):
        await log.bounds([gone])
    with pytest.raises(UnknownTopic):
        await log.append([Record(doomed, b"late")])


# Appends


async def test_a_refused_append_is_reported_and_affects_no_other(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka, max_message_bytes="2000")
    attempts = [b"small", b"x" * 3000, b"also small", b"y" * 3000, b"last"]
    outcomes = await asyncio.gather(
        *(log.append([Record(topic, value)]) for value in attempts), return_exceptions=True
    )
    assert [isinstance(each, AppendRefused) for each in outcomes] == [
        False, True, False, True, False,
    ]  # fmt: skip
    await log.append([Record(topic, b"more")])
    kept = values(await read_all(log, Partition(topic, 0)))
    assert kept == [b"small", b"also small", b"last", b"more"]


async def test_a_refused_record_affects_only_its_own_caller(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka, cleanup_policy="compact")
    await log.append([Record(topic, b"", b"warm")])
    attempts = [Record(topic, b"", b"a"), Record(topic, b"no key", None), Record(topic, b"", b"b")]
    outcomes = await asyncio.gather(
        *(log.append([record]) for record in attempts), return_exceptions=True
    )
    assert [isinstance(each, AppendRefused) for each in outcomes] == [False, True, False]


async def test_an_append_with_a_lost_answer_is_written_once(
    kafka: str, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await topic_with(kafka)
    await log.append([Record(topic, b"first")])
    ask, lost = Brokers.ask, []

    async def ask_and_lose(self: Brokers, lane: str, node: int, request: Any, *more: Any) -> Any:
        answer = await ask(self, lane, node, request, *more)
        if lane == "append" and len(lost) < 3:
            lost.append(answer)
            raise LogUnavailable("the connection broke")
        return answer

    monkeypatch.setattr(Brokers, "ask", ask_and_lose)
    placed = await log.append([Record(topic, b"second"), Record(topic, b"third")])
    assert [each.offset for each in placed] == [1, 2]
    assert len(lost) == 3
    await log.append([Record(topic, b"fourth")])
    kept = values(await read_all(log, Partition(topic, 0)))
    assert kept == [b"first", b"second", b"third", b"fourth"]


async def test_appends_work_after_an_unknown_outcome(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await topic_with(kafka)
    async with opened(kafka, request_timeout_s=4.0) as log:
        await log.append([Record(topic, b"first")])
        ask = Brokers.ask

        async def lose(self: Brokers, lane: str, node: int, request: Any, *more: Any) -> Any:
            answer = await ask(self, lane, node, request, *more)
            if lane == "append":
                raise LogUnavailable("the connection broke")
            return answer

        with monkeypatch.context() as broken:
            broken.setattr(Brokers, "ask", lose)
            with pytest.raises(LogUnavailable, match="the connection broke"):
                await log.append([Record(topic, b"second")])
        await log.append([Record(topic, b"third")])
        assert values(await read_all(log, Partition(topic, 0))) == [b"first", b"second", b"third"]


async def test_an_append_of_several_batches_keeps_its_order(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka)
    written = [b"%d" % n * (200_000 if n % 7 == 0 else 10) for n in range(30)]
    placed = await log.append([Record(topic, value) for value in written])
    assert [each.offset for each in placed] == list(range(30))
    assert values(await read_all(log, Partition(topic, 0))) == written


# Following


async def test_moving_a_partition_discards_the_fetch_in_progress(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka)
    partition = Partition(topic, 0)
    await log.append([Record(topic, b"%d" % n) for n in range(10)])
    follower = log.follow({partition: 0})
    assert len(await follow_until(follower, 10)) == 10  # and the next fetch is in progress
    follower.assign({partition: 3})
    await log.append([Record(topic, b"10")])
    assert offsets(await follow_until(follower, 8)) == list(range(3, 11))


async def test_a_closed_connection_is_replaced(kafka: str, log: KafkaLog) -> None:
    topic = await topic_with(kafka)
    for _ in range(3):
        for connection in log._brokers._connections.values():
            connection._writer.transport.abort()
        assert await log.partitions([topic]) == {topic: (Partition(topic, 0),)}


# Waiting


async def test_a_quiet_topic_is_not_reported_as_unavailable(kafka: str) -> None:
    topic = await topic_with(kafka)
    async with opened(kafka, patience_s=2.0) as log:
        follower = log.follow({Partition(topic, 0): 0})
        with pytest.raises(TimeoutError):  # and not LogUnavailable
            async with asyncio.timeout(4.0):
                await follower.next()


async def test_time_between_calls_of_next_is_not_silence(kafka: str) -> None:
    topic = await topic_with(kafka)
    async with opened(kafka, patience_s=2.0) as log:
        follower = log.follow({Partition(topic, 0): 0})
        for turn in range(2):
            await log.append([Record(topic, b"%d" % turn)])
            assert [values(list(s.events)) for s in await follower.next()] == [[b"%d" % turn]]
            await asyncio.sleep(2.5)  # this time must not count


async def test_more_readers_than_connections_all_get_their_events(kafka: str) -> None:
    topic = await topic_with(kafka, 4)
    async with opened(kafka, history_readers=1) as log:
        partitions = [Partition(topic, number) for number in range(4)]
        for partition in partitions:
            await log.append([Record(topic, b"x" * 100, partition=partition.number)] * 50)
        found = await asyncio.gather(*(read_all(log, p) for p in partitions * 5))
    assert [len(events) for events in found] == [50] * 20
