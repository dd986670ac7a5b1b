"""The way of a query from a client to the intake, behind an answer that is given already."""

from __future__ import annotations

import contextlib
import time

from eventstreams.intake.admission import Lease
from eventstreams.intake.document import EventProblem, write
from eventstreams.intake.filling import Sender
from eventstreams.intake.intake import Intake
from eventstreams.legacy.capsule import decode_query
from eventstreams.legacy.conversion import Converter, Reception
from eventstreams.model.instant import iso_of


class Beacon:
    """Converts queries and gives the events to the intake."""

    def __init__(
        self, *, intake: Intake, converter: Converter, receiver: str, query_bytes_max: int
    ) -> None:
        """`receiver`: what `recvFrom` of the events says."""
        self.intake = intake
        self._converter = converter
        self._receiver = receiver
        self._query_bytes_max = query_bytes_max

    async def take(
        self, query: bytes, sender: Sender, lease: Lease, until_done: contextlib.ExitStack
    ) -> None:
        """Take the event in a query. What cannot be converted goes to the error stream.

        The lease is that of the request. `until_done` ends when everything is done.
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
