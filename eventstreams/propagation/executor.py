"""Executes a rule for one event, and determines the outcome.

The order is that of change-propagation: blacklist, loop check, sample, age, limits, duplicates,
then the actions. `execute` returns when the event is finished, or returns when to try it again. An
event remains unfinished until the log has stored the records about it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from eventstreams.errors import AppendRefused, LogError, LogUnwritable
from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.event import Record
from eventstreams.model.timestamp import parse_timestamp
from eventstreams.propagation import events, retry
from eventstreams.propagation.acting import ActionRefused, Actor
from eventstreams.propagation.clock import Clock
from eventstreams.propagation.functions import TemplateError, as_text
from eventstreams.propagation.job import Again, Job
from eventstreams.propagation.matching import SearchTooLong
from eventstreams.propagation.retry import Response
from eventstreams.propagation.rule import Rule
from eventstreams.propagation.state import Deduplicator, Limiters
from eventstreams.propagation.template import text_of
from eventstreams.propagation.trigger import chain_of, meta_of, times_in_chain

_log = logging.getLogger(__name__)

_ERROR_STATUS = 400
_SERVER_ERROR = 500
_UNAVAILABLE = 503
_APPEND_AGAIN_MS = 1000
_ACTED = frozenset({"processed", "retried", "failed"})
"""Outcomes after which the same event must not be acted on again."""
_READONLY_MS = (30_000, 60_000)
"""The additional delay of a retry if the target has reported a read-only database."""


class Names(NamedTuple):
    """The topics and streams of records about the events of a rule."""

    emitter_id: str
    error_topic: str
    error_stream: str
    retry_topic: Callable[[str], str]
    """Maps the topic of an event, which may be a retry topic, to the topic of its retries."""
    retry_stream: Callable[[str], str]


class Executor:
    """Executes the events of one rule."""

    def __init__(
        self,
        *,
        rule: Rule,
        names: Names,
        user_agent: str,
        log: Log,
        actor: Actor,
        deduplicator: Deduplicator,
        limiters: Limiters,
        metrics: Metrics,
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Set the collaborators. `chance` returns random numbers from 0 to 1, for retry delays."""
        self._rule = rule
        self._names = names
        self._user_agent = user_agent
        self._destination = log
        self._actor = actor
        self._deduplicator = deduplicator
        self._limiters = limiters
        self._metrics = metrics
        self._clock = clock
        self._chance = chance

    async def execute(self, job: Job) -> Again | None:
        """Act on the event. Returns None if it is finished; `job.outcome` is its outcome.

        Errors that an event or a target can cause are handled, not raised.
        """
        if not job.outcome:
            job.started_ms = job.started_ms or self._clock.now_ms()
            again = await self._act(job)
            if again is not None:
                return again
        if job.pending and not await self._append(job):
            return Again(self._clock.now_ms() + _APPEND_AGAIN_MS)
        if (
            job.outcome in _ACTED and not job.is_retry
        ):  # after the append, so that a crash loses no event
            await self._deduplicator.handled(
                self._rule, job.message, job.started_ms, self._clock.now_ms()
            )
        self._count(job.outcome)
        return None

    async def _act(self, job: Job) -> Again | None:
        began = time.perf_counter()
        now_ms = self._clock.now_ms()
        try:
            if job.fault is not None:
                raise ActionRefused("UnreadableEvent", job.fault)
            if job.delayed_ms is not None and job.delayed_ms > now_ms:
                self._reenqueue(job)
                return None
            dropped = None if job.tried else await self._drops(job, now_ms)
            if dropped is not None:
                job.outcome = dropped
                return None
            return await self._run(job)
        except ActionRefused as failure:
            job.pending[:] = [self._failure(job, failure.kind, failure.message)]
        except (TemplateError, SearchTooLong) as error:
            job.pending[:] = [self._failure(job, type(error).__name__, str(error))]
        finally:
            self._metrics.propagation_seconds.labels(self._rule.name).observe(
                time.perf_counter() - began
            )
        return None

    # Reasons not to act.

    async def _drops(self, job: Job, now_ms: int) -> str | None:
        """Return the reason to drop the event, or None. Raises TemplateError, ActionRefused."""
        rule, message, case = self._rule, job.message, job.case
        assert case is not None
        if rule.lists(message):
            return "blacklisted"
        if rule.loop_limit and times_in_chain(message) > rule.loop_limit:
            raise ActionRefused(
                "Loop",
                f"the event is in its own chain more than {rule.loop_limit} times: "
                f"{str(message.get('triggered_by'))[:1000]}",
            )
        context = case.context(message)
        if case.sampler is not None and not case.sampler.accepts(context):
            return "sampled_out"
        if self._is_too_old(message, now_ms):
            return "too_old"
        for use in rule.limits:
            key = text_of(use.key, context)
            if await self._limiters.exceeds(use.type, key, now_ms):
                _log.error(
                    "rule %s drops an event: the limit %s is reached for %s",
                    *(rule.name, use.type, key[:200]),
                )
                return "limited"
        if not job.is_retry:
            kind = await self._deduplicator.is_duplicate(rule, message, now_ms)
            if kind is not None:
                return "duplicate"
        return None

    def _is_too_old(self, message: Any, now_ms: int) -> bool:
        rule = self._rule
        root: Any = message.get("root_event")
        root_dt: Any = cast("dict[str, Any]", root).get("dt") if isinstance(root, dict) else None
        times: Sequence[tuple[float | None, Any]] = (
            (rule.claim_ttl_s, meta_of(message).get("dt")),
            (rule.root_claim_ttl_s, root_dt),
        )
        for ttl_s, text in times:
            made_ms = parse_timestamp(text) if isinstance(text, str) else None
            if ttl_s is not None and made_ms is not None and now_ms - made_ms > ttl_s * 1000:
                return True
        return False

    def _reenqueue(self, job: Job) -> None:
        """Append a delayed event, unchanged, to the end of its topic."""
        event = job.event
        topic, number = event.partition
        job.pending.append(Record(topic, event.value, event.key, None, number))
        job.outcome = "reenqueued"

    # Actions.

    async def _run(self, job: Job) -> Again | None:
        """Carry out the actions. Raises TemplateError, ActionRefused."""
        assert job.case is not None
        actions = job.case.render(job.message, user_agent=self._user_agent, trigger=job.trigger)
        responses: Sequence[Response]
        if job.case.parallel and len(actions) > 1:
            responses = await self._actor.all(actions, job)
        else:
            responses = []
            for action in actions:
                responses = [await self._actor.one(action, job)]
                if self._is_failure(responses[0]):
                    break
        failed = [response for response in responses if self._is_failure(response)]
        if not failed:
            job.outcome = "processed"
            return None
        if any(response.status >= _SERVER_ERROR for response in failed):
            await self._count_failure(job)
        worst = next((each for each in failed if not self._rule.retry_on.holds(each)), failed[0])
        return self._after_failure(job, worst)

    def _is_failure(self, response: Response) -> bool:
        return response.status >= _ERROR_STATUS and not self._rule.ignore.holds(response)

    async def _count_failure(self, job: Job) -> None:
        assert job.case is not None
        context = job.case.context(job.message)
        for use in self._rule.limits:
            await self._limiters.failed(use.type, text_of(use.key, context), self._clock.now_ms())

    def _after_failure(self, job: Job, response: Response) -> Again | None:
        """Retry, or give up. Raises ActionRefused."""
        reason = f"{response.status}: {as_text(response.body)[:2000]}"
        if not self._rule.retry_on.holds(response) or job.retries_left <= 0:
            raise ActionRefused("HTTPError", f"the target answered {reason}")
        now_ms = self._clock.now_ms()
        wait_ms = self._rule.retry.wait_ms(
            job.retries_left, self._chance(), retry.retry_after_ms(response.headers, now_ms)
        )
        left = job.retries_left
        if "x-readonly" in response.headers:  # the attempt does not count
            least, most = _READONLY_MS
            wait_ms += least + int((most - least) * self._chance())
            left += 1
        if job.key is not None:  # later events of the key wait, so the retry happens here
            job.retries_left = left - 1
            job.tried = True
            self._count("retried")
            return Again(now_ms + wait_ms)
        job.outcome = "retried"
        topic = job.event.partition.topic
        trigger = job.trigger
        job.pending.append(
            Record(
                self._names.retry_topic(topic),
                events.retry_event(
                    event=job.message,
                    trigger=trigger if trigger is not None else chain_of(job.message),
                    stream=self._names.retry_stream(topic),
                    emitter_id=self._names.emitter_id,
                    retries_left=left,
                    status=response.status,
                    reason=reason,
                    now_ms=now_ms,
                    due_ms=now_ms + wait_ms,
                ),
                job.event.key,
                now_ms,
            )
        )
        return None

    # Records for the log.

    def _failure(self, job: Job, kind: str, message: str) -> Record:
        """Return an error event about the event."""
        _log.warning(
            "rule %s failed for an event of %s/%d at %d: %s: %s",
            *(self._rule.name, *job.event.partition, job.event.offset, kind, message[:500]),
        )
        job.outcome = "failed"
        now_ms = self._clock.now_ms()
        document = events.error_event(
            event=job.message,
            raw=job.event.value,
            stream=self._names.error_stream,
            emitter_id=self._names.emitter_id,
            kind=kind,
            message=message,
            now_ms=now_ms,
        )
        return Record(self._names.error_topic, document, None, now_ms)

    async def _append(self, job: Job) -> bool:
        """Append the pending records. Returns whether none is left to append."""
        outcomes = await self._destination.offer(job.pending)
        left: list[Record] = []
        for record, outcome in zip(job.pending, outcomes, strict=True):
            if isinstance(outcome, AppendRefused) and not isinstance(outcome, LogUnwritable):
                left += self._refused(job, record, outcome)
            elif isinstance(outcome, LogError):
                _log.warning("rule %s waits for the log: %s", self._rule.name, outcome)
                left.append(record)
        job.pending[:] = left
        return not left

    def _refused(self, job: Job, record: Record, error: AppendRefused) -> list[Record]:
        """Handle a record that the log refuses: a retry becomes an error event, an error is
        logged.
        """
        if record.topic != self._names.error_topic:
            reason = f"{record.topic} does not accept the event: {error}"
            return [self._failure(job, "AppendRefused", reason)]
        job.outcome = "lost"
        _log.error(
            "an error event about %s/%d at %d is lost: %s",
            *(*job.event.partition, job.event.offset, error),
        )
        return []

    def _count(self, outcome: str) -> None:
        self._metrics.propagation_events.labels(self._rule.name, outcome).inc()
