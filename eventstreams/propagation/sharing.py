"""Shares a rule's slots and memory between its partitions, so that no backlog starves another.

Both are pure. Topics take turns for slots, because one with many partitions must not count for more
than one with few. Memory is kept free for each partition, because events may hold it for long.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from typing import Generic, TypeVar

from eventstreams.model.event import Partition

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of partitions. Topics take turns, and within a topic its partitions do.

    Items of one partition leave in the order in which they came.
    """

    def __init__(self) -> None:
        self._topics: OrderedDict[str, OrderedDict[int, deque[T]]] = OrderedDict()
        """Both in the order of their next turns; none is empty."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def length_of(self, partition: Partition) -> int:
        """Return the number of items of a partition."""
        partitions = self._topics.get(partition.topic)
        return 0 if partitions is None else len(partitions.get(partition.number, ()))

    def append(self, partition: Partition, item: T) -> None:
        """Add an item after those of its partition."""
        partitions = self._topics.setdefault(partition.topic, OrderedDict())
        partitions.setdefault(partition.number, deque()).append(item)
        self._length += 1

    def popleft(self) -> T:
        """Remove and return the next item. Raises IndexError if there is none."""
        if not self._topics:
            raise IndexError("the queue is empty")
        topic, partitions = next(iter(self._topics.items()))
        number, items = next(iter(partitions.items()))
        item = items.popleft()
        self._length -= 1
        partitions.move_to_end(number)
        self._topics.move_to_end(topic)
        if not items:
            self._drop(Partition(topic, number))
        return item

    def remove(self, partition: Partition) -> list[T]:
        """Remove and return the items of a partition."""
        if not self.length_of(partition):
            return []
        items = self._topics[partition.topic][partition.number]
        self._length -= len(items)
        self._drop(partition)
        return list(items)

    def _drop(self, partition: Partition) -> None:
        partitions = self._topics[partition.topic]
        del partitions[partition.number]
        if not partitions:
            del self._topics[partition.topic]


class FairRoom:
    """An amount that partitions share. Half of it is reserved for them, in equal parts.

    A partition may use its own part and whatever is not reserved, so that a partition that uses
    nothing at the moment finds room immediately when it needs some.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._parts: dict[Partition, int] = {}
        """The amount that each partition uses."""
        self._part = 0
        """The amount that is reserved for each partition."""
        self._unused = 0
        """The amount that is reserved and not used."""
        self.used = 0

    def share(self, partitions: Collection[Partition]) -> None:
        """Share the room between these partitions from now on."""
        self._parts = {each: self._parts.get(each, 0) for each in partitions}
        self._part = self._total // (2 * len(partitions)) if partitions else 0
        self._unused = sum(max(0, self._part - used) for used in self._parts.values())

    def is_free_for(self, partition: Partition) -> bool:
        """Return whether a partition may take more; what it takes may exceed what is free."""
        own = max(0, self._part - self._parts.get(partition, self._part))
        return self.used + self._unused - own < self._total

    def take(self, partition: Partition, amount: int) -> None:
        """Record that a partition uses so much more, or less if the amount is negative."""
        self.used += amount
        if partition in self._parts:
            before = self._parts[partition]
            after = self._parts[partition] = before + amount
            self._unused += max(0, self._part - after) - max(0, self._part - before)
