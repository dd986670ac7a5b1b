"""What a run of lines is given to, and what it says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from eventstreams.cli.lines import Line
from eventstreams.errors import EventStreamsError
from eventstreams.log.base import Log
from eventstreams.model.event import Partition


class BadLine(EventStreamsError):
    """Stops an input at its first bad line. What stands before it is in the log."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number
        self.reason = reason


class Tally:
    """What was done so far."""

    def __init__(self) -> None:
        self.appended = 0
        self.bad = 0
        self.last_line = 0
        """Everything up to this line is done with."""
        self.partitions: Counter[Partition] = Counter()


class Sink(Protocol):
    """What lines are given to, batch by batch."""

    tally: Tally

    async def add(self, lines: Iterable[Line]) -> None:
        """Append these lines. Raises BadLine, and the log's LogError for a batch it refuses."""
        ...


class Opening(NamedTuple):
    """What a sink is made of."""

    log: Log | None
    """Without it lines are only checked."""
    first_line: int
    report_bad: Callable[[int, str], None] | None
    """With it bad lines do not stop the run."""


SinkMaker = Callable[[Opening], AbstractAsyncContextManager[Sink]]
