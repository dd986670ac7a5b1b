"""Detects streams that fall below their declared minimum rate, and measures the lag of the tails.

The events of a stream, without canary events, are counted as they arrive from the log, over a
window that slides by a twentieth of its length. No stream is reported before a whole window has
passed. `Activity` counts the events of all topics, declared rate or not, for the list of streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from eventstreams.errors import LogError, LogUnavailable
from eventstreams.fanout.tails import Tails
from eventstreams.filters.document import Documents
from eventstreams.filters.selector import is_canary
from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import MinimumRate, Stream
from eventstreams.model.event import Bounds, Partition
from eventstreams.model.frame import Frame

_log = logging.getLogger(__name__)
_STEPS = 20
_LOOK_S = (0.05, 5.0)


class Window:
    """The events of one stream in a sliding window."""

    def __init__(self, rate: MinimumRate, topics: frozenset[str], now: float) -> None:
        self.rate = rate
        self.topics = topics
        self.silent = False
        self._began = now
        self._step_s = rate.per_s / _STEPS
        self._steps: deque[tuple[float, int]] = deque()  # (beginning of the step, events in it)

    def on_events(self, count: int, now: float) -> None:
        """Count events that arrived at `now`."""
        if not self._steps or now - self._steps[-1][0] >= self._step_s:
            self._steps.append((now, 0))
        began, before = self._steps[-1]
        self._steps[-1] = (began, before + count)

    def events(self, now: float) -> int:
        """Return the number of events in the last `per_s` seconds, or up to a twentieth longer."""
        while self._steps and now - self._steps[0][0] > self.rate.per_s + self._step_s:
            self._steps.popleft()
        return sum(count for _, count in self._steps)

    def look(self, now: float) -> bool:
        """Update `silent` and return it."""
        whole = now - self._began >= self.rate.per_s
        self.silent = whole and self.events(now) < self.rate.events
        return self.silent


class RateWatch:
    """Watches all streams that declare a minimum rate."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._windows: dict[str, Window] = {}
        self._by_topic: dict[str, list[Window]] = {}
        self._documents = Documents(bytes_max=1)

    def declare(self, streams: Mapping[str, Stream]) -> None:
        """Watch these streams from now on. Unchanged ones keep their windows."""
        now = time.monotonic()
        before, self._windows = self._windows, {}
        for name, stream in streams.items():
            rate = stream.minimum_rate
            if rate is None:
                continue
            topics = frozenset(stream.topics)
            window = before.get(name)
            if window is None or (window.rate, window.topics) != (rate, topics):
                window = Window(rate, topics, now)
            self._windows[name] = window
            self._metrics.stream_silent.labels(name).set(window.silent)
        for name in before.keys() - self._windows.keys():
            self._metrics.stream_silent.remove(name)
        self._by_topic = {}
        for window in self._windows.values():
            for topic in window.topics:
                self._by_topic.setdefault(topic, []).append(window)

    def on_events(self, topic: str, frames: Sequence[Frame]) -> None:
        """Count the events of a topic."""
        windows = self._by_topic.get(topic)
        if not windows or not frames:
            return
        count = sum(
            frame.data is not None and not is_canary(frame, frame.data, self._documents)
            for frame in frames
        )
        now = time.monotonic()
        for window in windows:
            window.on_events(count, now)

    async def watch(self) -> None:
        """Report streams that become silent or recover, until cancelled."""
        while True:
            await asyncio.sleep(_pause_s(window.rate.per_s for window in self._windows.values()))
            now = time.monotonic()
            for name, window in self._windows.items():
                before = window.silent
                if window.look(now) != before:
                    self._report(name, window)

    def _report(self, name: str, window: Window) -> None:
        self._metrics.stream_silent.labels(name).set(window.silent)
        if window.silent:
            rate = window.rate
            _log.warning(
                "stream %s is silent: fewer than %d events in %g s", name, rate.events, rate.per_s
            )
        else:
            _log.info("stream %s is no longer silent", name)


def _pause_s(windows: Iterable[float]) -> float:
    least, most = _LOOK_S
    return min(most, max(least, min(windows, default=most) / _STEPS))


class Activity:
    """Counts the records of each topic as they arrive, in the newest `STEPS` steps of `STEP_S`."""

    STEP_S = 10
    STEPS = 30

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._counts: dict[str, deque[tuple[int, int]]] = {}  # (number of the step, records in it)

    def on_events(self, topic: str, count: int) -> None:
        """Count records of a topic that have just arrived."""
        step = self._step()
        counts = self._counts.get(topic)
        if counts is None:
            counts = self._counts[topic] = deque(maxlen=self.STEPS + 1)
        if counts and counts[-1][0] == step:
            count += counts.pop()[1]
        counts.append((step, count))

    def counts(self, topics: Iterable[str]) -> list[int]:
        """Return the records of these topics in each complete step, the newest last.

        The list is shorter than `STEPS` until the process has run that long.
        """
        now = self._step()
        first = max(0, now - self.STEPS)
        found = [0] * (now - first)
        for topic in topics:
            for step, count in self._counts.get(topic, ()):
                if first <= step < now:
                    found[step - first] += count
        return found

    def _step(self) -> int:
        return int((self._clock() - self._began) // self.STEP_S)


class LagGauges:
    """Metrics of how far each tail is behind the end of the log, and how much it holds."""

    def __init__(self, log: Log, tails: Tails, metrics: Metrics) -> None:
        self._log = log
        self._tails = tails
        self._metrics = metrics
        self._shown: set[Partition] = set()

    async def measure(self, every_s: float) -> None:
        """Update the metrics every `every_s` seconds, until cancelled.

        Unreachable partitions keep their last values; other metrics report that they are
        unreachable.
        """
        while True:
            tails = dict(self._tails.by_partition)
            for partition, bounds in (await self._bounds(set(tails))).items():
                tail = tails[partition]
                labels = (partition.topic, str(partition.number))
                behind = max(0, bounds.end - tail.next)
                self._metrics.partition_lag.labels(*labels).set(behind)
                self._metrics.tail_events.labels(*labels).set(len(tail))
                self._shown.add(partition)
            for partition in self._shown - tails.keys():
                labels = (partition.topic, str(partition.number))
                self._metrics.partition_lag.remove(*labels)
                self._metrics.tail_events.remove(*labels)
                self._shown.discard(partition)
            await asyncio.sleep(every_s)

    async def _bounds(self, partitions: set[Partition]) -> dict[Partition, Bounds]:
        with contextlib.suppress(LogError):
            try:
                return await self._log.bounds(partitions)
            except LogUnavailable as error:
                rest = partitions - error.partitions
                if error.partitions and rest:
                    return await self._log.bounds(rest)
        return {}
