"""Holds one request of the intake: its events, their outcomes, and the memory that it needs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventstreams.errors import LogError
from eventstreams.intake.admission import Lease
from eventstreams.intake.enrichment import Sender
from eventstreams.intake.outcome import Elements, Rejection
from eventstreams.intake.router import Route
from eventstreams.model.event import Record

_READY_BYTES = 224
"""Bytes of memory for an event that is ready to append, in addition to its value and key: at most
six objects and their list entries. A record has a key or a span, or neither.
"""
_WORKED_COPIES = 2
"""A large event in progress exists both as a document and as the value to append."""
_VALUE_BYTES = 72
"""Bytes of memory for each value of a document."""


class Ready(msgspec.Struct, frozen=True, gc=False):
    """An event that is ready to append."""

    index: int
    record: Record
    route: Route

    @property
    def held_bytes(self) -> int:
        """Return the bytes of memory that the event holds."""
        record = self.record
        return _READY_BYTES + len(record.value or b"") + len(record.key or b"")


class PostedEvents:
    """The events of one request while they are processed."""

    def __init__(
        self,
        posted: Sequence[bytes],
        sender: Sender,
        *,
        lease: Lease | None,
        elements: Elements,
        promised: bool = False,
    ) -> None:
        """Set the events and collaborators.

        `promised`: the request was answered with 202, so a lack of memory does not end it.
        """
        self.posted = posted
        self.sender = sender
        self.elements = elements
        self.ready: list[Ready] = []
        self.rejections: list[Rejection] = []
        self.errors: dict[str, list[LogError]] = {}
        """Why events were not appended, by the metrics label of their stream."""
        self.error_records: list[Record] = []
        """Error events about the rejected events."""
        self.unsettled = len(posted)
        """The number of events that are neither in the log nor rejected."""
        self._lease = lease
        self._promised = promised
        self._body_bytes = 0 if lease is None else lease.bytes
        self._ready_bytes = self._rejected_bytes = 0
        self._counted = 0
        """The number of ready events that `_ready_bytes` covers."""

    def reject(self, rejection: Rejection) -> None:
        """Reject an event. Raises IntakeFull, IntakeShareUsed."""
        self._settle(rejection)
        self.cover()

    def fail(self, rejection: Rejection, label: str, error: LogError) -> None:
        """Reject an event that has been offered to the log.

        Other events may be in the log by now, so a lack of memory no longer ends the request.
        """
        self.errors.setdefault(label, []).append(error)
        self._settle(rejection)
        self._promised = True
        self.cover()

    def _settle(self, rejection: Rejection) -> None:
        if not self.elements.silent:
            self.rejections.append(rejection)
            self._rejected_bytes += rejection.held_bytes
        self.unsettled -= 1

    def cover(self, worked_bytes: int = 0, worked_values: int = 0) -> None:
        """Charge the request for its ready events, its answer and the event in progress.

        The event in progress has `worked_bytes` bytes and `worked_values` values. Raises
        IntakeFull, IntakeShareUsed.
        """
        for each in self.ready[self._counted :]:
            self._ready_bytes += each.held_bytes
        self._counted = len(self.ready)
        if self._lease is not None:
            working = _WORKED_COPIES * worked_bytes + _VALUE_BYTES * worked_values
            size = self._body_bytes + self._ready_bytes + self._rejected_bytes + working
            self._lease.cover(size, always=self._promised)
