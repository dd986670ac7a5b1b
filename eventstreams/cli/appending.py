"""Appends lines to a log as records, in batches of bounded size, one append at a time.

The order of the input is kept. If the run stops early, the tally gives the last line up to which
everything is in the log, so that the next run can continue there.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from eventstreams.cli.destination import Destination
from eventstreams.cli.lines import event_time_ms
from eventstreams.cli.sink import EventSink, Opening, SinkMaker
from eventstreams.model.event import Record

_BATCH_BYTES = 1 << 20
_BATCH_RECORDS = 2000


def appending(destination: Destination) -> SinkMaker:
    """Return a sink for lines that are events of one stream, which are appended unchanged."""

    @contextlib.asynccontextmanager
    async def make(opening: Opening) -> AsyncGenerator[Appender]:
        yield Appender(opening, destination)

    return make


class Appender(EventSink[Record]):
    def __init__(self, opening: Opening, destination: Destination) -> None:
        """Set the destination. Without a log to append to, lines are only checked."""
        super().__init__(
            opening,
            batch_events=_BATCH_RECORDS,
            batch_bytes=_BATCH_BYTES,
            line_bytes_max=destination.log.sqlite.record_bytes_max,
        )
        self._log = opening.log
        self._destination = destination

    def prepare(self, number: int, text: bytes, document: dict[str, Any]) -> Record:  # noqa: ARG002
        where = self._destination
        time_ms = event_time_ms(document) if where.event_time else None
        return Record(
            topic=where.topic, value=text, timestamp_ms=time_ms, partition=where.partition
        )

    async def store(self, batch: Sequence[Record]) -> None:
        """Append records. Raises the log's LogError for a batch that it refuses."""
        if self._log is not None:
            placed = await self._log.append(batch)
            self.tally.partitions.update(partition for partition, _ in placed)
        self.tally.appended += len(batch)
