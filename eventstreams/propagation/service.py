"""Builds, starts and stops the workers of a rule file: one RuleWorker for each rule."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import LogError, QuotaUnavailable
from eventstreams.log.base import Log
from eventstreams.log.kafka.group import REFRESH_MS, KafkaGroup
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.model.event import Partition
from eventstreams.propagation.acting import Actor
from eventstreams.propagation.actions import HttpAction
from eventstreams.propagation.breaker import CircuitBreakers
from eventstreams.propagation.clock import Clock, SystemClock
from eventstreams.propagation.executor import Executor, Names
from eventstreams.propagation.http import HttpClient
from eventstreams.propagation.job import JobReader
from eventstreams.propagation.matching import Expression
from eventstreams.propagation.producing import Producing
from eventstreams.propagation.rule import Rule
from eventstreams.propagation.rule_file import RuleFile
from eventstreams.propagation.source import LOOK_EVERY_S, LogSource, Positions, Source
from eventstreams.propagation.state import Deduplicator, Limiters, SharedState
from eventstreams.propagation.worker import RuleWorker
from eventstreams.tasks import background

_log = logging.getLogger(__name__)

_MEASURE_EVERY_MS = 10_000


class Subscription(NamedTuple):
    """What a rule reads, by the names of the log's topics."""

    group: str
    topics: tuple[str, ...]
    patterns: tuple[Expression, ...]
    """Match names of topics without their prefix, except those of retry topics."""
    retry_topics: tuple[str, ...]
    """Those of `topics` that are read from their beginning."""
    prefix: str
    retry_prefix: str
    excluded: frozenset[str]
    start: str

    def takes(self, topic: str) -> bool:
        """Return whether the rule reads a topic, by its name or a pattern."""
        if topic in self.topics or topic in self.retry_topics:
            return True
        retried = topic.startswith(self.retry_prefix)
        prefix = self.retry_prefix if retried else self.prefix
        name = topic.removeprefix(prefix)
        if not topic.startswith(prefix) or name in self.excluded:
            return False
        return any(pattern.matches(name) for pattern in self.patterns)


class OpenSource(Protocol):
    """Makes the source of a rule."""

    def __call__(self, subscription: Subscription) -> Source: ...


class Topics:
    """The names of the topics that rules read, and of those for retries and errors."""

    def __init__(self, loaded: RuleFile, catalogue: Catalogue | None) -> None:
        self._loaded = loaded
        self._catalogue = catalogue
        self._consume = loaded.consume_prefix or ""
        self._produce = loaded.produce_prefix or ""
        self.retry_prefix = f"{self._produce}{loaded.service}.retry."
        self.error_stream = f"{loaded.service}.error"
        self.error_topic = self._produce + self.error_stream

    def of(self, name: str) -> tuple[str, ...]:
        """Return the topics of a name in a rule."""
        if self._loaded.consume_prefix is not None:
            return (self._consume + name,)
        if self._catalogue is not None and name in self._catalogue.names:
            return tuple(self._catalogue.get(name).topics)
        return (name,)

    def declares(self, topic: str) -> bool:
        """Return whether the topic belongs to a stream of the catalogue."""
        return self._catalogue is not None and topic in self._catalogue.topics

    def to_produce(self, stream: str) -> str:
        """Return the topic to which events of a stream are re-posted."""
        if self._loaded.produce_prefix is not None:
            return self._produce + stream
        if self._catalogue is not None and stream in self._catalogue.names:
            return self._catalogue.get(stream).topics[0]
        return stream

    def is_retry(self, topic: str) -> bool:
        """Return whether a topic holds retry events."""
        return topic.startswith(self.retry_prefix)

    def name_of(self, topic: str) -> str:
        """Return the name of a topic without its prefix; for a retry topic, the original's."""
        if self.is_retry(topic):
            return topic.removeprefix(self.retry_prefix)
        return topic.removeprefix(self._consume)

    def retry_topic(self, topic: str) -> str:
        """Return the topic for retries of a topic's events. A retry topic is its own retry
        topic.
        """
        return self.retry_prefix + self.name_of(topic)

    def retry_stream(self, topic: str) -> str:
        """Return the stream of retries of a topic's events."""
        return f"{self._loaded.service}.retry.{self.name_of(topic)}"

    def subscription(self, rule: Rule) -> Subscription:
        """Return the topics that a rule reads."""
        topics = tuple(dict.fromkeys(topic for name in rule.topics for topic in self.of(name)))
        return Subscription(
            group=f"{self._loaded.service}-{rule.name}",
            topics=topics,
            patterns=rule.topic_patterns,
            retry_topics=tuple(self.retry_topic(topic) for topic in topics),
            prefix=self._consume,
            retry_prefix=self.retry_prefix,
            excluded=rule.excluded_topics,
            start=self._loaded.start,
        )


