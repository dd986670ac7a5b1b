"""What became of the events of a request, in the words of EventGate's answers.

The element that tells of a rejected event is made at once and as bytes, so that what an answer will
take is known at any time.
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
"""Of all elements of an answer beside their events. Beyond it they are shortened."""
_SHORT_MAX = 400
"""Characters of a shortened message."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that was not accepted."""

    index: int
    """In the request, from 0."""
    message: str
    is_error: bool
    """The service failed and not the client, or EventGate says so."""
    element: bytes
    """Of the answer, JSON."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a request."""

    count: int
    """Events of the request."""
    rejections: Sequence[Rejection]
    """In the order of the request. The other events are durable in the log."""

    @property
    def accepted(self) -> int:
        return self.count - len(self.rejections)

    @property
    def errors(self) -> int:
        return sum(rejection.is_error for rejection in self.rejections)


class Elements:
    """Makes the elements of one answer."""

    def __init__(self, *, plain: bool, event_bytes_max: int, silent: bool = False) -> None:
        """`plain` elements have EventGate's own keys alone. Events larger than `event_bytes_max`
        and CHECKED_BYTES are not repeated. `silent`: there is no answer, and elements are empty."""
        self._silent = silent
        self._plain = plain
        self._event_bytes_max = max(event_bytes_max, CHECKED_BYTES)
        self._details_bytes = 0
        self.bytes = 0
        """Of all elements made."""

    def invalid(
        self, index: int, event: bytes, message: str, problems: Sequence[ValidationProblem]
    ) -> Rejection:
        """The client's fault: it will always be refused."""
        if self._details_bytes > _DETAILS_BYTES_MAX:
            problems, message = (), _cut(message)
        errors = [problem.as_dict() for problem in problems]
        context = {"errors": errors, "errorsText": message}
        return self._rejection(index, event, message, context, is_error=False, status="invalid")

    def failed(self, index: int, event: bytes, message: str, *, retryable: bool) -> Rejection:
        """Not known to be in the log. It may be there if `retryable`: a log that does not answer
        may have written it."""
        context = {"message": message, **({} if self._plain else {"retryable": retryable})}
        return self._rejection(index, event, message, context, is_error=True, status="error")

    def not_appended(self, index: int, event: bytes, error: LogError) -> Rejection:
        if isinstance(error, LogUnavailable):
            return self.failed(index, event, "the log is out of reach", retryable=True)
        if isinstance(error, LogUnwritable | LogCorrupt):
            return self.failed(index, event, "the log can't be written", retryable=True)
        if isinstance(error, AppendRefused):
            return self.failed(index, event, "the log refused the event", retryable=False)
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
        if self._silent:
            return Rejection(index, message, is_error, b"")
        repeated = len(event) <= self._event_bytes_max
        document = {
            "status": status,
            "event": msgspec.Raw(event) if repeated else None,
            "context": context,
            **({} if self._plain else {"index": index}),
        }
        element = msgspec.json.encode(document)
        self.bytes += len(element)
        self._details_bytes += len(element) - (len(event) if repeated else 0)
        return Rejection(index, message, is_error, element)


def body(report: Report) -> Iterator[bytes]:
    """The JSON of a 207, 400 or 500, in parts: `error` is there unless all events are invalid."""
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
