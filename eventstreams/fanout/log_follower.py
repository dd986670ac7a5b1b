"""Reads the log into the tails, once for all clients, and keeps track of what can be read.

One task follows the log and appends to the tails. Another looks for topics and partitions that were
created or deleted, and checks whether an unreachable log is back. A third does so for unreachable
partitions, which affect only the subscriptions that include them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from eventstreams.config.settings import FanoutSettings
from eventstreams.errors import (
    LogError,
    LogTruncated,
    LogUnavailable,
    OffsetOutOfRange,
    RecordsDamaged,
    UnknownPartition,
    UnknownTopic,
)
from eventstreams.fanout.outages import Outages, names
from eventstreams.fanout.tails import Tails
from eventstreams.fanout.timing import Timing
from eventstreams.log.base import Follower, Log, Slice
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition
from eventstreams.model.frame import Frame
from eventstreams.tasks import background

_log = logging.getLogger(__name__)


class LogListener(Protocol):
    """What the log follower reports to the hub."""

    def on_events(self, by_topic: Sequence[tuple[str, Sequence[Frame]]]) -> None:
        """New events were added to the tails."""
        ...

    def on_partitions_added(self, topics: Collection[str]) -> None:
        """These topics have gained partitions."""
        ...

    def on_topic_lost(self, topic: str, partitions: Collection[Partition]) -> None:
        """The topic and the tails of its partitions no longer exist."""
        ...

    def on_records_skipped(self, partition: Partition) -> None:
        """Records were lost or damaged; the partition's tail continues at a later offset."""
        ...

    def on_truncated(self, partition: Partition, end: int) -> None:
        """The log holds other records from `end` on; the partition's tail continues there."""
        ...

    def on_unreachable(
        self, error: LogUnavailable, partitions: frozenset[Partition] | None = None
    ) -> None:
        """These partitions, or the whole log, were unreachable for longer than streams wait."""
        ...


