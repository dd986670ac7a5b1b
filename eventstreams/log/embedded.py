"""Contains the code that both logs embedded in this process use: MemoryLog and SqliteLog."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from eventstreams.errors import UnknownPartition, UnknownTopic
from eventstreams.model.event import Partition, Record

T = TypeVar("T")


def entry_of(partition: Partition, by_topic: Mapping[str, Sequence[T]]) -> T:
    """Return the partition's entry; each topic has one for each of its partitions, in order.

    Raises UnknownTopic, UnknownPartition.
    """
    entries = by_topic.get(partition.topic)
    if entries is None:
        raise UnknownTopic(partition.topic)
    if not 0 <= partition.number < len(entries):
        raise UnknownPartition(partition)
    return entries[partition.number]


class Partitioner:
    """Chooses partitions: the same one for equal keys, in turn for records without a key."""

    def __init__(self) -> None:
        self._next = 0

    def number(self, record: Record, count: int) -> int:
        """Return the partition of a record in a topic with `count` partitions.

        Raises UnknownPartition if the record names a partition that the topic does not have.
        """
        number = record.partition
        if number is not None:
            if not 0 <= number < count:
                raise UnknownPartition(Partition(record.topic, number))
            return number
        if record.key is not None:
            return zlib.crc32(record.key) % count
        self._next += 1
        return (self._next - 1) % count


class EmbeddedBookmark:
    """Implements Bookmark with a function that appends records and state in one transaction.

    The function raises BookmarkLost if another owner has claimed the bookmark.
    """

    def __init__(
        self, state: bytes | None, append: Callable[[Sequence[Record], bytes], Awaitable[None]]
    ) -> None:
        self.state = state
        self._append = append

    async def append(self, records: Sequence[Record], state: bytes) -> None:
        await self._append(records, state)
        self.state = state

    async def aclose(self) -> None:
        pass
