"""The reference log, some of whose partitions are out of reach while the test says so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from eventstreams.errors import LogUnavailable
from eventstreams.log.base import NOTHING_KNOWN, Slice
from eventstreams.log.memory import MemoryFollower, MemoryLog
from eventstreams.model.event import Bounds, Partition


class PartialLog(MemoryLog):
    def __init__(self) -> None:
        super().__init__()
        self.away: set[Partition] = set()
        self.asked: list[Partition] = []
        """Whose records were read, one entry per read."""

    def lose(self, *partitions: Partition) -> None:
        """Their leader is gone; a follower finds that out."""
        self.away.update(partitions)
        for follower in self._followers:
            assert isinstance(follower, PartialFollower)
            follower.unheard.update(partitions)
        self.wake_followers()

    def regain(self, *partitions: Partition) -> None:
        self.away.difference_update(partitions)
        self.wake_followers()

    async def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        self._check(partitions)
        return await super().bounds(partitions)

    async def offset_at(self, times: Mapping[Partition, int]) -> dict[Partition, int | None]:
        self._check(times)
        return await super().offset_at(times)

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        self.asked.append(partition)
        self._check([partition])
        return await super().read(partition, offset, max_bytes)

    def follow(
        self,
        starts: Mapping[Partition, int],
        epochs: Mapping[Partition, int] = NOTHING_KNOWN,
    ) -> PartialFollower:
        follower = PartialFollower(self, starts)
        self._followers.add(follower)
        return follower

    def _check(self, partitions: Iterable[Partition]) -> None:
        if out := self.away.intersection(partitions):
            raise LogUnavailable("no leader", out)


class PartialFollower(MemoryFollower):
    """Says once of each loss that it hears nothing; goes on with the others."""

    def __init__(self, log: PartialLog, starts: Mapping[Partition, int]) -> None:
        super().__init__(log, starts)
        self._partial = log
        self.unheard: set[Partition] = set()

    async def next(self) -> list[Slice]:
        while True:
            self._raise_silence()
            try:
                return await super().next()
            except _Woken:
                continue

    def _raise_silence(self) -> None:
        silent = self.unheard & self._partial.away & self._nexts.keys()
        self.unheard.clear()
        if silent:
            raise LogUnavailable("no leader", silent)

    def _read(self, partition: Partition) -> Slice | None:
        if self.unheard & self._partial.away & self._nexts.keys():
            raise _Woken
        return None if partition in self._partial.away else super()._read(partition)


class _Woken(Exception):
    """There is a silence to speak of."""
