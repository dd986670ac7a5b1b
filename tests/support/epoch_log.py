"""A log in memory with leader epochs, whose partitions can lose their last records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventstreams.errors import LogTruncated
from eventstreams.log.base import NOTHING_KNOWN, Slice
from eventstreams.log.memory import MemoryFollower, MemoryLog
from eventstreams.model.epochs import NO_EPOCHS, EpochEnd, Epochs
from eventstreams.model.event import Partition, Record


class EpochLog(MemoryLog):
    """A log whose partitions begin in epoch 0."""

    def __init__(self) -> None:
        super().__init__()
        self._terms: dict[Partition, Epochs] = {}

    def terms(self, partition: Partition) -> Epochs:
        return self._terms.get(partition, Epochs((0,), (0,)))

    async def lose(self, partition: Partition, end: int, records: Sequence[Record]) -> None:
        """Lose the records from `end` on in an election, and append `records` before anyone sees
        it."""
        run = self.run(partition)
        run.events = [event for event in run.events if event.offset < end]
        run.end = end
        terms = self.terms(partition)
        self._terms[partition] = terms.before(end).then(Epochs((end,), (terms.epochs[-1] + 1,)))
        for follower in self._followers:
            assert isinstance(follower, EpochFollower)
            follower.lose(partition, end)
        await self.append(records)
        self.wake_followers()

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        return self.with_epochs(await super().read(partition, offset, max_bytes), offset)

    def with_epochs(self, found: Slice, offset: int) -> Slice:
        if found.next == offset:
            return found
        terms = self.terms(found.partition).before(found.next)
        starts = tuple(max(start, offset) for start in terms.starts)
        first = sum(start <= offset for start in starts) - 1
        return found._replace(epochs=Epochs(starts[first:], terms.epochs[first:]))

    async def divergence(self, partition: Partition, offset: int, epoch: int) -> int | None:
        terms = self.terms(partition)
        i = max(n for n, known in enumerate(terms.epochs) if known <= epoch)
        end = terms.starts[i + 1] if i + 1 < len(terms.starts) else self.run(partition).end
        if terms.epochs[i] == epoch and end >= offset:
            return None
        return NO_EPOCHS.common_end(offset, EpochEnd(terms.epochs[i], end))

    def follow(
        self, starts: Mapping[Partition, int], epochs: Mapping[Partition, int] = NOTHING_KNOWN
    ) -> EpochFollower:
        follower = EpochFollower(self, starts)
        self._followers.add(follower)
        return follower


class EpochFollower(MemoryFollower):
    def __init__(self, log: EpochLog, starts: Mapping[Partition, int]) -> None:
        super().__init__(log, starts)
        self.paused = False
        """Whether the follower must not see the loss yet."""
        self._epoch_log = log
        self._lost: dict[Partition, LogTruncated] = {}

    def lose(self, partition: Partition, end: int) -> None:
        offset = self._nexts.get(partition, 0)
        if offset > end:
            self._lost[partition] = LogTruncated(partition, offset, end)

    def resume(self) -> None:
        self.paused = False
        self.news.set()

    def _read(self, partition: Partition) -> Slice | None:
        if self.paused:
            return None
        if error := self._lost.pop(partition, None):
            self._nexts[partition] = error.end
            self.news.set()
            raise error
        offset = self._nexts[partition]
        found = super()._read(partition)
        return None if found is None else self._epoch_log.with_epochs(found, offset)
