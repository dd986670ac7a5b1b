"""The logs that the contract suite tests: how to open each, and what it can do.

To add a backend, add a subclass of Backend to `BACKENDS`.
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

from eventstreams.config.settings import KafkaSettings, SqliteSettings
from eventstreams.log.base import Log
from eventstreams.log.kafka.log import KafkaLog
from eventstreams.log.memory import MemoryLog
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Event, Partition
from tests.support import kafka_node

_names = count()


class Backend(ABC):
    """A place that holds records, over which logs are opened; each test gets its own.

    `open` may be called again after `aclose` of the log it returned.
    """

    name: ClassVar[str]
    marks: ClassVar[tuple[pytest.MarkDecorator, ...]] = ()
    durable: ClassVar[bool] = False
    """Whether a reopened log holds what the previous one held."""
    keeps_keys_together_by_crc32: ClassVar[bool] = True
    makes_topics: ClassVar[bool] = True
    """Whether appending to a missing topic creates it, with `partitions_per_topic`."""
    exact_bytes: ClassVar[bool] = True
    """Whether `read` stops at the first record that reaches `max_bytes`, and not somewhat later."""
    examples: ClassVar[int] = 60
    """The number of examples of each property test."""
    partitions_per_topic: ClassVar[int] = 3

    def topic_name(self) -> str:
        """Return the name of a topic that no other test has used."""
        return f"topic-{next(_names)}"

    async def topic(self, log: Log, partitions: int) -> str:
        """Create a topic with this number of partitions, and return its name."""
        topic = self.topic_name()
        await log.create_topic(topic, partitions)
        return topic

    @classmethod
    @asynccontextmanager
    async def place(cls) -> AsyncIterator[Backend]:
        yield cls()

    @abstractmethod
    async def open(self) -> Log:
        """Return a started log, which the caller closes."""

    @abstractmethod
    async def forget_before(self, log: Log, partition: Partition, offset: int) -> None:
        """Remove records below `offset`, as retention does."""

    async def punch_holes(self, log: Log, partition: Partition, offsets: list[int]) -> None:
        """Remove these records, as compaction does. Skips the test if the log has no compaction."""
        pytest.skip(f"{self.name} has no holes")

    async def damage(self, log: Log, partition: Partition, offset: int) -> None:
        """Damage a record's value, as bit rot does. Skips the test if that is impossible."""
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
        # Property tests commit a thousand times; separate tests cover what `full` adds.
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
    keeps_keys_together_by_crc32 = False  # uses Kafka's own hash
    makes_topics = False
    exact_bytes = False  # reads whole batches
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


async def read_all(log: Log, partition: Partition, offset: int, max_bytes: int) -> list[Event]:
    """Read with `next` only, as readers do."""
    events: list[Event] = []
    end = (await log.bounds([partition]))[partition].end
    while offset < end:
        found = await log.read(partition, offset, max_bytes)
        assert found.partition == partition
        assert found.next > offset, "a reader would spin"
        assert all(offset <= event.offset < found.next for event in found.events)
        events.extend(found.events)
        offset = found.next
    return events
