"""Validates lines with the intake, and appends the resulting records to a log.

A real intake is used, but the records that it appends are first collected. The lines before a bad
one can therefore be appended without those after it, and nothing is appended if lines are only
checked.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence

import click
from msgspec.structs import replace

from eventstreams.cli.lines import Line
from eventstreams.cli.sink import BadLine, Opening, SinkMaker, Tally
from eventstreams.config.settings import Settings
from eventstreams.errors import LogError
from eventstreams.gateway import open_intake, open_schemas
from eventstreams.intake.document import EventProblem
from eventstreams.intake.enrichment import Sender
from eventstreams.intake.intake import Intake
from eventstreams.legacy.raw import LineConverter
from eventstreams.log.base import Log
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.model.event import Partition, Placed, Record
from eventstreams.turns import Turns

_BATCH_BYTES = 1 << 20
_BATCH_EVENTS = 1000
_SITE = "127.0.0.1"
_ERROR_EVENTS_PER_S = 10**9
"""High enough to make an error event for every bad line of a file."""
_STOP_S = 60.0


def validating(
    convert: LineConverter, settings: Settings, catalogue: Catalogue, *, show: bool = False
) -> SinkMaker:
    """Return a sink for lines that are converted to events of any streams.

    `show` prints the events instead of appending them. Bad lines that do not end the run become
    error events, if the settings name a stream for these.
    """

    @contextlib.asynccontextmanager
    async def make(opening: Opening) -> AsyncGenerator[Validator]:
        intake_settings = replace(settings.intake, error_events_per_s=_ERROR_EVENTS_PER_S)
        if opening.report_bad is None or opening.log is None:
            intake_settings = replace(intake_settings, error_stream=None)
        collector = _Collector()
        schemas = open_schemas(settings)
        intake = open_intake(
            settings=intake_settings,
            catalogue=lambda: catalogue,
            schemas=schemas,
            log=collector,
            metrics=Metrics(),
            turns=Turns(),
            stop_in_s=lambda: _STOP_S,
        )
        try:
            async with intake.running():
                yield Validator(convert, intake, collector, opening, show=show)
        finally:
            await schemas.aclose()

    return make


def _no_header(_: str) -> str | None:
    return None


class _Collector(MemoryLog):
    """A log that keeps records for the caller of `drain` instead of appending them."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[Record] = []

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        self._records += records
        return [Placed(Partition(record.topic, 0), 0) for record in records]

    def drain(self) -> list[Record]:
        records, self._records = self._records, []
        return records


class Validator:
    """The sink that validates lines."""

    def __init__(
        self,
        convert: LineConverter,
        intake: Intake,
        collector: _Collector,
        opening: Opening,
        *,
        show: bool,
    ) -> None:
        self.tally = Tally()
        self._convert = convert
        self._intake = intake
        self._collector = collector
        self._opening = opening
        self._show = show
        self._sender = Sender(header=_no_header, client_ip=None, site=_SITE)
        self._numbers: list[int] = []
        self._events: list[bytes] = []
        self._bytes = 0
        self._bad: list[tuple[int, str]] = []
        """The number and problem of each line from which no event could be made."""
        self._errors: list[Record] = []
        """Error events about these lines."""

    async def add(self, lines: Iterable[Line]) -> None:
        number = self.tally.last_line
        for number, text in lines:
            if number >= self._opening.first_line:
                await self._add(number, text)
            if len(self._events) >= _BATCH_EVENTS or self._bytes >= _BATCH_BYTES:
                await self._flush(number)
        await self._flush(number)

    async def _add(self, number: int, text: bytes | None) -> None:
        if text is not None and (not text or text.isspace()):
            return
        try:
            if text is None:
                raise EventProblem("RawLineError", "the line is too long", "the line is too long")
            event = self._convert(text)
        except EventProblem as problem:
            if self._opening.report_bad is None:
                await self._flush(number - 1)
                raise BadLine(number, problem.message) from None
            self._bad.append((number, problem.message))
            await self._intake.refuse(text or b"", problem, _SITE)
            self._errors += await self._error_records()
            return
        self._numbers.append(number)
        self._events.append(event)
        self._bytes += len(event)

    async def _flush(self, last_line: int) -> None:
        numbers, events, self._bytes = self._numbers, self._events, 0
        self._numbers, self._events = [], []
        if not events and not self._bad:
            self.tally.last_line = last_line
            return
        report = await self._intake.take(events, self._sender)
        records = self._collector.drain()[: report.accepted]
        errors = [*self._errors, *await self._error_records()]
        self._errors = []
        if report.rejections and self._opening.report_bad is None:
            bad = report.rejections[0]
            await self._append(records[: bad.index], [], numbers[bad.index] - 1)
            raise BadLine(numbers[bad.index], bad.message)
        self._report([(numbers[bad.index], bad.message) for bad in report.rejections])
        await self._append(records, errors, last_line)

    def _report(self, refused: list[tuple[int, str]]) -> None:
        bad, self._bad = sorted([*self._bad, *refused]), []
        for number, message in bad:
            assert self._opening.report_bad is not None
            self._opening.report_bad(number, message)
        self.tally.bad += len(bad)

    async def _error_records(self) -> list[Record]:
        await self._intake.promises.kept()
        return self._collector.drain()

    async def _append(
        self, records: Sequence[Record], errors: Sequence[Record], last_line: int
    ) -> None:
        log: Log | None = self._opening.log
        if self._show:
            for record in records:
                click.echo(record.value)
        if log is not None and (records or errors):
            placed = await log.append([*records, *errors])
            self.tally.partitions.update(where.partition for where in placed[: len(records)])
        self.tally.appended += len(records)
        self.tally.last_line = last_line
