"""Holds every subscription and the tasks that bring events from the log to them.

Four tasks write to the cohorts, so that evaluating filters delays only clients that use them: one
for cohorts that receive all events, one for those with a selector but without a filter, and two
`BudgetedWriter`s: for filters that an index finds and for filters that must be evaluated for every
event. Following the log and reading history ahead run in tasks of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, TypeVar

from eventstreams.config.settings import FanoutSettings
from eventstreams.errors import LogUnavailable, UnknownTopic
from eventstreams.fanout.batch import EncodedBatch
from eventstreams.fanout.budgeted_writer import BudgetedWriter
from eventstreams.fanout.catch_up import CatchUp
from eventstreams.fanout.cohort import Cohort
from eventstreams.fanout.cohort_writer import CohortWriter
from eventstreams.fanout.compression import CompressionWindows
from eventstreams.fanout.filter_budget import FilterBudget, is_indexed, pulls_alone
from eventstreams.fanout.gaps import GapFinder, MissingEvents, require_same
from eventstreams.fanout.group import CohortGroup
from eventstreams.fanout.history import History
from eventstreams.fanout.log_follower import LogFollower
from eventstreams.fanout.rates import Activity, LagGauges, RateWatch
from eventstreams.fanout.resume import Resumed, ResumeResolver
from eventstreams.fanout.send import EndReason
from eventstreams.fanout.spec import SubscriptionSpec
from eventstreams.fanout.subscription import Subscription
from eventstreams.fanout.timing import Timing
from eventstreams.filters.document import Documents
from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Stream
from eventstreams.model.event import Partition
from eventstreams.model.frame import Frame
from eventstreams.model.position import PartitionCursor, Position
from eventstreams.model.redaction import Redaction
from eventstreams.tasks import background
from eventstreams.turns import Turns

Writer = TypeVar("Writer", bound=CohortWriter)
_RECENT_READS_MAX = 4
"""How many reads of the log `recent` makes before it tries again with fewer events."""


class Hub:
    def __init__(
        self,
        *,
        log: Log,
        topics: Collection[str],
        settings: FanoutSettings,
        metrics: Metrics,
        turns: Turns,
        started: bool,
        filters_share: Callable[[], float],
        timing: Timing | None = None,
    ) -> None:
        """Create a hub; `running` starts its tasks.

        `filters_share()` is the share of one processor that all filters may use together.
        `turns` schedules work that single clients cause. `started` is False if the log must still
        be started, in which case it may be unreachable.
        """
        self.settings = settings
        self.timing = timing = timing or Timing()
        self.follower = LogFollower(
            log=log,
            topics=topics,
            settings=settings,
            metrics=metrics,
            listener=self,
            timing=timing,
            started=started,
        )
        self.tails = self.follower.tails
        self.history = History(
            log=log,
            block_bytes=settings.block_bytes,
            bytes_max=settings.cache_bytes_max // 2,
            metrics=metrics,
            outage=self.follower.outage,
            redactions=self.tails.redactions,
        )
        self.catch_up = CatchUp(
            history=self.history,
            tails=self.tails,
            settings=settings,
            metrics=metrics,
            turns=turns,
        )
        self.rate_watch = RateWatch(metrics)
        self.activity = Activity()
        self._log = log
        self.resume_resolver = ResumeResolver(
            log=log, history=self.history, tails=self.tails.by_partition
        )
        self.gaps = GapFinder(
            resume_resolver=self.resume_resolver, catch_up=self.catch_up, metrics=metrics
        )
        self.subscriptions: set[Subscription] = set()
        self.ended = 0
        """How many subscriptions have ended."""
        self.draining = False
        self._draining_since_s: float | None = None
        self.leaving = False
        """Whether draining begins soon. New clients are still served but should go elsewhere."""
        self.moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Resolved and replaced whenever the cohorts have advanced."""
        self._metrics = metrics
        self._cohorts: dict[SubscriptionSpec, Cohort] = {}
        self._windows = CompressionWindows(timing=timing)
        self.filter_budget = FilterBudget(filters_share)
        self._plain = self._make(CohortWriter)
        self._selecting = self._make(CohortWriter)
        self._indexed = self._make(
            BudgetedWriter,
            usage=self.filter_budget.indexed,
            share=lambda: self.filter_budget.indexed_share,
        )
        self._examining = self._make(
            BudgetedWriter,
            usage=self.filter_budget.examined,
            share=lambda: self.filter_budget.examined_share,
        )
        self._writers = (self._plain, self._selecting, self._indexed, self._examining)

    def _make(self, kind: Callable[..., Writer], **budget: Any) -> Writer:
        """Return a writer of this kind with the collaborators that all writers have."""
        return kind(
            settings=self.settings,
            documents=self.catch_up.documents,
            metrics=self._metrics,
            timing=self.timing,
            on_round=self._resolve_moved,
            **budget,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run the hub's tasks for the length of the block. An error in a task ends the block."""
        tasks = (
            *(writer.run() for writer in self._writers),
            self.follower.look(),
            self._feed(),
            self.history.read_ahead(),
            self._watch(),
        )
        async with background(*tasks):
            yield
        await self.follower.aclose()

    async def _feed(self) -> None:
        await self.follower.reachable.wait()
        if self.follower.following:  # otherwise the hub was stopped before it reached the log
            await self.follower.follow()

    async def _watch(self) -> None:
        await self.follower.reachable.wait()
        if self.follower.following:
            lag_gauges = LagGauges(self._log, self.tails, self._metrics)
            async with background(self.rate_watch.watch()):
                await lag_gauges.measure(self.settings.refresh_s)

    @property
    def ready(self) -> bool:
        """Whether new clients should be sent to this gateway."""
        return self.follower.following and self.follower.trouble is None and not self.leaving

    @property
    def draining_for_s(self) -> float:
        """Seconds since draining began; 0.0 if it has not."""
        since_s = self._draining_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def redact(self, by_topic: Mapping[str, Redaction]) -> None:
        """Apply these redactions to everything sent from now on, including events already read."""
        if self.tails.redactions.replace(by_topic):
            self.catch_up.forget_rendered()
            for writer in self._writers:
                writer.forget_rendered()

    def stop_admitting(self) -> None:
        """Stop being ready, and release all requests that wait for the log."""
        self.leaving = self.draining = True
        if self._draining_since_s is None:
            self._draining_since_s = time.monotonic()
        self.follower.release()

    # For the web layer and the gateway.

    @property
    def reachable(self) -> asyncio.Event:
        """Set while the log can be reached and the tails exist."""
        return self.follower.reachable

    @property
    def trouble(self) -> LogUnavailable | None:
        """The error with which the whole log cannot be reached; None while it can."""
        return self.follower.trouble

    @property
    def unreachable(self) -> Collection[Partition]:
        """The partitions that cannot be reached."""
        return self.follower.unreachable

    @property
    def following(self) -> bool:
        """Whether the log is being read into the tails."""
        return self.follower.following

    @property
    def documents(self) -> Documents:
        """The parsed events that all selectors share."""
        return self.catch_up.documents

    def declare(self, streams: Mapping[str, Stream]) -> None:
        """Follow the topics of these streams, and watch their minimum rates."""
        self.rate_watch.declare(streams)
        self.follower.add({topic for stream in streams.values() for topic in stream.topics_allowed})

    def lag(self, position: Position) -> int:
        """Return how many offsets lie between the position and the ends of its partitions."""
        pairs = zip(position.partitions, position.offsets, strict=True)
        return sum(max(0, self.tails.end(partition) - offset) for partition, offset in pairs)

    def newest_ms(self, topics: Iterable[str]) -> int | None:
        """Return the time of the newest record of these topics in ms, or None if not known."""
        tails = self.tails.by_partition
        partitions = (p for topic in topics for p in self.tails.partitions(topic) if p in tails)
        return max((tails[partition].timestamp_ms for partition in partitions), default=0) or None

    async def recent(self, partition: Partition, count: int) -> tuple[Sequence[Frame], bool]:
        """Return the newest frames of a partition, at most `count`, and whether older ones may
        exist. They are read from the log while the tail is still empty. Raises LogError."""
        end = self.tails.end(partition)
        offset = max(self.tails.floor(partition), end - count)
        found = self.tails.since(partition, offset)
        if found is not None and found.frames:
            return found.frames[-count:], offset > 0
        offset = first = max(0, end - count)
        frames: list[Frame] = []
        for _ in range(_RECENT_READS_MAX):
            found = await self.history.load(partition, offset)
            frames += found.frames
            if found.next >= end or found.next == offset:
                return frames[-count:], first > 0
            offset = found.next
        return await self.recent(partition, max(1, (offset - first) // 2))  # the events are large

    # For subscriptions.

    def add(self, subscription: Subscription) -> None:
        """Register a subscription, or end it at once if it cannot be served."""
        self.subscriptions.add(subscription)
        self.filter_budget.alone += pulls_alone(subscription.spec.selector)
        self._count_clients()
        if self.draining:
            subscription.end(EndReason.DRAINED)
            return
        tails = self.tails.of(subscription.spec.partitions)
        if tails is None:  # a topic was deleted after the start was resolved
            subscription.end(
                EndReason.LOG_ERROR, UnknownTopic(subscription.spec.partitions[0].topic)
            )
            return
        for tail, offset in zip(tails, subscription.position.offsets, strict=True):
            if tail.truncated_at is not None and offset > tail.next:  # truncated since then
                subscription.truncate(tail.partition, tail.truncated_at)

    def remove(self, subscription: Subscription) -> None:
        self.leave(subscription)
        self.subscriptions.discard(subscription)
        self.ended += 1
        self.filter_budget.alone -= pulls_alone(subscription.spec.selector)
        self._count_clients()

    def join(self, subscription: Subscription) -> bool:
        """Add the subscription to the cohort of its spec if both are at the same position.

        Return whether it joined. A cohort's events are selected once for all members. Clients
        whose filter is costly never join: they pull alone, in their own turns. Raises LogTruncated
        if the offsets are equal but follow different records.
        """
        spec, position = subscription.spec, subscription.position
        if pulls_alone(spec.selector):
            return False
        cohort, writer = self._cohorts.get(spec), self._writer(spec)
        group = writer.group(spec.partitions)
        if group is None:
            tails = self.tails.of(spec.partitions)
            if tails is None or position.offsets != tuple(tail.next for tail in tails):
                return False
            canonical = self.tails.now(spec.partitions)
            require_same(position, canonical, tails)
            group = writer.open_group(canonical, tails)
        elif (
            position.offsets != group.position.offsets
            or not group.fits
            or (group.is_scanning if cohort is None else not cohort.admits)
        ):
            return False
        else:
            require_same(position, group.position, group.tails)
        if cohort is None:
            spec = spec._replace(partitions=group.partitions)  # equal; share one tuple in memory
            cohort = self._cohorts[spec] = Cohort(spec, group, self._windows, self.timing)
            writer.add(cohort, group)
            self._count_cohorts()
        subscription.spec, subscription.position = cohort.spec, group.position
        cohort.add(subscription)
        return True

    def leave(self, subscription: Subscription) -> None:
        """Remove the subscription from its cohort, if it is in one."""
        cohort = subscription.cohort
        if cohort is None:
            return
        cohort.remove(subscription)
        if not cohort.members and self._cohorts.get(cohort.spec) is cohort:
            del self._cohorts[cohort.spec]
            for writer in self._writers:
                writer.discard(cohort)
            cohort.close()
            self._count_cohorts()

    def _count_clients(self) -> None:
        self._metrics.clients.set(len(self.subscriptions))
        self._metrics.filters_of("stream", self.filter_budget.alone)

    def _count_cohorts(self) -> None:
        self.filter_budget.shared = self._examining.cohorts
        self._metrics.cohorts.set(len(self._cohorts))
        self._metrics.filters_of("indexed", self._indexed.cohorts)
        self._metrics.filters_of("examined", self._examining.cohorts)

    def _writer(self, spec: SubscriptionSpec) -> CohortWriter:
        """Return the writer of the cohort of this spec. The spec alone determines it."""
        if spec.selector is None:
            return self._plain
        if spec.selector.filter is None:
            return self._selecting
        return self._indexed if is_indexed(spec.selector) else self._examining

    def _group(self, spec: SubscriptionSpec) -> CohortGroup | None:
        """Return the group that a subscription with this spec joins, if there is one."""
        return None if pulls_alone(spec.selector) else self._writer(spec).group(spec.partitions)

    def now(self, spec: SubscriptionSpec) -> Position:
        """Return the position at which a subscription to new events only begins."""
        group = self._group(spec)
        return group.position if group is not None else self.tails.now(spec.partitions)

    def ends(self, spec: SubscriptionSpec) -> tuple[int, ...]:
        """Return how far a subscription outside its cohort may read, so that it can join it."""
        group = self._group(spec)
        if group is not None:
            return group.position.offsets
        return tuple(self.tails.end(partition) for partition in spec.partitions)

    async def oldest(self, spec: SubscriptionSpec) -> tuple[int, ...]:
        """Return the oldest offset kept of each partition. Raises LogError."""
        bounds = await self._log.bounds(spec.partitions)
        return tuple(bounds[partition].oldest for partition in spec.partitions)

    async def ends_at(self, spec: SubscriptionSpec, until_ms: int) -> tuple[int, ...]:
        """Return the offsets at which a stream until a past time in ms ends. Raises LogError."""
        # The ends are read first: records appended in between belong after `until_ms`.
        bounds = await self._log.bounds(spec.partitions)
        found = await self._log.offset_at(dict.fromkeys(spec.partitions, until_ms))
        return tuple(bounds[p].end if (at := found[p]) is None else at for p in spec.partitions)

    async def at_times(self, times: Mapping[Partition, int]) -> dict[Partition, Resumed]:
        """Return where to continue from times in ms. Waits for a slot. Raises LogError."""
        async with self.catch_up.slots:
            return await self.resume_resolver.at_times(times)

    async def resume(self, cursor: PartitionCursor) -> Resumed:
        """Return where to continue from a client's cursor. Waits for a slot. Raises LogError."""
        if self.resume_resolver.is_near(cursor):
            return await self.resume_resolver.resume(cursor)
        async with self.catch_up.slots:
            return await self.resume_resolver.resume(cursor)

    def grown(
        self, spec: SubscriptionSpec, position: Position
    ) -> tuple[SubscriptionSpec, Position]:
        """Return spec and position with the partitions that the spec's topics have gained, which
        are read from their first records."""
        return self.tails.grown(spec, position)

    def read(
        self,
        spec: SubscriptionSpec,
        position: Position,
        ends: tuple[int, ...],
        remaining: int | None,
        *,
        client: str,
    ) -> Coroutine[Any, Any, EncodedBatch]:
        """Return the next batch for a subscription outside a cohort. Raises LogError.

        It goes up to `ends`, or up to the position of a cohort that the subscription can join.
        """
        latest = None if spec.stop_condition is not None else functools.partial(self.ends, spec)
        return self.catch_up.read(spec, position, ends, remaining, client=client, latest=latest)

    def prepare(
        self, spec: SubscriptionSpec, position: Position, ends: tuple[int, ...], *, client: str
    ) -> Coroutine[Any, Any, None]:
        """Render the batch at `position` in advance, if a slot to read the log is free."""
        return self.catch_up.prepare(spec, position, ends, client=client)

    def position_after(
        self, position: Position, error: MissingEvents
    ) -> Coroutine[Any, Any, tuple[Position, dict[str, object] | None]]:
        """Return the position at which a stream continues after missing records, and the gap to
        report, if any.

        Raises LogError.
        """
        return self.gaps.after(position, error)

    def suspect(self, error: LogUnavailable) -> None:
        """Check, after a failed read, whether the log is unreachable for all clients."""
        self.follower.suspect(error)

    def count_out(self, events: int, clients: int) -> None:
        """Count `events` events as sent to each of `clients` clients."""
        self._metrics.events_out.inc(events * clients)

    # What the log follower calls (LogListener).

    def on_events(self, by_topic: Sequence[tuple[str, Sequence[Frame]]]) -> None:
        for topic, frames in by_topic:
            self.rate_watch.on_events(topic, frames)
            self.activity.on_events(topic, len(frames))
        for writer in self._writers:
            writer.pacer.arrived()
        self._wake_writers()

    def on_partitions_added(self, topics: Collection[str]) -> None:
        for subscription in list(self.subscriptions):
            if not subscription.spec.growing.isdisjoint(topics):
                subscription.grow()

    def on_topic_lost(self, topic: str, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self.catch_up.forget(partition)
        gone = frozenset(partitions)
        for subscription in list(self.subscriptions):
            if not gone.isdisjoint(subscription.spec.partitions):
                self.leave(subscription)
                subscription.end(EndReason.LOG_ERROR, UnknownTopic(topic))

    def on_truncated(self, partition: Partition, end: int) -> None:
        self.catch_up.forget(partition)
        self.on_records_skipped(partition)
        for subscription in list(self.subscriptions):
            if partition in subscription.spec.partitions:
                subscription.truncate(partition, end)
        self._wake_writers()  # subscriptions that wait for the tail check again

    def on_records_skipped(self, partition: Partition) -> None:
        for writer in self._writers:
            writer.dissolve_readers(partition)  # the members find the gap and report it

    def on_unreachable(
        self, error: LogUnavailable, partitions: frozenset[Partition] | None = None
    ) -> None:
        for subscription in list(self.subscriptions):
            if partitions is None or not partitions.isdisjoint(subscription.spec.partitions):
                subscription.end(EndReason.LOG_ERROR, error)

    # From the tails to the clients.

    def _wake_writers(self) -> None:
        self._plain.news.set()  # always, because its rounds resolve `moved`
        for writer in (self._selecting, self._indexed, self._examining):
            if writer.cohorts:
                writer.news.set()

    def _resolve_moved(self) -> None:
        moved, self.moved = self.moved, asyncio.get_running_loop().create_future()
        moved.set_result(None)

    @property
    def heartbeat_s(self) -> float:
        """The longest time without a byte, in seconds."""
        return self._plain.heartbeat_s

    # Ending all streams.

    async def drain(self, over_s: float) -> None:
        """End all streams in random order over `over_s` seconds, and new ones at once."""
        self.stop_admitting()
        subscriptions = list(self.subscriptions)
        random.shuffle(subscriptions)
        began = time.monotonic()
        for n, subscription in enumerate(subscriptions):
            due = began + over_s * n / len(subscriptions)
            ahead = due - time.monotonic()
            if ahead > 0.01:
                await asyncio.sleep(ahead)
            subscription.end(EndReason.DRAINED)
