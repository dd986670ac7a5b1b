"""Defines sinks, which process the lines of a run and count the results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from eventstreams.cli.lines import BadDocument, Line, parse_document
from eventstreams.errors import EventStreamsError
from eventstreams.log.base import Log
from eventstreams.model.event import Partition

T = TypeVar("T")


class BadLine(EventStreamsError):
    """Ends a run at its first bad line. All lines before it are in the log."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number
        self.reason = reason


class NotStored(EventStreamsError):
    """The gateway or log stored none of the last lines."""


class Tally:
    """The results of a run so far."""

    def __init__(self) -> None:
        self.appended = 0
        self.bad = 0
        self.last_line = 0
        """The last line up to which everything has been processed."""
        self.partitions: Counter[Partition] = Counter()


class Sink(Protocol):
    """Processes lines, batch by batch."""

    tally: Tally

    async def add(self, lines: Iterable[Line]) -> None:
        """Append these lines. Raises BadLine, or the log's LogError for a batch it refuses."""
        ...


class Opening(NamedTuple):
    """The arguments of a SinkMaker."""

    log: Log | None
    """The log to append to; None if lines are only checked."""
    first_line: int
    report_bad: Callable[[int, str], None] | None
    """Called with the number and problem of a bad line; None if a bad line ends the run."""


SinkMaker = Callable[[Opening], AbstractAsyncContextManager[Sink]]


class EventSink(ABC, Generic[T]):
    """A sink for lines that are events. It prepares them and stores them in bounded batches."""

    def __init__(
        self, opening: Opening, *, batch_events: int, batch_bytes: int, line_bytes_max: int
    ) -> None:
        self.tally = Tally()
        self._opening = opening
        self._batch_events = batch_events
        self._batch_bytes = batch_bytes
        self._line_bytes_max = line_bytes_max
        self._batch: list[T] = []
        self._bytes = 0

    @abstractmethod
    def prepare(self, number: int, text: bytes, document: dict[str, Any]) -> T:
        """Return what to store for an event, the JSON of which is `text`. Raises BadDocument."""

    @abstractmethod
    async def store(self, batch: Sequence[T]) -> None:
        """Store a batch and count it. Raises LogError, NotStored, BadLine."""

    async def add(self, lines: Iterable[Line]) -> None:
        """Store these lines. Raises BadLine, and the errors of `store`."""
        number = self.tally.last_line
        for number, text in lines:
            if number >= self._opening.first_line:
                await self._add(number, text)
            if len(self._batch) >= self._batch_events or self._bytes >= self._batch_bytes:
                await self._flush(number)
        await self._flush(number)

    async def _add(self, number: int, text: bytes | None) -> None:
        try:
            if text is None:
                raise BadDocument(f"longer than {self._line_bytes_max:,} bytes")
            if text and not text.isspace():
                self._batch.append(self.prepare(number, text.strip(), parse_document(text)))
                self._bytes += len(text)
        except BadDocument as error:
            if self._opening.report_bad is None:
                await self._flush(number - 1)
            self.reject(number, str(error))

    async def _flush(self, last_line: int) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        if batch:
            await self.store(batch)
        self.tally.last_line = last_line

    def reject(self, number: int, reason: str) -> None:
        """Report a bad line. Raises BadLine if it ends the run."""
        if self._opening.report_bad is None:
            raise BadLine(number, reason)
        self.tally.bad += 1
        self._opening.report_bad(number, reason)
