"""The reference log with random delays, as real logs have.

Every call takes some turns of the event loop before and after it is carried out. Other tasks can
run meanwhile, in the same order every time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence

from eventstreams.log.base import NOTHING_KNOWN, Slice
from eventstreams.log.memory import MemoryFollower, MemoryLog
from eventstreams.model.event import Bounds, Partition, Placed, Record

_TURNS = (0, 0, 0, 1, 2, 5, 13, 40)


class HesitantLog(MemoryLog):
    """A log in which `seed` determines how long each call takes."""

    def __init__(self, seed: int, *, partitions_per_topic: int = 1) -> None:
        super().__init__(partitions_per_topic=partitions_per_topic)
        self._random = random.Random(seed)

    async def hesitate(self) -> None:
        for _ in range(self._random.choice(_TURNS)):
            await asyncio.sleep(0)

    async def partitions(self, topics: Collection[str]) -> dict[str, tuple[Partition, ...]]:
        await self.hesitate()
        found = await super().partitions(topics)
        await self.hesitate()
        return found

    async def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        await self.hesitate()
        found = await super().bounds(partitions)
        await self.hesitate()
        return found

    async def offset_at(self, times: Mapping[Partition, int]) -> dict[Partition, int | None]:
        await self.hesitate()
        found = await super().offset_at(times)
        await self.hesitate()
        return found

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        await self.hesitate()
        try:
            return await super().read(partition, offset, max_bytes)
        finally:
            await self.hesitate()

    async def append(self, records: Sequence[Record]) -> list[Placed]:
        await self.hesitate()
        # No delay after this: no one sees a record before the test knows of it.
        return await super().append(records)

    def follow(
        self,
        starts: Mapping[Partition, int],
        epochs: Mapping[Partition, int] = NOTHING_KNOWN,
    ) -> HesitantFollower:
        follower = HesitantFollower(self, starts)
        self._followers.add(follower)
        return follower


class HesitantFollower(MemoryFollower):
    def __init__(self, log: HesitantLog, starts: Mapping[Partition, int]) -> None:
        super().__init__(log, starts)
        self._hesitate = log.hesitate

    async def next(self) -> list[Slice]:
        await self._hesitate()
        return await super().next()
