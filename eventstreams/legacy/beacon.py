"""Passes queries from clients to the intake after the request has been answered."""

from __future__ import annotations

import contextlib
import time

from eventstreams.intake.admission import Lease
from eventstreams.intake.document import EventProblem, write
from eventstreams.intake.enrichment import Sender
from eventstreams.intake.intake import Intake
from eventstreams.legacy.capsule import decode_query
from eventstreams.legacy.conversion import Converter, Reception
from eventstreams.model.timestamp import iso_of


class Beacon:
    """Converts queries and passes the events to the intake."""

    def __init__(
        self, *, intake: Intake, converter: Converter, receiver: str, query_bytes_max: int
    ) -> None:
        """Set the collaborators. `receiver` is the value of the events' `recvFrom`."""
        self.intake = intake
        self._converter = converter
        self._receiver = receiver
        self._query_bytes_max = query_bytes_max

    async def take(
        self, query: bytes, sender: Sender, lease: Lease, until_done: contextlib.ExitStack
    ) -> None:
        """Process the event in a query. A query that cannot be converted becomes an error event.

        `lease` is that of the request. `until_done` is closed when all work is done.
        """
        intake = self.intake
        with until_done:
            try:
                async with intake.turns.turn(sender.site):
                    event = self._convert(query)
            except EventProblem as problem:
                await intake.refuse(query, problem, sender.site)
            else:
                intake.take_later([event], sender, lease, until_done.pop_all())

    def _convert(self, query: bytes) -> bytes:
        """Return the JSON of the event. Raises EventProblem."""
        capsule = decode_query(query, bytes_max=self._query_bytes_max)
        now = iso_of(time.time_ns() // 1_000_000) or ""
        return write(self._converter.convert(capsule, Reception(now, receiver=self._receiver)))
