"""One request on its way through the intake: its events, what becomes of them, what it takes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventstreams.errors import LogError
from eventstreams.intake.admission import Lease
from eventstreams.intake.filling import Sender
from eventstreams.intake.gate import Route
from eventstreams.intake.outcome import Elements, Rejection
from eventstreams.model.event import Record


class Ready(msgspec.Struct, frozen=True):
    """An event that may be appended."""

    index: int
    record: Record
    route: Route


class PostedEvents:
    """The events of one request, while they are dealt with."""

    def __init__(
        self,
        posted: Sequence[bytes],
        sender: Sender,
        *,
        lease: Lease | None,
        elements: Elements,
        promised: bool = False,
    ) -> None:
        """`promised`: the request was answered with 202, so a lack of room does not end it."""
        self.posted = posted
        self.sender = sender
        self.elements = elements
        self.ready: list[Ready] = []
        self.rejections: list[Rejection] = []
        self.errors: dict[str, list[LogError]] = {}
        """Why events were not appended, by the label of their stream."""
        self.error_records: list[Record] = []
        """Error events about rejected ones."""
        self.unsettled = len(posted)
        """Events that are neither in the log nor rejected."""
        self._lease = lease
        self._promised = promised
        self._body_bytes = 0 if lease is None else lease.bytes
        self._filled_bytes = 0
        self._counted = 0
        """Ready events that `_filled_bytes` covers."""

    def reject(self, rejection: Rejection) -> None:
        """Raises IntakeFull, IntakeShareUsed."""
        self._settle(rejection)
        self.cover()

    def fail(self, rejection: Rejection, label: str, error: LogError) -> None:
        """The same of an event that the log was offered: others may be in the log by now, so the
        request is not given up."""
        self.errors.setdefault(label, []).append(error)
        self._settle(rejection)
        self._promised = True
        self.cover()

    def _settle(self, rejection: Rejection) -> None:
        self.rejections.append(rejection)
        self.unsettled -= 1

    def cover(self) -> None:
        """Take the room that the ready events and the answer need by now.

        Raises IntakeFull, IntakeShareUsed.
        """
        for each in self.ready[self._counted :]:
            more = len(each.record.value or b"") - len(self.posted[each.index])
            self._filled_bytes += max(0, more)
        self._counted = len(self.ready)
        if self._lease is not None:
            size = self._body_bytes + self._filled_bytes + self.elements.bytes
            self._lease.cover(size, always=self._promised)
