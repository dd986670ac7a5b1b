"""The feed: reads the log, for all, into the tails; knows what can be read, and what is wrong.

Its tasks follow the log and append to the tails; look for topics and partitions that came or went,
and whether a log that was out of reach is back; and the same for single partitions. A partition
that is out of reach holds up nobody who does not want it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

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
from eventstreams.log.base import Follower, Log, Slice
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition
from eventstreams.model.frame import Frame
from eventstreams.settings import FanoutSettings
from eventstreams.tasks import background

_log = logging.getLogger(__name__)
_RETRY_S = 0.5
_QUIET_S = 5.0
"""A follower that has not complained for so long is taken to be well, though no event came."""


class Listener(Protocol):
    """Who is told of what the feed finds."""

    def came(self, by_topic: Sequence[tuple[str, Sequence[Frame]]]) -> None:
        """Events, into the tails."""
        ...

    def grew(self, topics: Collection[str]) -> None:
        """These topics have gained partitions."""
        ...

    def lost(self, topic: str, partitions: Collection[Partition]) -> None:
        """The topic is gone, and their tails."""
        ...

    def skipped(self, partition: Partition) -> None:
        """Records of the tail are lost or damaged; it continues at a later offset."""
        ...

    def truncated(self, partition: Partition, end: int) -> None:
        """The log holds other records from `end` on; the partition's tail continues there."""
        ...

    def gave_up(
        self, error: LogUnavailable, partitions: frozenset[Partition] | None = None
    ) -> None:
        """These partitions, or the log, are out of reach for longer than streams wait."""
        ...


