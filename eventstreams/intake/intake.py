"""The intake: events come in validated, or not at all.

The way of a request: `split` into events; each one is read, filled in, checked and written again,
one after the other, in the order of the request; what is good is offered to the log at once. An
event is accepted when the log says that it is durable. What is refused also becomes an error event,
behind the answer.

All of that runs in turns of the client that posts (eventstreams.turns), and what it takes in memory
is charged to the request's lease.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from eventstreams.errors import (
    IntakeFull,
    IntakeShareUsed,
    LogError,
    LogUnavailable,
    SchemaError,
)
from eventstreams.intake import document as events
from eventstreams.intake.admission import Admission, Lease
from eventstreams.intake.document import LARGE_BYTES, EventProblem, Steps
from eventstreams.intake.error_events import ErrorEvents, Refused
from eventstreams.intake.event_work import EventWork, fields_of
from eventstreams.intake.filling import Sender, time_of
from eventstreams.intake.gate import Gate, Route, schema_uri_of, stream_of
from eventstreams.intake.outcome import Elements, Rejection, Report
from eventstreams.intake.promises import Promises
from eventstreams.intake.request import PostedEvents, Ready
from eventstreams.intake.violation import Violation
from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.event import Placed, Record
from eventstreams.model.instant import iso_of
from eventstreams.settings import IntakeSettings
from eventstreams.turns import Turns

_log = logging.getLogger(__name__)

_OFFERED_MAX = 500
"""Records that the log is offered in one go: it takes time on the event loop for each."""
_STEP_BYTES = 4096
"""Of small events that are read and checked in one step, which takes about 0.1 ms."""
_EVENT_BYTES = 256
"""An event without bytes takes as long as this many bytes."""


class _Wanted(NamedTuple):
    """A way that is not known yet. Finding it may take waiting, so it is found between turns."""

    stream: str
    schema_uri: str


class Intake:
    def __init__(
        self,
        *,
        log: Log,
        gate: Gate,
        error_events: ErrorEvents | None,
        settings: IntakeSettings,
        metrics: Metrics,
        turns: Turns,
        stop_in_s: Callable[[], float],
    ) -> None:
        """`stop_in_s`: when the process is stopped, how much time is left for what it promised."""
        self.settings = settings
        self.admission = Admission(
            bytes_max=settings.in_flight_bytes_max,
            client_bytes_max=settings.client_in_flight_bytes_max,
            client_bodies_max=settings.client_bodies_max,
        )
        self.lenient = settings.compatibility == "eventgate"
        self._work = EventWork(settings, lenient=self.lenient)
        self.turns = turns
        self._destination = log
        self._gate = gate
        self._error_events = error_events
        self._metrics = metrics
        self.promises = Promises(stop_in_s)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """At the end whatever has been promised is done first, while there is time.

        Raises ConfigError.
        """
        if self._error_events is not None:
            await self._error_events.check()
        try:
            yield
        finally:
            await self.promises.finish()

    async def split(self, body: bytes, sender: Sender) -> list[bytes]:
        """Raises BadBody, BodyTooLarge."""
        steps = events.split(
            body,
            events_max=self.settings.events_max,
            event_bytes_max=self.settings.event_bytes_max,
            lenient=self.lenient,
        )
        return await self.turns.run_steps(sender.site, steps)

    def take_later(
        self,
        posted: Sequence[bytes],
        sender: Sender,
        lease: Lease,
        until_done: contextlib.ExitStack,
    ) -> None:
        """Take them without telling anyone what becomes of them. `until_done` ends with that."""
        request = PostedEvents(
            posted, sender, lease=lease, elements=self._elements(silent=True), promised=True
        )

        async def taking() -> None:
            with until_done:
                await self._take(request)

        self.promises.keep(taking(), request)

    async def take(
        self, posted: Sequence[bytes], sender: Sender, lease: Lease | None = None
    ) -> Report:
        """What became of each event. The lease grows with what the answer needs.

        Raises IntakeFull, IntakeShareUsed; then nothing is in the log.
        """
        request = PostedEvents(posted, sender, lease=lease, elements=self._elements())
        await self._take(request)
        return Report(len(posted), request.rejections)

    async def refuse(self, posted: bytes, problem: EventProblem, site: str) -> None:
        """Count something that no event could be made of, and send it to the error stream.

        The work is charged to the client at `site`.
        """
        errors_to = await self._errors_to()
        async with self.turns.turn(site):
            self._count(self._gate.label(None), "invalid")
            if errors_to is None:
                return
            refused = Refused(posted, None, problem)
            records = self._error_record(errors_to, refused, time.time_ns() // 1_000_000, site)
            if records:
                self._tell(records, site)

    def _elements(self, *, silent: bool = False) -> Elements:
        return Elements(
            plain=self.lenient, event_bytes_max=self.settings.event_bytes_max, silent=silent
        )

    async def _take(self, request: PostedEvents) -> None:
        errors_to = await self._errors_to()
        await self._run(request.sender.site, self._sort(request, errors_to))
        await self._offer(request)
        request.rejections.sort(key=attrgetter("index"))
        if request.error_records:
            self._tell(request.error_records, request.sender.site)

    async def _run(self, site: str, steps: Generator[_Wanted | None, Any, None]) -> None:
        """Like `Turns.run_steps`, for steps that want to know ways, too."""
        route: Route | EventProblem | None = None
        wanted: _Wanted | None = None

        def until_wanted() -> Steps[bool]:
            """True at the end."""
            nonlocal wanted
            try:
                wanted = steps.send(route)
                while wanted is None:
                    yield
                    wanted = next(steps)
            except StopIteration:
                return True
            return False

        while not await self.turns.run_steps(site, until_wanted()):
            assert wanted is not None
            try:
                route = await self._gate.route(wanted.stream, wanted.schema_uri)
            except EventProblem as problem:
                route = problem

    def _sort(
        self, request: PostedEvents, errors_to: Route | Exception | None
    ) -> Generator[_Wanted | None, Any, None]:
        """Make records of the events that are good, and reject the others.

        Small events that are good share a step of about _STEP_BYTES.
        """
        now_ms = time.time_ns() // 1_000_000
        now = iso_of(now_ms) or ""
        sender, work = request.sender, self._work
        step_bytes = 0
        for index, event in enumerate(request.posted):
            document: Any = None
            try:
                if work.is_small(event):
                    document = work.read_small(event)
                else:
                    document = yield from work.read(event)
                fields = fields_of(document)
                uri = schema_uri_of(fields, sender)
                stream = stream_of(fields, sender)
                route = self._gate.known(stream, uri)
                if route is None:
                    found: Route | EventProblem = yield _Wanted(stream, uri)
                    if isinstance(found, EventProblem):
                        raise found
                    route = found
                dated = route.filling.fill(fields, sender, now)
                if route.schema.defaults.is_bounded:
                    work.fill_bounded(route, fields)
                else:
                    yield from work.fill(route, fields, event)
                problems = route.schema.validator.validate(fields)
                if problems:
                    raise Violation(problems)
                if len(event) > LARGE_BYTES:
                    yield None
                timestamp_ms = now_ms if dated else time_of(fields)
                request.ready.append(Ready(index, work.record(route, fields, timestamp_ms), route))
            except EventProblem as problem:
                request.reject(self._refuse(request, index, event, document, problem))
                if errors_to is not None and self._is_told(problem):
                    refused = Refused(event, document, problem)
                    request.error_records += self._error_record(
                        errors_to, refused, now_ms, sender.site
                    )
                step_bytes = _STEP_BYTES
            step_bytes += len(event) + _EVENT_BYTES
            if step_bytes > _STEP_BYTES:
                step_bytes = 0
                request.cover()
                yield None
        request.cover()

    def _refuse(
        self, request: PostedEvents, index: int, event: bytes, document: Any, problem: EventProblem
    ) -> Rejection:
        self._count(self._gate.label(document), "invalid")
        problems = problem.problems if isinstance(problem, Violation) else ()
        if not self.lenient:
            return request.elements.invalid(index, event, problem.message, problems)
        shown = event if document is None else events.write(document)
        if isinstance(problem, Violation):
            return request.elements.invalid(index, shown, problem.message, problems)
        return request.elements.failed(index, shown, problem.message, retryable=False)

    async def _offer(self, request: PostedEvents) -> None:
        """Offer the good events to the log, in order, a part at a time.

        When the log is out of reach for all of one part, it is not asked again for the others.
        """
        reachable = True
        placed: list[Placed | LogError] = []
        for first in range(0, len(request.ready), _OFFERED_MAX):
            part = request.ready[first : first + _OFFERED_MAX]
            if reachable:
                placed = await self._destination.offer([each.record for each in part])
                reachable = not all(isinstance(each, LogUnavailable) for each in placed)
            else:
                placed = placed[:1] * len(part)
            await self.turns.run_steps(request.sender.site, self._settle(request, part, placed))
        for label, errors in request.errors.items():
            text = f"{len(errors)} events were not appended: {errors[0]}"
            _log.warning(text, extra={"stream": label})

    def _settle(
        self, request: PostedEvents, part: Sequence[Ready], placed: Sequence[Placed | LogError]
    ) -> Steps[None]:
        accepted: dict[str, int] = {}
        for each, where in zip(part, placed, strict=True):
            label = each.route.stream.label
            if isinstance(where, LogError):
                event = request.posted[each.index]
                request.fail(request.elements.not_appended(each.index, event, where), label, where)
                self._count(label, "failed")
                yield
            else:
                request.unsettled -= 1
                accepted[label] = accepted.get(label, 0) + 1
        for label, count in accepted.items():
            self._count(label, "accepted", count)

    def _count(self, label: str, outcome: str, count: int = 1) -> None:
        self._metrics.intake_events.labels(label, outcome).inc(count)

    # Error events.

    async def _errors_to(self) -> Route | Exception | None:
        """Where they go, or why they can't; None if there are none."""
        if self._error_events is None:
            return None
        try:
            return await self._error_events.route()
        except (EventProblem, SchemaError) as error:
            return error

    def _is_told(self, problem: EventProblem) -> bool:
        """Upstream is silent about all that schemas do not decide."""
        return not self.lenient or isinstance(problem, Violation)

    def _error_record(
        self, route: Route | Exception, refused: Refused, now_ms: int, site: str
    ) -> list[Record]:
        """At most one."""
        assert self._error_events is not None
        outcomes = self._metrics.intake_error_events
        if not self._error_events.admit(site):
            outcomes.labels("suppressed").inc()
        elif isinstance(route, Exception):
            _log.error("an error event could not be made: %s", route)
            outcomes.labels("failed").inc()
        else:
            return [self._error_events.record(route, refused, now_ms)]
        return []

    def _tell(self, records: list[Record], site: str) -> None:
        """Append error events behind the answer, if there is room for them that long."""
        until_done = contextlib.ExitStack()
        try:
            lease = until_done.enter_context(self.admission.lease(site))
            lease.cover(sum(len(record.value or b"") for record in records))
        except (IntakeFull, IntakeShareUsed):
            until_done.close()
            self._metrics.intake_error_events.labels("suppressed").inc(len(records))
            return

        async def telling() -> None:
            with until_done:
                placed = await self._destination.offer(records)
                lost = [where for where in placed if isinstance(where, LogError)]
                self._metrics.intake_error_events.labels("made").inc(len(placed) - len(lost))
                self._metrics.intake_error_events.labels("failed").inc(len(lost))
                if lost:
                    _log.warning("%d error events were not appended: %s", len(lost), lost[0])

        self.promises.keep(telling())
