"""The hub: knows every subscription, and makes the cohorts write what the feed brings.

Two tasks write to the cohorts that have news, paced: one to those that get all events, one to those
whose events are chosen, so that choosing holds up nobody who gets all. The feed and the reading
ahead of history have tasks of their own. Waiting is level-triggered: clear the signal, look, and
wait only if nothing moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence

from eventstreams.errors import LogUnavailable, UnknownTopic
from eventstreams.fanout.catch_up import CatchUp
from eventstreams.fanout.cohort import Cohort
from eventstreams.fanout.compression import Windows
from eventstreams.fanout.ending import Reason
from eventstreams.fanout.feed import Feed
from eventstreams.fanout.gaps import GapFinder, require_same
from eventstreams.fanout.gauges import Gauges
from eventstreams.fanout.history import History
from eventstreams.fanout.resume import Resumed, Resumer
from eventstreams.fanout.selector import is_costly
from eventstreams.fanout.silence import Silence
from eventstreams.fanout.subscription import Subscription
from eventstreams.fanout.want import Want
from eventstreams.fanout.writer import Writer
from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition
from eventstreams.model.frame import Frame
from eventstreams.model.position import Mark, Position
from eventstreams.model.redaction import Redaction
from eventstreams.settings import FanoutSettings
from eventstreams.tasks import background
from eventstreams.turns import Turns

_log = logging.getLogger(__name__)
_HEARTBEAT_MARGIN = 0.9
"""Heartbeats go out this much of heartbeat_s after the last write, so as never to be late."""


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
    ) -> None:
        """`turns` are for what single clients cause. `started` is False where the log is still to
        be started, and may be out of reach."""
        self.settings = settings
        self.feed = Feed(
            log=log,
            topics=topics,
            settings=settings,
            metrics=metrics,
            listener=self,
            started=started,
        )
        self.tails = self.feed.tails
        self.history = History(
            log=log,
            block_bytes=settings.block_bytes,
            bytes_max=settings.cache_bytes_max // 2,
            metrics=metrics,
            outage=self.feed.outage,
            redactions=self.tails.redactions,
        )
        self.catch_up = CatchUp(
            history=self.history,
            tails=self.tails,
            settings=settings,
            metrics=metrics,
            turns=turns,
        )
        self.silence = Silence(metrics)
        self._log = log
        self.resumer = Resumer(log=log, history=self.history, tails=self.tails.by_partition)
        self.gaps = GapFinder(resumer=self.resumer, catch_up=self.catch_up, metrics=metrics)
        self.subscriptions: set[Subscription] = set()
        self.ended = 0
        """How many subscriptions there have been that are no more."""
        self.draining = False
        self._draining_since_s: float | None = None
        self.leaving = False
        """Whether it is to drain soon: new clients should go elsewhere, and are served yet."""
        self.moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done, and replaced, when cohorts have moved on."""
        self._metrics = metrics
        self._cohorts: dict[Want, Cohort] = {}
        self._windows = Windows()
        pace_max_s = settings.pace_max_ms / 1000
        self._writers = tuple(Writer(selects, pace_max_s) for selects in (False, True))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Runs the hub's tasks. An error in one of them is a fault of ours and ends the block."""
        tasks = (
            *map(self._write, self._writers),
            self.feed.look(),
            self._feed(),
            self.history.read_ahead(),
            self._watch(),
        )
        async with background(*tasks):
            yield
        await self.feed.aclose()

    async def _feed(self) -> None:
        await self.feed.well.wait()
        if self.feed.following:  # else it was told to stop before the log was reached
            await self.feed.follow()

    async def _watch(self) -> None:
        await self.feed.well.wait()
        if self.feed.following:
            gauges = Gauges(self._log, self.tails, self._metrics)
            async with background(self.silence.watch()):
                await gauges.measure(self.settings.refresh_s)

    @property
    def ready(self) -> bool:
        """Whether clients are well served here."""
        return self.feed.following and self.feed.trouble is None and not self.leaving

    @property
    def draining_for_s(self) -> float:
        since_s = self._draining_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def redact(self, by_topic: Mapping[str, Redaction]) -> None:
        """From now on nobody is sent what these rules take out, whenever it was read."""
        if self.tails.redactions.replace(by_topic):
            self.catch_up.forget_rendered()

    def stop_admitting(self) -> None:
        """Not ready any more; who waits for the log is let go."""
        self.leaving = self.draining = True
        if self._draining_since_s is None:
            self._draining_since_s = time.monotonic()
        self.feed.release()

    # For subscriptions.

    def add(self, subscription: Subscription) -> None:
        self.subscriptions.add(subscription)
        self._metrics.clients.set(len(self.subscriptions))
        if self.draining:
            subscription.end(Reason.DRAINED)
            return
        tails = self.tails.of(subscription.want.partitions)
        if tails is None:  # gone since its start was found
            subscription.end(Reason.LOG_ERROR, UnknownTopic(subscription.want.partitions[0].topic))
            return
        for tail, offset in zip(tails, subscription.position.offsets, strict=True):
            if tail.truncated_at is not None and offset > tail.next:  # truncated since then
                subscription.truncate(tail.partition, tail.truncated_at)

    def remove(self, subscription: Subscription) -> None:
        self.leave(subscription)
        self.subscriptions.discard(subscription)
        self.ended += 1
        self._metrics.clients.set(len(self.subscriptions))

    def join(self, subscription: Subscription) -> bool:
        """Adds it to the cohort of its want, if both are at the same position.

        A cohort's events are chosen on behalf of all its members. Where choosing is costly, each
        client pulls alone instead, in its own turns. Raises LogTruncated where only the offsets
        are the same.
        """
        want, position = subscription.want, subscription.position
        if is_costly(want.selector):
            return False
        cohort = self._cohorts.get(want)
        if cohort is None:
            tails = self.tails.of(want.partitions)
            if tails is None or position.offsets != tuple(tail.next for tail in tails):
                return False
            canonical = self.tails.now(want.partitions)
            require_same(position, canonical, tails)
            cohort = self._cohorts[want] = Cohort(want, canonical, tails, self._windows)
            self._metrics.cohorts.set(len(self._cohorts))
            self._wake_writers()  # its heartbeats are to be thought of
        elif cohort.position.offsets != position.offsets or not cohort.admits:
            return False
        else:
            require_same(position, cohort.position, cohort.tails)
        subscription.want, subscription.position = cohort.want, cohort.position  # equal: keep one
        cohort.add(subscription)
        return True

    def leave(self, subscription: Subscription) -> None:
        cohort = subscription.cohort
        if cohort is None:
            return
        cohort.remove(subscription)
        if not cohort.members and self._cohorts.get(cohort.want) is cohort:
            del self._cohorts[cohort.want]
            cohort.close()
            self._metrics.cohorts.set(len(self._cohorts))

    def now(self, want: Want) -> Position:
        """Where one who wants only what comes next begins."""
        cohort = self._cohorts.get(want)
        return cohort.position if cohort is not None else self.tails.now(want.partitions)

    def ends(self, want: Want) -> tuple[int, ...]:
        """How far one who pulls alone may read, so as to meet its cohort."""
        cohort = self._cohorts.get(want)
        if cohort is not None:
            return cohort.position.offsets
        return tuple(self.tails.end(partition) for partition in want.partitions)

    async def oldest(self, want: Want) -> tuple[int, ...]:
        """Return the oldest offset kept of each partition. Raises LogError."""
        bounds = await self._log.bounds(want.partitions)
        return tuple(bounds[partition].oldest for partition in want.partitions)

    async def ends_at(self, want: Want, until_ms: int) -> tuple[int, ...]:
        """Where a stream until this time, which has come, ends. Raises LogError."""
        found = await self._log.offset_at(dict.fromkeys(want.partitions, until_ms))
        bounds = await self._log.bounds(want.partitions)
        return tuple(bounds[p].end if (at := found[p]) is None else at for p in want.partitions)

    async def resume(self, mark: Mark) -> Resumed:
        """Where to read on from a client's mark, in its turn. Raises LogError."""
        if self.resumer.is_near(mark):
            return await self.resumer.resume(mark)
        async with self.catch_up.slots:
            return await self.resumer.resume(mark)

    def grown(self, want: Want, position: Position) -> tuple[Want, Position]:
        """The same with the partitions that its topics have gained, from their first records."""
        return self.tails.grown(want, position)

    def count_out(self, events: int, clients: int) -> None:
        self._metrics.events_out.inc(events * clients)

    # What the feed tells.

    def came(self, by_topic: Sequence[tuple[str, Sequence[Frame]]]) -> None:
        for topic, frames in by_topic:
            self.silence.came(topic, frames)
        for writer in self._writers:
            writer.pacer.arrived()
        self._wake_writers()

    def grew(self, topics: Collection[str]) -> None:
        for subscription in list(self.subscriptions):
            if not subscription.want.growing.isdisjoint(topics):
                subscription.grow()

    def lost(self, topic: str, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self.catch_up.forget(partition)
        gone = frozenset(partitions)
        for subscription in list(self.subscriptions):
            if not gone.isdisjoint(subscription.want.partitions):
                self.leave(subscription)
                subscription.end(Reason.LOG_ERROR, UnknownTopic(topic))

    def truncated(self, partition: Partition, end: int) -> None:
        self.catch_up.forget(partition)
        self.skipped(partition)
        for subscription in list(self.subscriptions):
            if partition in subscription.want.partitions:
                subscription.truncate(partition, end)
        self._wake_writers()  # who waits for the tail to come by looks again

    def skipped(self, partition: Partition) -> None:
        for cohort in list(self._cohorts.values()):
            if partition in cohort.want.partitions:
                self._dissolve(cohort)  # its members find the gap, and tell it

    def gave_up(
        self, error: LogUnavailable, partitions: frozenset[Partition] | None = None
    ) -> None:
        for subscription in list(self.subscriptions):
            if partitions is None or not partitions.isdisjoint(subscription.want.partitions):
                subscription.end(Reason.LOG_ERROR, error)

    # From the tails to the clients.

    def _wake_writers(self) -> None:
        for writer in self._writers:
            writer.news.set()

    async def _write(self, writer: Writer) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._until_heartbeat(writer)):
                    await writer.news.wait()
            writer.news.clear()
            began, cpu = time.monotonic(), time.thread_time()
            for cohort in writer.cohorts_of(self._cohorts.values()):
                await self._write_cohort(cohort)
                await writer.give_way()
            moved, self.moved = self.moved, asyncio.get_running_loop().create_future()
            moved.set_result(None)
            self._metrics.write_seconds.observe(time.monotonic() - began)
            rest = writer.pacer.rest(began, time.thread_time() - cpu)
            if rest:
                await asyncio.sleep(rest)

    async def _write_cohort(self, cohort: Cohort) -> None:
        ends = cohort.ends  # what comes while this is written waits for its own round
        while cohort.members and cohort.fits and cohort.position.offsets != ends:
            chunk = cohort.take(ends, self.settings.batch_bytes_max, self.catch_up.documents)
            self._metrics.rendered(chunk.skipped, chunk.selecting_s)
            if chunk.body:
                taken, slow = await cohort.write(chunk.body, chunk.position, chunk.events)
                self.count_out(chunk.events, taken + slow)
                self._metrics.slow.inc(slow)
            else:
                await asyncio.sleep(0)
        if not cohort.fits:
            self._dissolve(cohort)
        elif time.monotonic() - cohort.wrote_at >= self.heartbeat_s:
            beat = cohort.want.heartbeat(cohort.position.encode())
            await cohort.write(beat, cohort.position)

    def _dissolve(self, cohort: Cohort) -> None:
        """The tails no longer reach back to it (a burst), or its topic is not what it was."""
        for member in list(cohort.members):
            member.leave_cohort()

    @property
    def heartbeat_s(self) -> float:
        """Longest time without a byte, in s."""
        return self.settings.heartbeat_s * _HEARTBEAT_MARGIN

    def _until_heartbeat(self, writer: Writer) -> float | None:
        cohorts = writer.cohorts_of(self._cohorts.values())
        if not cohorts:
            return None
        first = min(cohort.wrote_at for cohort in cohorts)
        return max(0.0, first + self.heartbeat_s - time.monotonic())

    # The end.

    async def drain(self, over_s: float) -> None:
        """Ends every stream, spread over this time, in random order; new ones at once."""
        self.stop_admitting()
        subscriptions = list(self.subscriptions)
        random.shuffle(subscriptions)
        began = time.monotonic()
        for n, subscription in enumerate(subscriptions):
            due = began + over_s * n / len(subscriptions)
            ahead = due - time.monotonic()
            if ahead > 0.01:
                await asyncio.sleep(ahead)
            subscription.end(Reason.DRAINED)
