"""The intake: validates posted events and appends them to the log.

A request is `split` into events. Each event is parsed, filled in, validated and serialised, one
after the other in the order of the request, and the valid ones are offered to the log. An event is
accepted once the log reports that it is durable. A rejected event also becomes an error event,
which is appended after the answer.

All of this work runs in turns that are charged to the posting client (eventstreams.turns), and the
memory it needs is charged to the request's lease.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from eventstreams.config.settings import IntakeSettings
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
from eventstreams.intake.enrichment import Sender, time_of
from eventstreams.intake.error_events import ErrorEvents, Refused
from eventstreams.intake.event_work import EventWork, fields_of
from eventstreams.intake.outcome import Elements, Rejection, Report
from eventstreams.intake.promises import Promises
from eventstreams.intake.request import PostedEvents, Ready
from eventstreams.intake.router import EventRouter, Route, schema_uri_of, stream_of
from eventstreams.intake.violation import Violation
from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.event import Placed, Record
from eventstreams.model.timestamp import iso_of
from eventstreams.turns import Turns

_log = logging.getLogger(__name__)

_OFFERED_MAX = 500
"""Records offered to the log in one call, which takes event loop time for each record."""
_POSTED_BYTES = 56
"""Bytes of memory for each event of a request, in addition to its text."""
_STEP_BYTES = 4096
"""Bytes of small events that are parsed and validated in one step, which takes about 0.1 ms."""
_EVENT_BYTES = 256
"""An empty event takes as much time as this many bytes."""


class _RouteRequest(NamedTuple):
    """A request for a route that is not cached. It may block, so it is handled between turns."""

    stream: str
    schema_uri: str


class Intake:
    def __init__(
        self,
        *,
        log: Log,
        router: EventRouter,
        error_events: ErrorEvents | None,
        settings: IntakeSettings,
        metrics: Metrics,
        turns: Turns,
        stop_in_s: Callable[[], float],
        finds_spans: bool = False,
    ) -> None:
        """Set the collaborators. `stop_in_s` returns the seconds left to finish promised work once
        the process is stopping.

        Set `finds_spans` if the log stores the spans of places (model/place.py). Finding them here
        charges the time to the poster instead of the log's thread.
        """
        self.settings = settings
        self.admission = Admission(
            bytes_max=settings.in_flight_bytes_max,
            client_bytes_max=settings.client_in_flight_bytes_max,
            client_bodies_max=settings.client_bodies_max,
        )
        self.lenient = settings.compatibility == "eventgate"
        self._work = EventWork(settings, lenient=self.lenient, finds_spans=finds_spans)
        self.turns = turns
        self._destination = log
        self._router = router
        self._error_events = error_events
        self._metrics = metrics
        self.promises = Promises(stop_in_s)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run the intake; on exit, finish all promised work as long as time is left.

        Raises ConfigError.
        """
        if self._error_events is not None:
            await self._error_events.check()
        try:
            yield
        finally:
            await self.promises.finish()

    async def split(self, body: bytes, sender: Sender, lease: Lease) -> list[bytes]:
        """Return the events of a body. The lease grows with them.

        Raises BadBody, BodyTooLarge, IntakeFull, IntakeShareUsed.
        """
        copies_bytes = events.copies_of(body) * len(body)
        lease.cover(copies_bytes)
        steps = events.split(
            body,
            events_max=self.settings.events_max,
            event_bytes_max=self.settings.event_bytes_max,
            lenient=self.lenient,
            found=lambda count: lease.cover(copies_bytes + count * _POSTED_BYTES),
        )
        posted = await self.turns.run_steps(sender.site, steps)
        lease.shrink(len(body) + len(posted) * _POSTED_BYTES)
        return posted

    def take_later(
        self,
        posted: Sequence[bytes],
        sender: Sender,
        lease: Lease,
        until_done: contextlib.ExitStack,
    ) -> None:
        """Process events in the background, without reporting their outcomes.

        `until_done` is closed when the work is done.
        """
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
        """Process events and return their outcomes. The lease grows with the memory the answer
        needs.

        Raises IntakeFull, IntakeShareUsed; in that case nothing has been appended.
        """
        request = PostedEvents(posted, sender, lease=lease, elements=self._elements())
        await self._take(request)
        return Report(len(posted), request.rejections)

    async def refuse(self, posted: bytes, problem: EventProblem, site: str) -> None:
        """Count a post from which no event could be made, and append an error event about it.

        The work is charged to the client at `site`.
        """
        errors_to = await self._errors_to()
        async with self.turns.turn(site):
            self._count(self._router.label(None), "invalid")
            if errors_to is None:
                return
            refused = Refused(posted, None, problem)
            records = self._error_record(errors_to, refused, time.time_ns() // 1_000_000, site)
            if records:
                self._append_error_events(records, site)

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
            self._append_error_events(request.error_records, request.sender.site)

    async def _run(self, site: str, steps: Generator[_RouteRequest | None, Any, None]) -> None:
        """Run steps as `Turns.run_steps` does, and also answer the routes that they request."""
        route: Route | EventProblem | None = None
        wanted: _RouteRequest | None = None

        def until_wanted() -> Steps[bool]:
            """Run until a route is requested. Returns True when all steps are done."""
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
                route = await self._router.route(wanted.stream, wanted.schema_uri)
            except EventProblem as problem:
                route = problem.with_traceback(None)  # it refers to this frame

    def _sort(
        self, request: PostedEvents, errors_to: Route | Exception | None
    ) -> Generator[_RouteRequest | None, Any, None]:
        """Make records of the valid events, and reject the others.

        Small valid events share a step of about _STEP_BYTES.
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
                    request.cover(len(event), work.values_max(event))
                    document = yield from work.read(event)
                fields = fields_of(document)
                uri = schema_uri_of(fields, sender)
                stream = stream_of(fields, sender)
                route = self._router.known(stream, uri)
                if route is None:
                    found: Route | EventProblem = yield _RouteRequest(stream, uri)
                    if isinstance(found, EventProblem):
                        raise found
                    route = found
                dated = route.enrichment.fill(fields, sender, now)
                if route.schema.defaults.is_bounded:
                    work.fill_bounded(route, fields)
                else:
                    yield from work.fill(route, fields, event)
                yield from _check(route, fields, len(event))
                timestamp_ms = now_ms if dated else time_of(fields)
                request.ready.append(Ready(index, work.record(route, fields, timestamp_ms), route))
            except EventProblem as problem:
                # Variables of this frame refer to the problem, and it refers to the frame: only the
                # garbage collector would free such a cycle, with all events of the request.
                problem.__traceback__ = None
                request.reject(self._refuse(request, index, event, document, problem))
                if errors_to is not None and self._causes_error_event(problem):
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
        self._count(self._router.label(document), "invalid")
        problems = problem.problems if isinstance(problem, Violation) else ()
        if not self.lenient:
            return request.elements.invalid(index, event, problem.message, problems)
        shown = event if document is None else events.write(document)
        if isinstance(problem, Violation):
            return request.elements.invalid(index, shown, problem.message, problems)
        return request.elements.failed(index, shown, problem.message, retryable=False)

    async def _offer(self, request: PostedEvents) -> None:
        """Offer the valid events to the log in order, one part at a time.

        If the log is unavailable for a whole part, the remaining parts are not offered to it.
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
        """Return the route of error events, or the reason why there is none; None if they are
        disabled.
        """
        if self._error_events is None:
            return None
        try:
            return await self._error_events.route()
        except (EventProblem, SchemaError) as error:
            return error

    def _causes_error_event(self, problem: EventProblem) -> bool:
        """Return whether a rejection becomes an error event. EventGate makes them only for
        violations of the schema.
        """
        return not self.lenient or isinstance(problem, Violation)

    def _error_record(
        self, route: Route | Exception, refused: Refused, now_ms: int, site: str
    ) -> list[Record]:
        """Return the error event, or an empty list if it is suppressed or cannot be made."""
        assert self._error_events is not None
        outcomes = self._metrics.intake_error_events
        if not self._error_events.admit(site):
            outcomes.labels("suppressed").inc()
        elif isinstance(route, Exception):
            self._error_events.log_failure(route)
            outcomes.labels("failed").inc()
        else:
            return [self._error_events.record(route, refused, now_ms)]
        return []

    def _append_error_events(self, records: list[Record], site: str) -> None:
        """Append error events after the answer, if there is memory to hold them until then."""
        until_done = contextlib.ExitStack()
        try:
            lease = until_done.enter_context(self.admission.lease(site))
            lease.cover(sum(len(record.value or b"") for record in records))
        except (IntakeFull, IntakeShareUsed):
            until_done.close()
            self._metrics.intake_error_events.labels("suppressed").inc(len(records))
            return

        async def appending() -> None:
            with until_done:
                placed = await self._destination.offer(records)
                lost = [where for where in placed if isinstance(where, LogError)]
                self._metrics.intake_error_events.labels("made").inc(len(placed) - len(lost))
                self._metrics.intake_error_events.labels("failed").inc(len(lost))
                if lost:
                    _log.warning("%d error events were not appended: %s", len(lost), lost[0])

        self.promises.keep(appending())


def _check(route: Route, fields: dict[str, Any], size: int) -> Steps[None]:
    """Validate an event of `size` bytes. Raises Violation."""
    validator = route.schema.validator
    if size > _STEP_BYTES:
        problems = yield from validator.validating(fields)
    else:
        problems = validator.validate(fields)
    if problems:
        raise Violation(problems)
    if size > LARGE_BYTES:
        yield
