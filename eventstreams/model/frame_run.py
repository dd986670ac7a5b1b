"""Makes the frames of adjacent records only for readers that look at them.

Most clients that read history take every event as it is. Their bytes are copied from the events
(`insert_places` in place.py). Making a frame and an id for each event takes more time than copying.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import overload

from eventstreams.model.event import EventRun
from eventstreams.model.frame import Frame
from eventstreams.model.redaction import Redactions


def index_of(frames: Sequence[Frame], offset: int) -> int:
    """Return how many of the frames, which are in order, are below `offset`."""
    if isinstance(frames, FrameRun):
        return frames.index_of(offset)
    return bisect_left(frames, offset, key=lambda frame: frame.offset)


class _Shared:
    """The data that the parts of a run share: the events, or the frames made from them."""

    __slots__ = ("events", "first", "frames", "redactions")

    def __init__(self, events: EventRun, redactions: Redactions) -> None:
        self.events: EventRun | None = events
        self.first = events.first
        self.frames: list[Frame] = []
        self.redactions = redactions


class FrameRun(Sequence[Frame]):
    """The frames of an `EventRun`, or of a part of one.

    When a reader iterates, the frames of the whole run are made and replace its events, so that
    each is decoded once for all readers. Until then, an index returns a new frame.
    """

    __slots__ = ("_part", "_shared")

    def __init__(self, shared: _Shared, part: range) -> None:
        """Create a part; use `of` for whole runs."""
        assert part.step == 1
        self._shared = shared
        self._part = part

    @classmethod
    def of(cls, events: EventRun, redactions: Redactions) -> FrameRun:
        return cls(_Shared(events, redactions), range(len(events)))

    @property
    def to_copy(self) -> EventRun | None:
        """The events; None if their frames have been made, or if their topic has redactions."""
        events = self._shared.events
        if events is None or self._shared.redactions.of(events.partition.topic) is not None:
            return None
        return events[self._part.start : self._part.stop]

    def index_of(self, offset: int) -> int:
        """Return how many frames are below `offset`."""
        return min(max(0, offset - self._shared.first - self._part.start), len(self._part))

    def __len__(self) -> int:
        return len(self._part)

    def __iter__(self) -> Iterator[Frame]:
        shared = self._shared
        if shared.events is not None:
            shared.frames = [Frame(event, shared.redactions) for event in shared.events]
            shared.events = None
        return iter(shared.frames[self._part.start : self._part.stop])

    @overload
    def __getitem__(self, at: int) -> Frame: ...
    @overload
    def __getitem__(self, at: slice) -> FrameRun: ...
    def __getitem__(self, at: int | slice) -> Frame | FrameRun:
        if isinstance(at, slice):
            return FrameRun(self._shared, self._part[at])
        shared, i = self._shared, self._part[at]
        return (
            shared.frames[i]
            if shared.events is None
            else Frame(shared.events[i], shared.redactions)
        )