class LogFollower:
    def __init__(
        self,
        *,
        log: Log,
        topics: Collection[str],
        settings: FanoutSettings,
        metrics: Metrics,
        listener: LogListener,
        timing: Timing,
        started: bool,
    ) -> None:
        """Create a follower; `look` and `follow` are its tasks.

        `started` is False if the log must still be started, in which case it may be unreachable.
        """
        self.tails = Tails(log=log, bytes_max=settings.tail_bytes_max)
        self.trouble: LogUnavailable | None = None
        """The error with which the whole log is unreachable; None while it can be reached."""
        self.reachable = asyncio.Event()
        """Set while the log can be reached and the tails exist."""
        self._outages = Outages(quiet_s=timing.quiet_s)
        self._lost = asyncio.Event()
        self._regained = asyncio.Event()
        self._released = False
        self._log_error: LogUnavailable | None = None
        self._log = log
        self._topics = frozenset(topics)
        self._settings = settings
        self._metrics = metrics
        self._listener = listener
        self._timing = timing
        self._started = started
        self._follower: Follower | None = None
        self._look_again = asyncio.Event()
        self._looking = asyncio.Lock()
        self._unfollowed: set[str] = set()
        """Topics whose partitions, some or all, were missing when the follower read them."""
        self._looked_at = -math.inf
        self._failed_at = -math.inf
        self._trouble_since = 0.0

    @property
    def following(self) -> bool:
        return self._follower is not None

    def partitions(self, topic: str) -> tuple[Partition, ...]:
        """Return the topic's partitions that are known, in order; empty if there are none."""
        return self.tails.partitions(topic)

    async def aclose(self) -> None:
        if self._follower is not None:
            await self._follower.aclose()

    def add(self, topics: Collection[str]) -> None:
        """Follow these topics as well, and look for them at once."""
        if not self._topics.issuperset(topics):
            self._topics = self._topics.union(topics)
            self._look_again.set()

    def suspect(self, error: LogUnavailable) -> None:
        """Check, after a failed read, whether the log is unreachable for all clients."""
        self._fail(error, follower=False)

    @property
    def unreachable(self) -> frozenset[Partition]:
        return self._outages.partitions

    def outage(self, partitions: Iterable[Partition]) -> LogUnavailable | None:
        """Return an error that names those of these partitions that are unreachable, or None."""
        return self.trouble or self._outages.error(partitions)

    async def reach(self, partitions: Collection[Partition]) -> None:
        """Wait until all of these can be read, or until `release` is called."""
        while not self._released and any(p in self._outages for p in partitions):
            await self._regained.wait()

    def release(self) -> None:
        """Make all current and future waits for the log return at once."""
        self._released = True
        self.reachable.set()
        self._regained.set()

    def _fail(self, error: LogUnavailable, *, follower: bool) -> None:
        now = time.monotonic()
        if not error.partitions:
            if follower:
                self._failed_at = now
            if self._log_error is None:
                self._trouble_since = now
            # The newest error is the most precise: lost files first cause an I/O error.
            self._log_error = error
        else:
            known = self.tails.known & error.partitions
            if new := self._outages.begin(known, error, now, follower=follower):
                _log.warning("%s unreachable: %s", ", ".join(names(new)), error)
        self._look_again.set()
        self._assess()

    def _regain(self, partitions: Iterable[Partition]) -> None:
        back = [partition for partition in partitions if self._outages.end(partition)]
        if back:
            _log.info("%s reachable again", ", ".join(names(back)))
            self._assess()

    def _assess(self) -> None:
        """Update `trouble`, the metrics and the events from what is unreachable now."""
        before, error = self.trouble, self._log_error
        known = self.tails.known
        if error is None and known and known <= self._outages.partitions:
            error = self._outages.error(sorted(known))
        self.trouble = error
        if error is not None:
            if before is None:
                _log.warning("log unreachable: %s", error)
                self._metrics.log_reachable.set(0)
                if not self._released:
                    self.reachable.clear()
        elif self._follower is not None:
            if before is not None:
                _log.info("log reachable again")
            self._metrics.log_reachable.set(1)
            self.reachable.set()
        if self._outages:
            self._lost.set()
        if not self._released:
            self._regained.set()
            self._regained = asyncio.Event()

    async def refresh(self) -> None:
        """Look for topics and partitions that were created or deleted. Raises LogUnavailable.

        Calls that arrive during a look share the next one.
        """
        asked = time.monotonic()
        async with self._looking:
            if self._looked_at >= asked:
                return
            began = time.monotonic()
            new, added, gone, missing = await self.tails.refresh(self._topics)
            self._looked_at = began
        self._follow((*new, *added))
        for error in missing:
            self._fail(error, follower=False)
        for topic in {*gone, *self._unfollowed}:
            self._lose_topic(topic)
        if self._unfollowed:  # if they exist again, they are new topics of the same name
            self._unfollowed.clear()
            self._look_again.set()
        if added:
            _log.info("partitions were added: %s", ", ".join(names(added)))
            self._listener.on_partitions_added({partition.topic for partition in added})
        if time.monotonic() - self._failed_at > self._timing.quiet_s:
            self._log_error = None
            self._assess()

    def _follow(self, partitions: Iterable[Partition]) -> None:
        starts = {partition: self.tails.end(partition) for partition in partitions}
        epochs = self.tails.epochs(starts)
        if self._follower is None:
            self._follower = self._log.follow(starts, epochs)
        elif starts:
            self._follower.assign(starts, epochs)

    def _lose_topic(self, topic: str) -> None:
        _log.warning("topic %s no longer exists", topic)
        lost = self.tails.drop(topic)
        if self._follower is not None:
            self._follower.drop(lost)
        for partition in lost:
            self._outages.end(partition)
        self._assess()
        self._listener.on_topic_lost(topic, lost)

    async def look(self) -> None:
        """Look for changes every `refresh_s` and on request, until cancelled.

        Reports partitions that stay unreachable for longer than `log_patience_s`.
        """
        async with background(self._look_for_lost()):
            await self._look_for_all()

    async def _look_for_all(self) -> None:
        while True:
            self._look_again.clear()
            try:
                if not self._started:
                    await self._log.start()
                    self._started = True
                await self.refresh()
            except LogUnavailable as error:
                self.suspect(error)
            except LogError as error:  # damaged
                self.suspect(LogUnavailable(str(error)))
            if self._log_error is not None:
                if time.monotonic() - self._trouble_since > self._settings.log_patience_s:
                    self._listener.on_unreachable(self._log_error)
                await asyncio.sleep(self._timing.retry_s)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.refresh_s):
                    await self._look_again.wait()

    async def _look_for_lost(self) -> None:
        """Retry unreachable partitions, until cancelled."""
        patience_s = self._settings.log_patience_s
        while True:
            self._lost.clear()
            while self._outages:
                left_s = self._outages.until_patience_ends_s(patience_s, time.monotonic())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._try_lost()
                over = self._outages.longer_than(patience_s, time.monotonic())
                if error := self._outages.error(sorted(over)):
                    self._listener.on_unreachable(error, over)
                await asyncio.sleep(self._timing.retry_s)
            await self._lost.wait()

    async def _try_lost(self) -> None:
        lost = self._outages.partitions - self.tails.missing
        try:
            if back := await self.tails.reach():
                self._follow(back)
                self._regain(back)
                self._listener.on_partitions_added({partition.topic for partition in back})
            if lost:
                await self._log.bounds(lost)
        except LogUnavailable as error:
            lost = lost - error.partitions if error.partitions else frozenset[Partition]()
        except LogError:  # the topic no longer exists, which `_look_for_all` detects
            self._look_again.set()
            return
        self._regain(p for p in lost if self._outages.is_quiet(p, time.monotonic()))

    async def follow(self) -> None:
        """Follow the log and append to the tails, until cancelled."""
        await self.reachable.wait()
        async with asyncio.TaskGroup() as tasks:
            await self._take_all(tasks)

    async def _take_all(self, tasks: asyncio.TaskGroup) -> None:
        assert self._follower is not None
        while True:
            try:
                slices = await self._follower.next()
            except LogUnavailable as error:
                self._fail(error, follower=True)
                if not error.partitions:
                    await asyncio.sleep(self._timing.retry_s)
            except UnknownTopic as error:
                self._unfollowed.add(error.topic)
                self._look_again.set()
            except UnknownPartition as error:
                self._unfollowed.add(error.partition.topic)
                self._look_again.set()
            except OffsetOutOfRange as error:
                tasks.create_task(self._overtaken(error))  # other partitions are followed meanwhile
            except RecordsDamaged as error:
                if error.partition in self.tails.by_partition:
                    self._skip(error.partition, error.next, error)
            except LogTruncated as error:
                self._truncated(error)
            except LogError as error:  # damaged
                self._fail(LogUnavailable(str(error)), follower=True)
                await asyncio.sleep(self._timing.retry_s)
            else:
                self._failed_at = -math.inf
                self._take(slices)

    def _take(self, slices: list[Slice]) -> None:
        by_topic: list[tuple[str, Sequence[Frame]]] = []
        for partition, events, following, epochs in slices:
            frames = self.tails.frames(events)
            by_topic.append((partition.topic, frames))
            self.tails.append(partition, frames, following, epochs)
            self._metrics.events_in.inc(len(events))
        if self._outages:
            self._regain(one.partition for one in slices)
        self._metrics.tail_bytes.set(self.tails.trim())
        self._listener.on_events(by_topic)

    def _truncated(self, error: LogTruncated) -> None:
        """Truncate a tail whose newest records were lost in a leader election."""
        if error.partition in self.tails.by_partition:
            _log.warning("%s", error)
            self.tails.truncate(error.partition, error.end)
            self._listener.on_truncated(error.partition, error.end)

    async def _overtaken(self, error: OffsetOutOfRange) -> None:
        """Continue after retention overtook the follower, or look for a recreated topic."""
        partition = error.partition
        tail = self.tails.by_partition.get(partition)
        bounds = error.bounds
        try:
            bounds = (await self._log.bounds([partition]))[partition]
        except LogUnavailable as failed:
            self.suspect(failed)
        except LogError:
            bounds = None
        if tail is None or self.tails.by_partition.get(partition) is not tail:
            return  # the tail was dropped or replaced meanwhile
        if bounds is None or tail.next >= bounds.oldest:
            self._unfollowed.add(partition.topic)
            self._look_again.set()
            return
        self._skip(partition, bounds.oldest, error)

    def _skip(self, partition: Partition, offset: int, why: LogError) -> None:
        _log.warning("%s; continuing at %d", why, offset)
        self.tails.skip(partition, offset)
        assert self._follower is not None
        self._follower.assign({partition: offset})
        self._listener.on_records_skipped(partition)
