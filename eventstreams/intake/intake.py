"""The intake: events come in validated, or not at all.

The way of a request: `split` into events; each one is read, filled in, checked and written again,
one after the other, in the order of the request; what is good is offered to the log at once. An
event is accepted when the log says that it is durable. What is refused also becomes an error event,
behind the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple, cast

from eventstreams.errors import (
    AppendRefused,
    LogCorrupt,
    LogError,
    LogUnavailable,
    LogUnwritable,
    SchemaError,
)
from eventstreams.intake import document as events
from eventstreams.intake.admission import Admission
from eventstreams.intake.document import EventProblem
from eventstreams.intake.error_events import ErrorEvents, Refused
from eventstreams.intake.filling import Sender, value_at
from eventstreams.intake.gate import Gate, Route, schema_uri_of, stream_of
from eventstreams.intake.outcome import Accepted, Failed, Invalid, Outcome
from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.event import Record
from eventstreams.model.instant import iso_of, parse_instant
from eventstreams.schemas.validation import ValidationProblem, errors_text
from eventstreams.settings import IntakeSettings

_log = logging.getLogger(__name__)

_TURN_S = 0.002
"""Streams and other requests get their turn after so much work on one request."""
_VALIDATION = "ValidationError"


class _Ready(NamedTuple):
    record: Record
    route: Route


class Violation(EventProblem):
    def __init__(self, problems: Sequence[ValidationProblem]) -> None:
        super().__init__(_VALIDATION, errors_text(problems), "")
        self.problems = problems

    @property
    def rule(self) -> str:
        """Only places in the schema: what is declared there, and not what the event has there."""
        rules = dict.fromkeys(f"{each.schema_path} is not met" for each in self.problems)
        return ", ".join(rules)


class Intake:
    def __init__(
        self,
        *,
        log: Log,
        gate: Gate,
        error_events: ErrorEvents | None,
        settings: IntakeSettings,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.admission = Admission(settings.in_flight_bytes_max)
        self.lenient = settings.compatibility == "eventgate"
        self._destination = log
        self._gate = gate
        self._error_events = error_events
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """At the end whatever has been promised is done first. Raises ConfigError."""
        if self._error_events is not None:
            await self._error_events.check()
        try:
            yield
        finally:
            while self._tasks:
                await asyncio.wait(self._tasks)

    def split(self, body: bytes) -> list[bytes]:
        """Raises BadBody, BodyTooLarge."""
        return events.split(body, events_max=self.settings.events_max, lenient=self.lenient)

    def take_later(
        self, posted: Sequence[bytes], sender: Sender, lease: contextlib.ExitStack
    ) -> None:
        """What becomes of them is counted, and nobody is told; the lease is held as long."""

        async def taking() -> None:
            with lease:
                await self.take(posted, sender)

        self._keep(taking())

    async def take(self, posted: Sequence[bytes], sender: Sender) -> list[Outcome]:
        """One outcome for each event, in their order."""
        now_ms = time.time_ns() // 1_000_000
        now = iso_of(now_ms) or ""
        outcomes: list[Outcome | None] = []
        ready: list[_Ready] = []
        refused: list[Refused] = []
        turn_ends = time.monotonic() + _TURN_S
        for index, event in enumerate(posted):
            document: Any = None
            try:
                document = self._read(event)
                ready.append(await self._prepare(document, sender, now, now_ms))
                outcomes.append(None)
            except EventProblem as problem:
                outcomes.append(self._refuse(index, event, document, problem))
                self._report(refused, event, document, problem)
            if time.monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + _TURN_S
        await self._offer(posted, ready, outcomes)
        if refused:
            self._keep(self._tell(refused))
        assert None not in outcomes
        return cast("list[Outcome]", outcomes)

    def _read(self, event: bytes) -> Any:
        return events.read(
            event,
            bytes_max=self.settings.event_bytes_max,
            depth_max=self.settings.depth_max,
            lenient=self.lenient,
        )

    async def _prepare(self, document: Any, sender: Sender, now: str, now_ms: int) -> _Ready:
        """Raises EventProblem."""
        if not isinstance(document, dict):
            # upstream's words for whatever has no fields
            message = "Field(s) $schema were missing from event and could not be extracted."
            raise EventProblem("MissingFieldError", message, message)
        fields = cast("dict[str, Any]", document)
        uri = schema_uri_of(fields, sender)
        stream = stream_of(fields, sender)
        route = self._gate.known(stream, uri) or await self._gate.route(stream, uri)
        dated = route.filling.fill(fields, sender, now)
        route.schema.defaults.fill(fields)
        problems = route.schema.validator.validate(fields)
        if problems:
            raise Violation(problems)
        value = events.write(fields)
        if len(value) > self.settings.event_bytes_max:
            found = f"event has {len(value)} bytes with what is filled in"
            raise events.too_large(found, self.settings.event_bytes_max)
        timestamp_ms = now_ms if dated else _time_of(fields)
        key = None if route.key is None else route.key.of(fields)
        return _Ready(Record(route.topic, value, key, timestamp_ms), route)

    def _refuse(
        self, index: int, event: bytes, document: Any, problem: EventProblem
    ) -> Invalid | Failed:
        self._count(self._gate.label(document), "invalid")
        if self.lenient:
            shown = event if document is None else events.write(document)
            if not isinstance(problem, Violation):
                return Failed(index, shown, problem.message, retryable=False)
            return Invalid(index, shown, problem.message, problem.problems)
        problems = problem.problems if isinstance(problem, Violation) else ()
        return Invalid(index, event, problem.message, problems)

    async def _offer(
        self, posted: Sequence[bytes], ready: Sequence[_Ready], outcomes: list[Outcome | None]
    ) -> None:
        """Settles those that have no outcome yet."""
        waiting = [index for index, outcome in enumerate(outcomes) if outcome is None]
        placed = await self._destination.offer([each.record for each in ready]) if ready else []
        accepted: dict[str, int] = {}
        for index, each, where in zip(waiting, ready, placed, strict=True):
            label = each.route.stream.label
            if isinstance(where, LogError):
                _log.warning("an event was not appended: %s", where, extra={"stream": label})
                outcomes[index] = _failed(index, posted[index], where)
                self._count(label, "failed")
            else:
                outcomes[index] = Accepted(index)
                accepted[label] = accepted.get(label, 0) + 1
        for label, count in accepted.items():
            self._count(label, "accepted", count)

    def _count(self, label: str, outcome: str, count: int = 1) -> None:
        self._metrics.intake_events.labels(label, outcome).inc(count)

    # Error events.

    def _report(
        self, refused: list[Refused], event: bytes, document: Any, problem: EventProblem
    ) -> None:
        if self._error_events is None:
            return
        if self.lenient and not isinstance(problem, Violation):
            return  # upstream is silent about these
        if self._error_events.admit():
            refused.append(Refused(event, document, problem))
        else:
            self._metrics.intake_error_events.labels("suppressed").inc()

    async def _tell(self, refused: Sequence[Refused]) -> None:
        assert self._error_events is not None
        now_ms = time.time_ns() // 1_000_000
        try:
            records = [await self._error_events.record(each, now_ms) for each in refused]
        except (EventProblem, SchemaError) as error:
            _log.error("%d error events could not be made: %s", len(refused), error)
            self._metrics.intake_error_events.labels("failed").inc(len(refused))
            return
        for where in await self._destination.offer(records):
            failed = isinstance(where, LogError)
            self._metrics.intake_error_events.labels("failed" if failed else "made").inc()
            if failed:
                _log.warning("an error event was not appended: %s", where)

    def _keep(self, work: Any) -> None:
        """Runs it behind an answer that is given already; `running` waits for its end."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("taking events failed", exc_info=error)


def _failed(index: int, event: bytes, error: LogError) -> Failed:
    if isinstance(error, LogUnavailable):
        return Failed(index, event, "the log is out of reach", retryable=True)
    if isinstance(error, LogUnwritable | LogCorrupt):
        return Failed(index, event, "the log can't be written", retryable=True)
    if isinstance(error, AppendRefused):
        return Failed(index, event, "the log refused the event", retryable=False)
    return Failed(index, event, "the stream's topic does not exist", retryable=True)


def _time_of(document: dict[str, Any]) -> int | None:
    """Of `meta.dt`; None, which is the time of appending, where it says nothing a log can hold."""
    text = value_at(document, ("meta", "dt"))
    timestamp_ms = parse_instant(text) if isinstance(text, str) else None
    return timestamp_ms if timestamp_ms is not None and timestamp_ms >= 0 else None
