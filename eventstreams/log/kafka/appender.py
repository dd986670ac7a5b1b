"""Chooses the partition of each appended record, and reports the outcome of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

from aiokafka.partitioner import DefaultPartitioner

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import AppendRefused, LogError, LogUnavailable, UnknownPartition
from eventstreams.log.kafka.brokers import Brokers, bounded
from eventstreams.log.kafka.writer import KafkaWriter
from eventstreams.model.event import Partition, Placed, Record

# The hash that Kafka's own clients use, so that a key has the same partition for all of them.
_choose: Any = DefaultPartitioner()
_TIMES_MS = range(-(2**63), 2**63)  # the range of timestamps in Kafka


class Appender:
    """Passes records to the writers of their partitions. `aclose` waits for appends in progress."""

    def __init__(self, *, brokers: Brokers, settings: KafkaSettings) -> None:
        self._brokers = brokers
        self._settings = settings
        self._writers: dict[Partition, KafkaWriter] = {}
        self._round_robin = 0
        self._under_way: set[object] = set()
        self._ended = asyncio.Event()
        self._closed = False

    async def append(self, records: Sequence[Record]) -> list[Placed]:
        if self._closed:
            raise LogUnavailable("the log is closed")
        self._under_way.add(this := object())
        try:
            return await self._append(records)
        finally:
            self._under_way.discard(this)
            self._ended.set()

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        if self._closed:
            return [LogUnavailable("the log is closed")] * len(records)
        self._under_way.add(this := object())
        try:
            return await self._offer(records)
        finally:
            self._under_way.discard(this)
            self._ended.set()

    async def aclose(self) -> None:
        self._closed = True
        while self._under_way:
            self._ended.clear()
            await self._ended.wait()
        for writer in list(self._writers.values()):
            await writer.finish()

    async def _append(self, records: Sequence[Record]) -> list[Placed]:
        deadline = time.monotonic() + self._settings.request_timeout_s
        async with bounded(self._settings.request_timeout_s, "append"):
            homes = await self._homes(records)
        shares: dict[Partition, list[Record]] = {}
        for record, home in zip(records, homes, strict=True):
            shares.setdefault(home, []).append(record)
        written = {
            home: self._writer(home).write(share, deadline) for home, share in shares.items()
        }
        # Cancelling the call does not stop the writes.
        outcomes = await asyncio.shield(asyncio.gather(*written.values(), return_exceptions=True))
        offsets: dict[Partition, Iterator[int]] = {}
        for home, outcome in zip(written, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            offsets[home] = iter(outcome)
        return [Placed(home, next(offsets[home])) for home in homes]

    async def _offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        deadline = time.monotonic() + self._settings.request_timeout_s
        homes = await self._homes_or_errors(records)
        # Each record is a separate piece; those of a partition still share a batch.
        written = [
            self._writer(home).write([record], deadline)
            for record, home in zip(records, homes, strict=True)
            if isinstance(home, Partition)
        ]
        # Cancelling the call does not stop the writes.
        gathered = await asyncio.shield(asyncio.gather(*written, return_exceptions=True))
        outcomes = iter(gathered)
        return [
            _placed(home, next(outcomes)) if isinstance(home, Partition) else home for home in homes
        ]

    async def _homes_or_errors(self, records: Sequence[Record]) -> list[Partition | LogError]:
        """Return the partition of each record, or the error that prevents the append.

        Each topic is looked up once, all of them at the same time.
        """
        by_topic: dict[str, list[int]] = {}
        for number, record in enumerate(records):
            by_topic.setdefault(record.topic, []).append(number)
        found: dict[int, Partition | LogError] = {}

        async def look(numbers: list[int]) -> None:
            try:
                async with bounded(self._settings.request_timeout_s, "append"):
                    homes = await self._homes([records[number] for number in numbers])
            except (UnknownPartition, AppendRefused) as error:  # that of one record
                if len(numbers) == 1:
                    found[numbers[0]] = error
                else:
                    for number in numbers:
                        await look([number])
            except LogError as error:
                found.update(dict.fromkeys(numbers, error))
            else:
                found.update(zip(numbers, homes, strict=True))

        await asyncio.gather(*map(look, by_topic.values()))
        return [found[number] for number in range(len(records))]

    def _writer(self, home: Partition) -> KafkaWriter:
        if home not in self._writers:
            self._writers[home] = KafkaWriter(home, brokers=self._brokers, settings=self._settings)
        return self._writers[home]

    async def _homes(self, records: Sequence[Record]) -> list[Partition]:
        for number, record in enumerate(records):
            if record.timestamp_ms is not None and record.timestamp_ms not in _TIMES_MS:
                raise AppendRefused(f"record {number} has a timestamp out of range")
        counts = {
            topic: await self._brokers.partition_count(topic)
            for topic in dict.fromkeys(record.topic for record in records)
        }
        for record in records:
            if record.partition is not None and record.partition >= counts[record.topic]:
                await self._brokers.refresh([record.topic])  # it may be a new one
                counts[record.topic] = await self._brokers.partition_count(record.topic)
        return [self._home(record, counts[record.topic]) for record in records]

    def _home(self, record: Record, count: int) -> Partition:
        number = record.partition
        if number is None and record.key is not None:
            number = int(_choose(record.key, range(count), range(count)))
        elif number is None:
            self._round_robin += 1
            number = self._round_robin % count
        home = Partition(record.topic, number)
        if not 0 <= number < count:
            raise UnknownPartition(home)
        return home


def _placed(home: Partition, outcome: list[int] | BaseException) -> Placed | LogError:
    if isinstance(outcome, LogError):
        return outcome
    if isinstance(outcome, BaseException):
        raise outcome
    return Placed(home, outcome[0])
