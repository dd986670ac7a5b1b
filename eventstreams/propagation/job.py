"""Makes jobs, which are events that a rule acts on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eventstreams.filters.document import Document, Origin
from eventstreams.model.event import Event, Record
from eventstreams.model.gap_marker import is_gap_marker
from eventstreams.propagation.actions import to_json
from eventstreams.propagation.events import delayed_until, read_json, read_retry
from eventstreams.propagation.functions import TemplateError
from eventstreams.propagation.matching import SearchTooLong
from eventstreams.propagation.rule import Case, Rule
from eventstreams.propagation.template import text_of


@dataclass(slots=True)
class Job:
    """An event that a rule acts on. It is in flight until it is finished."""

    event: Event
    message: Any
    """The parsed event, or the original event of a retry; None if it cannot be parsed."""
    case: Case | None
    retries_left: int
    due_ms: int = 0
    trigger: str | None = None
    """The chain of events that led to a retry; None if this is no retry."""
    is_retry: bool = False
    """Whether it was read from a retry topic."""
    tried: bool = False
    """Whether it was tried before, and therefore has passed the checks that may drop an event."""
    started_ms: int = 0
    delayed_ms: int | None = None
    """The time of `delay_until` in ms, if it has not passed."""
    key: str | None = None
    """Events with the same key are acted on one at a time."""
    fault: str | None = None
    """The reason why the event cannot be acted on."""
    outcome: str = ""
    pending: list[Record] = field(default_factory=list[Record])
    """Records that the log must store before the event is finished."""

    @property
    def bytes(self) -> int:
        """The approximate size of the event in memory."""
        return len(self.event.value or b"") + 500


class Again(NamedTuple):
    """The event is not finished, and must be tried again at this time."""

    due_ms: int


class JobReader:
    """Makes jobs from the events that a rule takes."""

    def __init__(
        self, *, rule: Rule, emitter_id: str, is_retry_topic: Callable[[str], bool]
    ) -> None:
        self._rule = rule
        self._emitter_id = emitter_id
        self._is_retry_topic = is_retry_topic

    def read(self, event: Event, now_ms: int) -> Job | None:
        """Return the job for an event, or None if the rule does not take it."""
        rule = self._rule
        if event.value is None or is_gap_marker(event):
            return None
        try:
            message = read_json(event.value)
        except ValueError as error:
            if self._is_retry_topic(event.partition.topic):
                return None
            return Job(event, None, None, 0, fault=f"the event is not JSON: {error}")
        made = Job(event, message, None, rule.retry.limit)
        value = event.value
        if self._is_retry_topic(event.partition.topic):
            found = read_retry(
                message, emitter_id=self._emitter_id, policy=rule.retry, now_ms=now_ms
            )
            if found is None:
                return None
            made = Job(event, found.original, None, found.retries_left - 1, found.due_ms)
            made.is_retry, made.trigger = True, found.trigger
            value = to_json(found.original)
        origin = Origin(*event.partition, event.offset, event.timestamp_ms)
        try:
            made.case = rule.choose(made.message, Document(origin, value))
        except SearchTooLong as error:
            made.fault = str(error)
        if made.case is None:
            return made if made.fault is not None else None
        if rule.delays and not made.is_retry:
            until_ms = delayed_until(made.message, now_ms)
            if until_ms is not None and until_ms > now_ms:
                made.delayed_ms = until_ms
                made.due_ms = min(until_ms, now_ms + int(rule.reenqueue_delay_s * 1000))
        if rule.order_by is not None:
            try:
                made.key = text_of(rule.order_by, made.case.context(made.message))
            except (TemplateError, SearchTooLong) as error:
                made.fault = f"order_by: {error}"
        return made
