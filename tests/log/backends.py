"""The logs that the contract suite runs over: how to open each, and what it can do.

A backend to come is one more subclass of Backend in `BACKENDS`.
"""

from __future__ import annotations

import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import ClassVar

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from eventstreams.log.base import Log
from eventstreams.log.kafka import KafkaLog
from eventstreams.log.memory import MemoryLog
from eventstreams.log.sqlite import SqliteLog
from eventstreams.model.event import Partition
from eventstreams.settings import KafkaSettings, SqliteSettings
from tests import kafka_node

_names = count()


class Backend(ABC):
    """A place that holds records, over which logs are opened; one is made for every test.

    `open` may be called again after `aclose` of the log it gave.
    """

    name: ClassVar[str]
    marks: ClassVar[tuple[pytest.MarkDecorator, ...]] = ()
    durable: ClassVar[bool] = False
    """A log that is opened again holds what the one before it held."""
    keeps_keys_together_by_crc32: ClassVar[bool] = True
    makes_topics: ClassVar[bool] = True
    """Appending to a topic that does not exist makes it, with `partitions_per_topic`."""
    exact_bytes: ClassVar[bool] = True
    """`read` stops at the first record with which `max_bytes` are reached, not somewhat later."""
    examples: ClassVar[int] = 60
    """Of each property test."""
    partitions_per_topic: ClassVar[int] = 3

    def topic_name(self) -> str:
        """A topic that no test has used."""
        return f"topic-{next(_names)}"

    async def topic(self, log: Log, partitions: int) -> str:
        """A new topic with so many partitions."""
        topic = self.topic_name()
        await log.create_topic(topic, partitions)
        return topic

    @classmethod
    @asynccontextmanager
    async def place(cls) -> AsyncIterator[Backend]:
        yield cls()

    @abstractmethod
    async def open(self) -> Log:
        """A started log; the caller closes it."""

    @abstractmethod
    async def forget_before(self, log: Log, partition: Partition, offset: int) -> None:
        """What retention does to records below `offset`."""

    async def punch_holes(self, log: Log, partition: Partition, offsets: list[int]) -> None:
        """What compaction does to these records. Skips the test where there is none."""
        pytest.skip(f"{self.name} has no holes")

    async def damage(self, log: Log, partition: Partition, offset: int) -> None:
        """What bit rot does to a record's value. Skips the test where it can't be done."""
        pytest.skip(f"records of {self.name} can't be damaged one by one")


class Memory(Backend):
    name = "memory"

    async def open(self) -> Log:
        return MemoryLog(partitions_per_topic=self.partitions_per_topic)

    async def forget_before(self, log: Log, partition: Partition, offset: int) -> None:
        assert isinstance(log, MemoryLog)
        log.forget_before(partition, offset)

    async def punch_holes(self, log: Log, partition: Partition, offsets: list[int]) -> None:
        assert isinstance(log, MemoryLog)
        for offset in offsets:
            log.punch_hole(partition, offset)

    async def damage(self, log: Log, partition: Partition, offset: int) -> None:
        assert isinstance(log, MemoryLog)
        log.damage(partition, offset)


class Sqlite(Backend):
    name = "sqlite"
    durable = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    @asynccontextmanager
    async def place(cls) -> AsyncIterator[Backend]:
        with tempfile.TemporaryDirectory() as directory:
            yield cls(Path(directory))

    async def open(self) -> Log:
        # Property tests commit a thousand times; what `full` adds has tests of its own.
        settings = SqliteSettings(partitions_per_topic=self.partitions_per_topic, sync="normal")
        log = SqliteLog(directory=self.directory, settings=settings)
        await log.start()
        return log

    async def forget_before(self, log: Log, partition: Partition, offset: int) -> None:
        assert isinstance(log, SqliteLog)
        await log.forget_before(partition, offset)

    async def damage(self, log: Log, partition: Partition, offset: int) -> None:
        with closing(sqlite3.connect(self.directory / "log.sqlite3")) as connection, connection:
            connection.execute(
                "UPDATE events SET value = CAST(substr(value, 2) || char(1) AS BLOB) WHERE id ="
                " (SELECT id << 40 | ? FROM partitions WHERE topic = ? AND number = ?)",
                (offset, *partition),
            )


class Kafka(Backend):
    name = "kafka"
    marks = (pytest.mark.kafka,)
    durable = True
    keeps_keys_together_by_crc32 = False  # by Kafka's own hash
    makes_topics = False
    exact_bytes = False  # a batch is read whole
    examples = 8

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)

    @classmethod
    @asynccontextmanager
    async def place(cls) -> AsyncIterator[Backend]:
        backend = cls(kafka_node.shared())
        await backend.admin.start()
        try:
            yield backend
        finally:
            await backend.admin.close()

    def topic_name(self) -> str:
        return kafka_node.new_topic()

    async def open(self) -> Log:
        log = KafkaLog(settings=KafkaSettings(bootstrap_servers=(self.bootstrap,)))
        await log.start()
        return log

    async def forget_before(self, log: Log, partition: Partition, offset: int) -> None:
        await self.admin.delete_records({TopicPartition(*partition): RecordsToDelete(offset)})


BACKENDS: list[type[Backend]] = [Memory, Sqlite, Kafka]

over_all_backends = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.name, marks=kind.marks) for kind in BACKENDS]
)
