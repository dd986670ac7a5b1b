"""Records the outcomes of the events of a request, and writes answers in the format of EventGate.

The element about a rejected event is serialised at once, so that the size of the answer is always
known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from eventstreams.errors import AppendRefused, LogCorrupt, LogError, LogUnavailable, LogUnwritable
from eventstreams.intake.document import CHECKED_BYTES
from eventstreams.schemas.validation import ValidationProblem

_DETAILS_BYTES_MAX = 2**20
"""Bytes of all elements of an answer apart from their events. Beyond this, elements are shortened.
"""
_REJECTION_BYTES = 240
"""Bytes of memory for a rejection in addition to its texts: five objects and their list entries."""
_SHORT_MAX = 400
"""Characters of a shortened message."""


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """An event that was not accepted."""

    index: int
    """The index of the event in the request, from 0."""
    message: str
    is_error: bool
    """Whether the failure is the service's rather than the client's, or EventGate reports it so."""
    element: bytes
    """The element of the answer, as JSON."""

    @property
    def held_bytes(self) -> int:
        """Return the bytes of memory that the rejection holds."""
        return _REJECTION_BYTES + len(self.message) + len(self.element)


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a request."""

    count: int
    """The number of events in the request."""
    rejections: Sequence[Rejection]
    """In the order of the request. All other events are durable in the log."""

    @property
    def accepted(self) -> int:
        return self.count - len(self.rejections)

    @property
    def errors(self) -> int:
        return sum(rejection.is_error for rejection in self.rejections)


class Elements:
    """Makes the elements of one answer."""

    def __init__(self, *, plain: bool, event_bytes_max: int, silent: bool = False) -> None:
        """Set how elements are made.

        `plain` elements have only EventGate's keys. Events larger than both `event_bytes_max` and
        CHECKED_BYTES are not repeated. `silent` makes empty elements, for requests without an
        answer.
        """
        self.silent = silent
        self._plain = plain
        self._event_bytes_max = max(event_bytes_max, CHECKED_BYTES)
        self._details_bytes = 0

    def invalid(
        self, index: int, event: bytes, message: str, problems: Sequence[ValidationProblem]
    ) -> Rejection:
        """Return the rejection of an event that is invalid and will always be refused."""
        if self._details_bytes > _DETAILS_BYTES_MAX:
            problems, message = (), _cut(message)
        errors = [problem.as_dict() for problem in problems]
        context = {"errors": errors, "errorsText": message}
        return self._rejection(index, event, message, context, is_error=False, status="invalid")

    def failed(self, index: int, event: bytes, message: str, *, retryable: bool) -> Rejection:
        """Return the rejection of an event that may not be in the log.

        If `retryable`, it may be in the log: a log that does not answer may still have written it.
        """
        context = {"message": message, **({} if self._plain else {"retryable": retryable})}
        return self._rejection(index, event, message, context, is_error=True, status="error")

    def not_appended(self, index: int, event: bytes, error: LogError) -> Rejection:
        if isinstance(error, LogUnavailable):
            return self.failed(index, event, "the log is unreachable", retryable=True)
        if isinstance(error, LogUnwritable | LogCorrupt):
            return self.failed(index, event, "the log cannot be written", retryable=True)
        if isinstance(error, AppendRefused):
            return self.failed(index, event, "the log rejected the event", retryable=False)
        return self.failed(index, event, "the stream's topic does not exist", retryable=True)

    def _rejection(
        self,
        index: int,
        event: bytes,
        message: str,
        context: dict[str, Any],
        *,
        is_error: bool,
        status: str,
    ) -> Rejection:
        if self.silent:
            return Rejection(index, message, is_error, b"")
        repeated = len(event) <= self._event_bytes_max
        document = {
            "status": status,
            "event": msgspec.Raw(event) if repeated else None,
            "context": context,
            **({} if self._plain else {"index": index}),
        }
        element = msgspec.json.encode(document)
        self._details_bytes += len(element) - (len(event) if repeated else 0)
        return Rejection(index, message, is_error, element)


def body(report: Report) -> Iterator[bytes]:
    """Yield the JSON body of a 207, 400 or 500 answer in parts.

    `error` is present unless all events are invalid.
    """
    yield b'{"invalid":['
    yield from _listed(report, is_error=False)
    if report.accepted or report.errors:
        yield b'],"error":['
        yield from _listed(report, is_error=True)
    yield b"]}"


def _listed(report: Report, *, is_error: bool) -> Iterator[bytes]:
    between = b""
    for rejection in report.rejections:
        if rejection.is_error == is_error:
            yield between
            yield rejection.element
            between = b","


def _cut(message: str) -> str:
    return message if len(message) <= _SHORT_MAX else message[:_SHORT_MAX] + "…"
