"""Lines in, records of a log out: in batches of bounded bytes, one append at a time.

Order is that of the input. When it stops early, for whatever reason, the tally says up to which
line everything is in the log, so that one can go on from the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable

from eventstreams.cli.destination import Destination
from eventstreams.cli.lines import BadDocument, Line, event_time_ms, parse_document
from eventstreams.cli.sink import BadLine, Opening, SinkMaker, Tally
from eventstreams.log.base import Log
from eventstreams.model.event import Record

_BATCH_BYTES = 1 << 20
_BATCH_RECORDS = 2000


def appending(destination: Destination) -> SinkMaker:
    """For lines that are events of one stream as they are."""

    @contextlib.asynccontextmanager
    async def make(opening: Opening) -> AsyncGenerator[Appender]:
        yield Appender(
            log=opening.log,
            destination=destination,
            first_line=opening.first_line,
            report_bad=opening.report_bad,
        )

    return make


class Appender:
    def __init__(
        self,
        *,
        log: Log | None,
        destination: Destination,
        first_line: int,
        report_bad: Callable[[int, str], None] | None,
    ) -> None:
        """Without a `log` lines are only checked. With `report_bad` bad lines do not stop it."""
        self.tally = Tally()
        self._log = log
        self._destination = destination
        self._first_line = first_line
        self._report_bad = report_bad
        self._limit = destination.log.sqlite.record_bytes_max
        self._records: list[Record] = []
        self._bytes = 0

    async def add(self, lines: Iterable[Line]) -> None:
        """Appends these lines. Raises BadLine, and the log's LogError for the batch it refuses."""
        number = self.tally.last_line
        for number, text in lines:
            if number >= self._first_line:
                await self._add(number, text)
            if len(self._records) >= _BATCH_RECORDS or self._bytes >= _BATCH_BYTES:
                await self._flush(number)
        await self._flush(number)

    async def _add(self, number: int, text: bytes | None) -> None:
        try:
            if text is None:
                raise BadDocument(f"longer than {self._limit:,} bytes")
            if text and not text.isspace():
                self._records.append(self._record(text))
                self._bytes += len(text)
        except BadDocument as error:
            if self._report_bad is None:
                await self._flush(number - 1)
                raise BadLine(number, str(error)) from None
            self.tally.bad += 1
            self._report_bad(number, str(error))

    def _record(self, text: bytes) -> Record:
        document = parse_document(text)
        where = self._destination
        time_ms = event_time_ms(document) if where.event_time else None
        return Record(
            topic=where.topic, value=text.strip(), timestamp_ms=time_ms, partition=where.partition
        )

    async def _flush(self, last_line: int) -> None:
        records, self._records, self._bytes = self._records, [], 0
        if records and self._log is not None:
            placed = await self._log.append(records)
            self.tally.partitions.update(partition for partition, _ in placed)
        self.tally.appended += len(records)
        self.tally.last_line = last_line