class Propagation:
    """A service that runs the rules of a file."""

    def __init__(
        self,
        *,
        loaded: RuleFile,
        catalogue: Catalogue | None,
        log: Log,
        open_source: OpenSource,
        state: SharedState,
        producing: Callable[[Topics], Producing] | None,
        metrics: Metrics,
        clock: Clock | None = None,
        http: HttpClient | None = None,
        chance: Callable[[], float] | None = None,
    ) -> None:
        """`producing` is required if a rule produces events."""
        self.loaded = loaded
        self.topics = Topics(loaded, catalogue)
        self._destination = log
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._http = http or HttpClient(targets=loaded.targets)
        self._breakers = CircuitBreakers(loaded.breaker)
        self._state = state
        made = None if producing is None else producing(self.topics)
        deduplicator = Deduplicator(state, service=loaded.service)
        limiters = Limiters(state, service=loaded.service, limits=loaded.limiters)
        more: dict[str, Any] = {} if chance is None else {"chance": chance}
        self.workers: dict[str, RuleWorker] = {}
        for rule in loaded.rules:
            emitter = f"{loaded.service}#{rule.name}"
            executor = Executor(
                rule=rule,
                names=Names(
                    emitter,
                    self.topics.error_topic,
                    self.topics.error_stream,
                    self.topics.retry_topic,
                    self.topics.retry_stream,
                ),
                user_agent=loaded.user_agent,
                log=log,
                actor=Actor(
                    rule=rule,
                    http=self._http,
                    producing=made,
                    breakers=self._breakers,
                    clock=self._clock,
                ),
                deduplicator=deduplicator,
                limiters=limiters,
                metrics=metrics,
                clock=self._clock,
                **more,
            )
            self.workers[rule.name] = RuleWorker(
                rule=rule,
                source=open_source(self.topics.subscription(rule)),
                executor=executor,
                reader=JobReader(
                    rule=rule, emitter_id=emitter, is_retry_topic=self.topics.is_retry
                ),
                clock=self._clock,
            )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Act on events while the block runs."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._http.aclose)
            stack.push_async_callback(self._close_state)
            for worker in self.workers.values():
                await stack.enter_async_context(worker.running())
            await stack.enter_async_context(background(self._measure_often()))
            yield

    async def _close_state(self) -> None:
        with contextlib.suppress(QuotaUnavailable):
            await self._state.aclose()

    async def make_topics(self) -> None:
        """Create the topics that are missing: of retries and errors, and of declared streams.

        Others that are read may be misspelled, so they must exist. Raises LogError.
        """
        names = {self.topics.error_topic: 1}
        for worker in self.workers.values():
            subscription = self.topics.subscription(worker.rule)
            found = await self._destination.partitions(subscription.topics)
            for topic in subscription.topics:
                count = max(1, len(found.get(topic, ())))
                names[self.topics.retry_topic(topic)] = count
                if self.topics.declares(topic):
                    names[topic] = count
        for topic, count in sorted(names.items()):
            await self._destination.create_topic(topic, count)

    async def started(self) -> None:
        """Wait until every rule reads, so that it acts on everything appended from now on."""
        for worker in self.workers.values():
            await worker.started.wait()

    async def idle(self) -> None:
        """Wait until all events in the log have been acted on, including those that rules produce.

        Events that wait for a time may be left.
        """
        before: list[Mapping[Partition, int]] = []
        while True:
            ends = [await worker.settled() for worker in self.workers.values()]
            if ends == before:
                return
            before = ends

    def state(self) -> dict[str, Any]:
        """Return the state of all rules, as a JSON object."""
        return {
            "service": self.loaded.service,
            "open_circuits": self._breakers.open_hosts(),
            "rules": [worker.state() for worker in self.workers.values()],
        }

    async def measure(self) -> None:
        """Update the gauges of all rules."""
        for name, worker in self.workers.items():
            running, waiting = worker.counts
            self._metrics.propagation_running.labels(name).set(running)
            self._metrics.propagation_waiting.labels(name).set(waiting)
            self._metrics.propagation_paused.labels(name).set(worker.paused)
            self._metrics.propagation_missing.labels(name).set(len(worker.missing_topics))
            with contextlib.suppress(LogError):
                lags = await worker.lags()
                self._metrics.propagation_lag.labels(name).set(sum(lags.values()))

    async def _measure_often(self) -> None:
        while True:
            await self.measure()
            await self._clock.sleep_until(self._clock.elapsed_ms() + _MEASURE_EVERY_MS)


def embedded_sources(
    *,
    log: Log,
    positions: Positions,
    known_topics: Collection[str],
    names: Collection[str] = (),
    look_every_s: float = LOOK_EVERY_S,
) -> OpenSource:
    """Return a function that opens sources over a log of this process.

    `known_topics` are the topics of declared streams: they are created if they do not exist, and
    the patterns of rules are compared with them. `names` are suggested for other topics that do
    not exist.
    """

    def open_source(subscription: Subscription) -> Source:
        matching = [
            topic
            for topic in known_topics
            if not topic.startswith(subscription.retry_prefix) and subscription.takes(topic)
        ]
        topics = dict.fromkeys([*subscription.topics, *matching])
        retries = [
            subscription.retry_prefix + topic.removeprefix(subscription.prefix) for topic in topics
        ]
        earliest = list(topics) if subscription.start == "earliest" else []
        return LogSource(
            log=log,
            group=subscription.group,
            topics=[*topics, *retries],
            earliest=[*earliest, *retries],
            made=[*known_topics, *retries],
            positions=positions,
            known=names,
            look_every_s=look_every_s,
        )

    return open_source


def produces(loaded: RuleFile) -> bool:
    """Return whether a rule of the file produces events."""
    return any(
        not isinstance(action, HttpAction)
        for rule in loaded.rules
        for case in rule.cases
        for action in case.actions
    )


def kafka_sources(
    settings: KafkaSettings, *, names: Collection[str] = (), refresh_ms: int = REFRESH_MS
) -> OpenSource:
    """Return a function that opens sources over consumer groups, which instances share."""

    def open_source(subscription: Subscription) -> Source:
        def is_earliest(topic: str) -> bool:
            return subscription.start == "earliest" or topic.startswith(subscription.retry_prefix)

        return KafkaGroup(
            settings=settings,
            group=subscription.group,
            takes=subscription.takes,
            topics=(*subscription.topics, *subscription.retry_topics),
            has_pattern=bool(subscription.patterns),
            is_earliest=is_earliest,
            known=names,
            refresh_ms=refresh_ms,
        )

    return open_source