class Feed:
    def __init__(
        self,
        *,
        log: Log,
        topics: Collection[str],
        settings: FanoutSettings,
        metrics: Metrics,
        listener: Listener,
        started: bool,
    ) -> None:
        """`started` is False where the log is still to be started, and may be out of reach."""
        self.tails = Tails(log=log, bytes_max=settings.tail_bytes_max)
        self.trouble: LogUnavailable | None = None
        """Why the whole log is out of reach, while it is."""
        self.well = asyncio.Event()
        """Set while the log is in reach and the tails are there."""
        self._outages = Outages(quiet_s=_QUIET_S)
        self._lost = asyncio.Event()
        self._regained = asyncio.Event()
        self._released = False
        self._log_error: LogUnavailable | None = None
        self._log = log
        self._topics = frozenset(topics)
        self._settings = settings
        self._metrics = metrics
        self._listener = listener
        self._started = started
        self._follower: Follower | None = None
        self._look_again = asyncio.Event()
        self._looking = asyncio.Lock()
        self._unfollowed: set[str] = set()
        """Topics that the follower found missing, wholly or in part."""
        self._looked_at = -math.inf
        self._failed_at = -math.inf
        self._trouble_since = 0.0

    @property
    def following(self) -> bool:
        return self._follower is not None

    async def aclose(self) -> None:
        if self._follower is not None:
            await self._follower.aclose()

    def add(self, topics: Collection[str]) -> None:
        """Topics that can be read from now on; they are looked for at once."""
        if not self._topics.issuperset(topics):
            self._topics = self._topics.union(topics)
            self._look_again.set()

    def suspect(self, error: LogUnavailable) -> None:
        """Somebody could not read: find out whether it is out of reach for all."""
        self._fail(error, follower=False)

    @property
    def unreachable(self) -> frozenset[Partition]:
        return self._outages.partitions

    def outage(self, partitions: Iterable[Partition]) -> LogUnavailable | None:
        """Why one of these can't be read now; names all of them that can't."""
        return self.trouble or self._outages.error(partitions)

    async def reach(self, partitions: Collection[Partition]) -> None:
        """Waits until all of these can be read, or `release`."""
        while not self._released and any(p in self._outages for p in partitions):
            await self._regained.wait()

    def release(self) -> None:
        """Lets go whoever waits for the log, from now on."""
        self._released = True
        self.well.set()
        self._regained.set()

    def _fail(self, error: LogUnavailable, *, follower: bool) -> None:
        now = time.monotonic()
        if not error.partitions:
            if follower:
                self._failed_at = now
            if self._log_error is None:
                self._trouble_since = now
            self._log_error = error  # the newest says most: lost files are an I/O error at first
        else:
            known = self.tails.known & error.partitions
            if new := self._outages.begin(known, error, now, follower=follower):
                _log.warning("%s out of reach: %s", ", ".join(names(new)), error)
        self._look_again.set()
        self._assess()

    def _regain(self, partitions: Iterable[Partition]) -> None:
        back = [partition for partition in partitions if self._outages.end(partition)]
        if back:
            _log.info("%s in reach again", ", ".join(names(back)))
            self._assess()

    def _assess(self) -> None:
        """Tells all who wait, or look, what is in reach now."""
        before, error = self.trouble, self._log_error
        known = self.tails.known
        if error is None and known and known <= self._outages.partitions:
            error = self._outages.error(sorted(known))
        self.trouble = error
        if error is not None:
            if before is None:
                _log.warning("log out of reach: %s", error)
                self._metrics.log_reachable.set(0)
                if not self._released:
                    self.well.clear()
        elif self._follower is not None:
            if before is not None:
                _log.info("log in reach again")
            self._metrics.log_reachable.set(1)
            self.well.set()
        if self._outages:
            self._lost.set()
        if not self._released:
            self._regained.set()
            self._regained = asyncio.Event()

    async def refresh(self) -> None:
        """Looks for topics and partitions that came or went. Raises LogUnavailable.

        Those who ask while somebody looks share the next look.
        """
        asked = time.monotonic()
        async with self._looking:
            if self._looked_at >= asked:
                return
            began = time.monotonic()
            came, grew, went, missing = await self.tails.refresh(self._topics)
            self._looked_at = began
        self._follow((*came, *grew))
        for error in missing:
            self._fail(error, follower=False)
        for topic in {*went, *self._unfollowed}:
            self._lose_topic(topic)
        if self._unfollowed:  # if they are back, they are other topics of the same name
            self._unfollowed.clear()
            self._look_again.set()
        if grew:
            _log.info("gained partitions: %s", ", ".join(f"{t}/{n}" for t, n in grew))
            self._listener.grew({partition.topic for partition in grew})
        if time.monotonic() - self._failed_at > _QUIET_S:
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
        _log.warning("topic %s is gone", topic)
        lost = self.tails.drop(topic)
        if self._follower is not None:
            self._follower.drop(lost)
        for partition in lost:
            self._outages.end(partition)
        self._assess()
        self._listener.lost(topic, lost)

    async def look(self) -> None:
        """Looks now and then, at once when asked to; ends streams when patience is over."""
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
                    self._listener.gave_up(self._log_error)
                await asyncio.sleep(_RETRY_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.refresh_s):
                    await self._look_again.wait()

    async def _look_for_lost(self) -> None:
        """The same for partitions that are out of reach."""
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
                    self._listener.gave_up(error, over)
                await asyncio.sleep(_RETRY_S)
            await self._lost.wait()

    async def _try_lost(self) -> None:
        lost = self._outages.partitions - self.tails.missing
        try:
            if back := await self.tails.reach():
                self._follow(back)
                self._regain(back)
                self._listener.grew({partition.topic for partition in back})
            if lost:
                await self._log.bounds(lost)
        except LogUnavailable as error:
            lost = lost - error.partitions if error.partitions else frozenset[Partition]()
        except LogError:  # a topic that is gone: the look at all topics finds that out
            self._look_again.set()
            return
        self._regain(p for p in lost if self._outages.is_quiet(p, time.monotonic()))

    async def follow(self) -> None:
        """Feeds the tails, until cancelled."""
        await self.well.wait()
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
                    await asyncio.sleep(_RETRY_S)
            except UnknownTopic as error:
                self._unfollowed.add(error.topic)
                self._look_again.set()
            except UnknownPartition as error:
                self._unfollowed.add(error.partition.topic)
                self._look_again.set()
            except OffsetOutOfRange as error:
                tasks.create_task(self._overtaken(error))  # others go on meanwhile
            except RecordsDamaged as error:
                if error.partition in self.tails.by_partition:
                    self._skip(error.partition, error.next, error)
            except LogTruncated as error:
                self._truncated(error)
            except LogError as error:  # damaged
                self._fail(LogUnavailable(str(error)), follower=True)
                await asyncio.sleep(_RETRY_S)
            else:
                self._failed_at = -math.inf
                self._take(slices)

    def _take(self, slices: list[Slice]) -> None:
        came: list[tuple[str, Sequence[Frame]]] = []
        for partition, events, following, epochs in slices:
            came.append((partition.topic, self.tails.frames(events)))
            self.tails.append(partition, came[-1][1], following, epochs)
            self._metrics.events_in.inc(len(events))
        if self._outages:
            self._regain(one.partition for one in slices)
        self._metrics.tail_bytes.set(self.tails.trim())
        self._listener.came(came)

    def _truncated(self, error: LogTruncated) -> None:
        """An election lost the end of a partition."""
        if error.partition in self.tails.by_partition:
            _log.warning("%s", error)
            self.tails.truncate(error.partition, error.end)
            self._listener.truncated(error.partition, error.end)

    async def _overtaken(self, error: OffsetOutOfRange) -> None:
        """Retention overtook the follower; or the topic is not the one that was followed."""
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
            return  # it was dropped meanwhile
        if bounds is None or tail.next >= bounds.oldest:
            self._unfollowed.add(partition.topic)
            self._look_again.set()
            return
        self._skip(partition, bounds.oldest, error)

    def _skip(self, partition: Partition, offset: int, why: LogError) -> None:
        _log.warning("%s; going on at %d", why, offset)
        self.tails.skip(partition, offset)
        assert self._follower is not None
        self._follower.assign({partition: offset})
        self._listener.skipped(partition)
