"""The reference log with partitions that tests can make unreachable."""

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
        """The partitions of all reads, one entry per read."""

    def lose(self, *partitions: Partition) -> None:
        """Make partitions lose their leader. Followers notice it themselves."""
        self.away.update(partitions)
        for follower in self._followers:
            assert isinstance(follower, PartialFollower)
            follower.unreported.update(partitions)
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
    """A follower that reports each loss once and continues with the other partitions."""

    def __init__(self, log: PartialLog, starts: Mapping[Partition, int]) -> None:
        super().__init__(log, starts)
        self._partial = log
        self.unreported: set[Partition] = set()

    async def next(self) -> list[Slice]:
        while True:
            self._raise_silence()
            try:
                return await super().next()
            except _Woken:
                continue

    def _raise_silence(self) -> None:
        silent = self.unreported & self._partial.away & self._nexts.keys()
        self.unreported.clear()
        if silent:
            raise LogUnavailable("no leader", silent)

    def _read(self, partition: Partition) -> Slice | None:
        if self.unreported & self._partial.away & self._nexts.keys():
            raise _Woken
        return None if partition in self._partial.away else super()._read(partition)


class _Woken(Exception):
    """Interrupts a wait to report an unreachable partition."""
