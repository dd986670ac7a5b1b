"""Tracks which events of a partition are finished, so that no commit skips one in flight."""

from __future__ import annotations

from collections import deque


class CommitFrontier:
    """The frontier of one partition. Offsets begin in ascending order and finish in any order.

    Everything below `position` is finished, and the event at `position` is in flight or not read
    yet. A process that continues at `position` may therefore repeat events, but skips none.
    """

    def __init__(self, start: int) -> None:
        """Begin at the offset `start`."""
        self._next = start
        self._in_flight: deque[int] = deque()
        self._pending: set[int] = set()

    @property
    def position(self) -> int:
        """The offset that may be committed, from which to continue after a crash."""
        return self._in_flight[0] if self._in_flight else self._next

    @property
    def next(self) -> int:
        """The offset to read next."""
        return self._next

    @property
    def in_flight(self) -> int:
        """The number of events that have begun and are not finished."""
        return len(self._pending)

    def begin(self, offset: int) -> None:
        """Mark an event as in flight. Offsets between the previous one and this one are holes."""
        if offset < self._next:
            raise ValueError(f"offset {offset} is below the next offset, {self._next}")
        self._in_flight.append(offset)
        self._pending.add(offset)
        self._next = offset + 1

    def finish(self, offset: int) -> None:
        """Mark an event as finished: acted on, dropped, or stored in another topic."""
        if offset not in self._pending:
            raise ValueError(f"offset {offset} is not in flight")
        self._pending.remove(offset)
        while self._in_flight and self._in_flight[0] not in self._pending:
            self._in_flight.popleft()

    def skip_to(self, offset: int) -> None:
        """Move the next offset past a hole, such as a compacted or damaged range."""
        self._next = max(self._next, offset)
