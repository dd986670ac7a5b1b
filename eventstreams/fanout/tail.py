"""The newest frames of one partition, in memory, bounded in bytes.

A tail serves `floor <= offset <= next`; below its floor the log is read, and a reader can't tell.
`next` may pass the last frame, because logs have holes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from eventstreams.model.epochs import NO_EPOCH, NO_EPOCHS, Epochs
from eventstreams.model.event import Partition
from eventstreams.model.frame import Frame


class Run(NamedTuple):
    """Frames of one partition, in order, complete from where they were asked for to `next`."""

    frames: Sequence[Frame]
    next: int
    epochs: Epochs = NO_EPOCHS
    """Of these frames, and of what lies before them as far as it is known."""
    last_epoch: int = NO_EPOCH
    """Of what is directly before `next`; NO_EPOCH where that is not known."""


class Tail:
    def __init__(
        self, partition: Partition, next_offset: int, timestamp_ms: int, epochs: Epochs = NO_EPOCHS
    ) -> None:
        """Empty, at the end of what was read so far.

        `timestamp_ms` is that of the newest record before it, 0 where that is not known; `epochs`
        those before it, as far as they are known.
        """
        self.epochs = epochs
        self.truncated_at: int | None = None
        """From where on the log was last rewritten, if it was."""
        self.partition = partition
        self.floor = next_offset
        self.next = next_offset
        self.timestamp_ms = timestamp_ms
        self.bytes = 0
        self._frames: list[Frame] = []
        self._offsets: list[int] = []

    def append(self, frames: Sequence[Frame], next_offset: int, epochs: Epochs = NO_EPOCHS) -> None:
        """Adds what the log said next: `frames` begin at or after `next` and end before the new."""
        assert self.next <= next_offset
        for frame in frames:
            self._offsets.append(frame.offset)
            self.bytes += frame.size
        self._frames.extend(frames)
        self.next = next_offset
        self.epochs = self.epochs.then(epochs)
        if frames:
            self.timestamp_ms = frames[-1].timestamp_ms

    def __len__(self) -> int:
        return len(self._frames)

    def knows(self, offset: int) -> bool:
        """Whether it can say what comes before `offset`."""
        return self.floor < offset <= self.next or offset == self.next

    def timestamp_before(self, offset: int) -> int | None:
        """Time in ms of the record before `offset`, where the tail knows it."""
        if offset == self.next:
            return self.timestamp_ms or None
        i = bisect_left(self._offsets, offset)
        return self._frames[i - 1].timestamp_ms if i and offset > self.floor else None

    def epoch_before(self, offset: int) -> int:
        """Epoch of the record directly before `offset`; NO_EPOCH where it is not known."""
        if offset == self.next:
            return self.epochs.at(offset - 1)
        i = bisect_left(self._offsets, offset - 1)
        held = i < len(self._offsets) and self._offsets[i] == offset - 1
        return self.epochs.at(offset - 1) if held else NO_EPOCH

    def since(self, offset: int) -> Run:
        """Everything from `offset` on. `offset` must be within `floor` and `next`."""
        assert self.floor <= offset <= self.next
        frames = self._frames[bisect_left(self._offsets, offset) :]
        return Run(frames, self.next, self.epochs, self.epochs.at(self.next - 1))

    def trim(self, bytes_max: int) -> None:
        """Drops the oldest until at most `bytes_max` bytes of values are held."""
        dropped = 0
        while self.bytes > bytes_max and dropped < len(self._frames):
            self.bytes -= self._frames[dropped].size
            dropped += 1
        if dropped:
            self.floor = self._offsets[dropped - 1] + 1
            del self._frames[:dropped]
            del self._offsets[:dropped]
