"""The hub: feeds the tails from the log, and makes the cohorts write.

Three tasks. One follows the log and appends to the tails; one writes to all cohorts that have news,
paced; one looks for topics and partitions that came or went. Waiting is level-triggered: clear the
signal, look, and wait only if nothing moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Collection

from eventstreams.errors import (
    LogError,
    LogUnavailable,
    OffsetOutOfRange,
    UnknownPartition,
    UnknownTopic,
)
from eventstreams.fanout.chunk import Chunk, render
from eventstreams.fanout.cohort import Cohort
from eventstreams.fanout.history import ChunkCache, History
from eventstreams.fanout.pacer import Pacer
from eventstreams.fanout.resume import Resumed, Resumer, gap_document
from eventstreams.fanout.subscription import Reason, Subscription, heartbeat
from eventstreams.fanout.tail import Run
from eventstreams.fanout.tails import Tails
from eventstreams.fanout.want import Want
from eventstreams.log.base import Follower, Log, Slice
from eventstreams.metrics import Metrics
from eventstreams.model.event import Bounds, Partition
from eventstreams.model.frame import Frame
from eventstreams.model.position import Mark, Position
from eventstreams.settings import FanoutSettings
from eventstreams.tasks import background

_log = logging.getLogger(__name__)
_RETRY_S = 0.5
_QUIET_S = 5.0
"""A follower that has not complained for so long is taken to be well, though no event came."""
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
        started: bool,
    ) -> None:
        """`started` is False where the log is still to be started, and may be out of reach."""
        self.settings = settings
        self.topics = frozenset(topics)
        self.tails = Tails(log=log, bytes_max=settings.tail_bytes_max)
        self.history = History(
            log=log,
            block_bytes=settings.block_bytes,
            bytes_max=settings.cache_bytes_max // 2,
            metrics=metrics,
        )
        self.resumer = Resumer(log=log, history=self.history, tails=self.tails.by_partition)
        self.subscriptions: set[Subscription] = set()
        self.draining = False
        self.trouble: LogUnavailable | None = None
        """Why the log is out of reach, while it is."""
        self.moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done, and replaced, when cohorts have moved on."""
        self._log = log
        self._started = started
        self._metrics = metrics
        self._chunks = ChunkCache(bytes_max=settings.cache_bytes_max // 2)
        self._slots = asyncio.Semaphore(settings.catch_up_slots)
        self._pacer = Pacer(pace_max_s=settings.pace_max_ms / 1000)
        self._cohorts: dict[Want, Cohort] = {}
        self._follower: Follower | None = None
        self._news = asyncio.Event()
        self._well = asyncio.Event()
        self._look_again = asyncio.Event()
        self._looking = asyncio.Lock()
        self._unfollowed: set[str] = set()
        """Topics that the follower found missing, wholly or in part."""
        self._looked_at = -math.inf
        self._feed_failed_at = -math.inf
        self._trouble_since = 0.0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Runs the hub's tasks. An error in one of them is a fault of ours and ends the block."""
        async with background(self._feed(), self._write(), self._look(), self.history.read_ahead()):
            yield
        if self._follower is not None:
            await self._follower.aclose()

    @property
    def ready(self) -> bool:
        """Whether clients are well served here."""
        return self.fed and self.trouble is None and not self.draining

    @property
    def fed(self) -> bool:
        """Whether the log is being followed."""
        return self._follower is not None

    async def wait_until_well(self) -> None:
        """Returns when the log is in reach and the tails are there; at once while draining."""
        await self._well.wait()

    def stop_admitting(self) -> None:
        """Not ready any more; who waits for the log is let go."""
        self.draining = True
        self._well.set()

    # For subscriptions.

    def add(self, subscription: Subscription) -> None:
        self.subscriptions.add(subscription)
        self._metrics.clients.set(len(self.subscriptions))
        if self.draining:
            subscription.end(Reason.DRAINED)
        elif self.tails.of(subscription.want.partitions) is None:  # gone since its start was found
            subscription.end(Reason.LOG_ERROR, UnknownTopic(subscription.want.partitions[0].topic))

    def remove(self, subscription: Subscription) -> None:
        self.leave(subscription)
        self.subscriptions.discard(subscription)
        self._metrics.clients.set(len(self.subscriptions))

    def join(self, subscription: Subscription) -> bool:
        """Makes it a member of the cohort of its want, if it stands where the cohort stands."""
        want, position = subscription.want, subscription.position
        cohort = self._cohorts.get(want)
        if cohort is None:
            tails = self.tails.of(want.partitions)
            if tails is None or position.offsets != tuple(tail.next for tail in tails):
                return False
            canonical = self.tails.now(want.partitions)
            cohort = self._cohorts[want] = Cohort(want, canonical, tails)
            self._metrics.cohorts.set(len(self._cohorts))
            self._news.set()  # its heartbeats are to be thought of
        elif cohort.position.offsets != position.offsets or not cohort.fits:
            return False
        cohort.members[subscription] = None
        subscription.cohort = cohort
        return True

    def leave(self, subscription: Subscription) -> None:
        cohort, subscription.cohort = subscription.cohort, None
        if cohort is None:
            return
        cohort.members.pop(subscription, None)
        if not cohort.members and self._cohorts.get(cohort.want) is cohort:
            del self._cohorts[cohort.want]
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

    async def chunk(self, subscription: Subscription, ends: tuple[int, ...]) -> Chunk:
        """The next chunk for one who pulls alone, in its turn. Raises LogError."""
        self._metrics.catching_up.inc()
        try:
            async with self._slots:
                return await self._chunk(subscription.want, subscription.position, ends)
        finally:
            self._metrics.catching_up.dec()

    async def prepare(self, want: Want, position: Position, ends: tuple[int, ...]) -> None:
        """Has the chunk after the present one made ready, if there is a turn to spare."""
        if not position.is_behind(ends) or self._slots.locked():
            return
        with contextlib.suppress(LogError):  # it is met again, and told, when it is needed
            async with self._slots:
                await self._chunk(want, position, ends)

    async def resume(self, mark: Mark) -> Resumed:
        """Where to read on from a client's mark, in its turn. Raises LogError."""
        if self.resumer.is_near(mark):
            return await self.resumer.resume(mark)
        async with self._slots:
            return await self.resumer.resume(mark)

    def grown(self, want: Want, position: Position) -> tuple[Want, Position]:
        """The same with the partitions that its topics have gained, from their first records."""
        return self.tails.grown(want, position)

    async def after_gap(
        self, position: Position, error: OffsetOutOfRange
    ) -> tuple[Position, dict[str, object] | None]:
        """Where to go on, and what to tell, when an offset is not to be had. Raises LogError."""
        i = position.partitions.index(error.partition)
        self._chunks.clear()
        self.history.forget(error.partition)  # it may know the record before the lost one
        at, time_ms = position.offsets[i], position.timestamps[i]
        # Below the oldest kept it is this log all the same: its time must not find another place.
        overtaken = error.bounds is not None and at < error.bounds.oldest
        mark = Mark(error.partition, at, None if overtaken else time_ms)
        offset, timestamp_ms, gap = await self.resumer.resume(mark)
        if gap is not None:
            self._metrics.gaps.labels(gap.cause).inc()
        return (
            position.at(error.partition, offset, timestamp_ms),
            None if gap is None else gap_document([gap]),
        )

    def suspect(self, error: LogUnavailable) -> None:
        """Somebody could not read: find out whether the log is out of reach for all."""
        if self.trouble is None:
            _log.warning("log out of reach: %s", error)
            self.trouble = error
            self._trouble_since = time.monotonic()
            self._well.clear()
            self._metrics.log_reachable.set(0)
        self._look_again.set()

    def count_out(self, events: int, clients: int) -> None:
        self._metrics.events_out.inc(events * clients)

    # Topics and partitions.

    async def refresh(self) -> None:
        """Looks for topics and partitions that came or went. Raises LogUnavailable.

        Those who ask while somebody looks share the next look.
        """
        asked = time.monotonic()
        async with self._looking:
            if self._looked_at >= asked:
                return
            began = time.monotonic()
            came, grew, went = await self.tails.refresh(self.topics)
            self._looked_at = began
        starts = {partition: self.tails.end(partition) for partition in (*came, *grew)}
        if self._follower is None:
            self._follower = self._log.follow(starts)
        elif starts:
            self._follower.assign(starts)
        for topic in {*went, *self._unfollowed}:
            self._lose_topic(topic)
        if self._unfollowed:  # if they are back, they are other topics of the same name
            self._unfollowed.clear()
            self._look_again.set()
        if grew:
            _log.info("gained partitions: %s", ", ".join(f"{t}/{n}" for t, n in grew))
            topics = {partition.topic for partition in grew}
            for subscription in list(self.subscriptions):
                if subscription.want.growing & topics:
                    subscription.grow()
        if time.monotonic() - self._feed_failed_at > _QUIET_S:
            self._recovered()

    def _lose_topic(self, topic: str) -> None:
        _log.warning("topic %s is gone", topic)
        lost = self.tails.drop(topic)
        if self._follower is not None:
            self._follower.drop(lost)
        for partition in lost:
            self.history.forget(partition)
        self._chunks.clear()
        for subscription in list(self.subscriptions):
            if not lost.isdisjoint(subscription.want.partitions):
                self.leave(subscription)
                subscription.end(Reason.LOG_ERROR, UnknownTopic(topic))

    async def _look(self) -> None:
        """Refreshes now and then, at once when asked to; ends streams when patience is over."""
        while True:
            self._look_again.clear()
            try:
                if not self._started:
                    await self._log.start()
                    self._started = True
                await self.refresh()
            except LogUnavailable as error:
                self.suspect(error)
            except LogError:
                _log.exception("could not look for topics and partitions")
            if self.trouble is not None:
                self._lose_patience(self.trouble)
                await asyncio.sleep(_RETRY_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.refresh_s):
                    await self._look_again.wait()

    def _lose_patience(self, error: LogUnavailable) -> None:
        if time.monotonic() - self._trouble_since > self.settings.log_patience_s:
            for subscription in list(self.subscriptions):
                subscription.end(Reason.LOG_ERROR, error)

    def _recovered(self) -> None:
        if self.trouble is not None:
            _log.info("log in reach again")
        self.trouble = None
        self._well.set()
        self._metrics.log_reachable.set(1)

    # From the log to the tails.

    async def _feed(self) -> None:
        await self._well.wait()
        assert self._follower is not None
        while True:
            try:
                slices = await self._follower.next()
            except LogUnavailable as error:
                self._feed_failed_at = time.monotonic()
                self.suspect(error)
                await asyncio.sleep(_RETRY_S)
            except UnknownTopic as error:
                self._unfollowed.add(error.topic)
                self._look_again.set()
            except UnknownPartition as error:
                self._unfollowed.add(error.partition.topic)
                self._look_again.set()
            except OffsetOutOfRange as error:
                await self._overtaken(error)
            except LogError as error:
                _log.exception("can't follow the log")
                self._feed_failed_at = time.monotonic()
                self.suspect(LogUnavailable(str(error)))
                await asyncio.sleep(_RETRY_S)
            else:
                self._feed_failed_at = -math.inf
                self._take(slices)

    def _take(self, slices: list[Slice]) -> None:
        for partition, events, following in slices:
            self.tails.append(partition, [Frame(event) for event in events], following)
            self._metrics.events_in.inc(len(events))
        self._metrics.tail_bytes.set(self.tails.trim())
        self._pacer.arrived()
        self._news.set()

    async def _overtaken(self, error: OffsetOutOfRange) -> None:
        """Retention overtook the follower; or the topic is not the one that was followed."""
        partition = error.partition
        tail = self.tails.by_partition.get(partition)
        bounds: Bounds | None
        try:
            bounds = (await self._log.bounds([partition]))[partition]
        except LogUnavailable as failed:
            self.suspect(failed)
            await asyncio.sleep(_RETRY_S)
            bounds = error.bounds
        except LogError:
            bounds = None
        if tail is None or self.tails.by_partition.get(partition) is not tail:
            return  # it was dropped meanwhile
        if bounds is None or tail.next >= bounds.oldest:
            self._unfollowed.add(partition.topic)
            self._look_again.set()
            return
        _log.warning("%s; going on at %d", error, bounds.oldest)
        self.tails.skip(partition, bounds.oldest)
        assert self._follower is not None
        self._follower.assign({partition: bounds.oldest})
        for cohort in list(self._cohorts.values()):
            if partition in cohort.want.partitions:
                self._dissolve(cohort)  # its members find the gap, and tell it

    # From the tails to the clients.

    async def _write(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._until_heartbeat()):
                    await self._news.wait()
            self._news.clear()
            began, cpu = time.monotonic(), time.thread_time()
            for cohort in list(self._cohorts.values()):
                await self._write_cohort(cohort)
            moved, self.moved = self.moved, asyncio.get_running_loop().create_future()
            moved.set_result(None)
            self._metrics.write_seconds.observe(time.monotonic() - began)
            rest = self._pacer.rest(began, time.thread_time() - cpu)
            if rest:
                await asyncio.sleep(rest)

    async def _write_cohort(self, cohort: Cohort) -> None:
        ends = cohort.ends  # what comes while this is written waits for its own round
        while cohort.members and cohort.fits and cohort.position.offsets != ends:
            chunk = cohort.take(ends, self.settings.batch_bytes_max)
            self._metrics.records_skipped.inc(chunk.skipped)
            if chunk.body:
                taken, slow = await cohort.write(chunk.body, chunk.position)
                self.count_out(chunk.events, taken + slow)
                self._metrics.slow.inc(slow)
        if not cohort.fits:
            self._dissolve(cohort)
        elif time.monotonic() - cohort.wrote_at >= self.heartbeat_s:
            await cohort.write(heartbeat(cohort.want.format), cohort.position)

    def _dissolve(self, cohort: Cohort) -> None:
        """The tails no longer reach back to it (a burst), or its topic is not what it was."""
        for member in list(cohort.members):
            member.leave_cohort()

    @property
    def heartbeat_s(self) -> float:
        """Longest time without a byte, in s."""
        return self.settings.heartbeat_s * _HEARTBEAT_MARGIN

    def _until_heartbeat(self) -> float | None:
        if not self._cohorts:
            return None
        first = min(cohort.wrote_at for cohort in self._cohorts.values())
        return max(0.0, first + self.heartbeat_s - time.monotonic())

    async def _chunk(self, want: Want, position: Position, ends: tuple[int, ...]) -> Chunk:
        assert position.is_behind(ends), "a chunk that leads nowhere would be read for ever"
        held = self._chunks.get(want, position, ends)
        if held is not None:
            return held
        age = self._chunks.age
        runs: dict[int, Run] = {}
        for i, partition in enumerate(want.partitions):
            offset = position.offsets[i]
            if offset >= ends[i]:
                continue
            run = self.tails.since(partition, offset)
            if run is None:
                run = await self._from_history(partition, offset, ends[i], len(ends))
            runs[i] = run
            if run.next == offset:
                raise LogUnavailable(f"{partition.topic}/{partition.number} ended at {offset}")
        chunk = render(want, position, runs, ends, self.settings.batch_bytes_max)
        self._metrics.records_skipped.inc(chunk.skipped)
        if self._chunks.age == age:
            self._chunks.keep(want, position, chunk)
        return chunk

    async def _from_history(self, partition: Partition, offset: int, end: int, beside: int) -> Run:
        run = self.history.cached(partition, offset)
        if run is None:
            run = await self.history.load(partition, offset, beside)
        if run.next < min(end, self.tails.floor(partition)):
            self.history.want(partition, run.next, beside)
        return run

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
