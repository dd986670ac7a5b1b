"""Records which term (epoch) of a partition's leader wrote which records.

A Kafka partition has one leader at a time, and each term of a leader has a higher number, its
epoch. A record is identified by its offset *and* its epoch: when an election loses the end of a
partition, other records get the same offsets, with a higher epoch. Other logs have no epochs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

NO_EPOCH: Final = -1
"""The epoch is not known, or the log has none."""
EPOCH_MAX: Final = 2**31 - 1
_RUNS_MAX: Final = 64
"""How many elections of a partition are remembered. Older epochs are unknown."""


class EpochEnd(NamedTuple):
    """A leader's answer: the newest epoch it has up to the one asked for, and where that ends."""

    epoch: int
    end: int


class Epochs(NamedTuple):
    """The epochs of a stretch of one partition: `epochs[i]` from `starts[i]` to the next start."""

    starts: tuple[int, ...] = ()
    epochs: tuple[int, ...] = ()

    def at(self, offset: int) -> int:
        """Return the epoch of the record at `offset`, which must exist; NO_EPOCH if not known."""
        i = bisect_right(self.starts, offset)
        return self.epochs[i - 1] if i else NO_EPOCH

    def then(self, more: Epochs) -> Epochs:
        """Return this stretch and the next, which begins at or behind its end, as one."""
        if more.epochs[:1] == self.epochs[-1:]:
            more = Epochs(more.starts[1:], more.epochs[1:])
        if not more.starts:
            return self
        starts, epochs = self.starts + more.starts, self.epochs + more.epochs
        return Epochs(starts[-_RUNS_MAX:], epochs[-_RUNS_MAX:])

    def before(self, offset: int) -> Epochs:
        """Return the part below `offset`."""
        count = bisect_left(self.starts, offset)
        return Epochs(self.starts[:count], self.epochs[:count])

    def common_end(self, offset: int, leader: EpochEnd) -> int:
        """Return the offset at which the records of a reader and those of the leader diverge.

        The reader is at `offset` and has read these epochs; the leader does not have the last of
        them up to `offset`. Below the result both have the same records, as far as one answer can
        show. Comparing again from there finds earlier differences.
        """
        newer = bisect_right(self.epochs, leader.epoch)
        first = self.starts[newer] if newer < len(self.starts) else offset
        return max(0, min(offset, leader.end, first))


NO_EPOCHS: Final = Epochs()
