"""The feed: reads the log, for all, into the tails; knows what can be read, and what is wrong.

Two tasks. One follows the log and appends to the tails; one looks for topics and partitions that
came or went, and whether a log that was out of reach is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Collection
from typing import Protocol

from eventstreams.errors import (
    LogError,
    LogUnavailable,
    OffsetOutOfRange,
    UnknownPartition,
    UnknownTopic,
)
from eventstreams.fanout.tails import Tails
from eventstreams.log.base import Follower, Log, Slice
from eventstreams.metrics import Metrics
from eventstreams.model.event import Bounds, Partition
from eventstreams.model.frame import Frame
from eventstreams.settings import FanoutSettings

_log = logging.getLogger(__name__)
_RETRY_S = 0.5
_QUIET_S = 5.0
"""A follower that has not complained for so long is taken to be well, though no event came."""


class Listener(Protocol):
    """Who is told of what the feed finds."""

    def came(self) -> None:
        """Events, into the tails."""
        ...

    def grew(self, topics: Collection[str]) -> None:
        """These topics have gained partitions."""
        ...

    def lost(self, topic: str, partitions: Collection[Partition]) -> None:
        """The topic is gone, and their tails."""
        ...

    def skipped(self, partition: Partition) -> None:
        """Retention overtook its tail, which goes on further ahead."""
        ...

    def gave_up(self, error: LogUnavailable) -> None:
        """The log has been out of reach for longer than streams are kept waiting."""
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
        """Why the log is out of reach, while it is."""
        self.well = asyncio.Event()
        """Set while the log is in reach and the tails are there."""
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

    def suspect(self, error: LogUnavailable) -> None:
        """Somebody could not read: find out whether the log is out of reach for all."""
        if self.trouble is None:
            _log.warning("log out of reach: %s", error)
            self.trouble = error
            self._trouble_since = time.monotonic()
            self.well.clear()
            self._metrics.log_reachable.set(0)
        self._look_again.set()

    async def refresh(self) -> None:
        """Looks for topics and partitions that came or went. Raises LogUnavailable.

        Those who ask while somebody looks share the next look.
        """
        asked = time.monotonic()
        async with self._looking:
            if self._looked_at >= asked:
                return
            began = time.monotonic()
            came, grew, went = await self.tails.refresh(self._topics)
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
            self._listener.grew({partition.topic for partition in grew})
        if time.monotonic() - self._failed_at > _QUIET_S:
            self._recovered()

    def _lose_topic(self, topic: str) -> None:
        _log.warning("topic %s is gone", topic)
        lost = self.tails.drop(topic)
        if self._follower is not None:
            self._follower.drop(lost)
        self._listener.lost(topic, lost)

    async def look(self) -> None:
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
                async with asyncio.timeout(self._settings.refresh_s):
                    await self._look_again.wait()

    def _lose_patience(self, error: LogUnavailable) -> None:
        if time.monotonic() - self._trouble_since > self._settings.log_patience_s:
            self._listener.gave_up(error)

    def _recovered(self) -> None:
        if self.trouble is not None:
            _log.info("log in reach again")
        self.trouble = None
        self.well.set()
        self._metrics.log_reachable.set(1)

    async def follow(self) -> None:
        """Feeds the tails, until cancelled."""
        await self.well.wait()
        assert self._follower is not None
        while True:
            try:
                slices = await self._follower.next()
            except LogUnavailable as error:
                self._failed_at = time.monotonic()
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
                self._failed_at = time.monotonic()
                self.suspect(LogUnavailable(str(error)))
                await asyncio.sleep(_RETRY_S)
            else:
                self._failed_at = -math.inf
                self._take(slices)

    def _take(self, slices: list[Slice]) -> None:
        for partition, events, following in slices:
            self.tails.append(partition, [Frame(event) for event in events], following)
            self._metrics.events_in.inc(len(events))
        self._metrics.tail_bytes.set(self.tails.trim())
        self._listener.came()

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
        self._listener.skipped(partition)
