"""Streams that should have events and have none: nobody notices by itself that nothing comes.

Events of a stream are counted as they come in from the log, canaries not among them, over a window
that slides by a twentieth of its length. Before a whole window has passed nothing is said.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from eventstreams.fanout.document import Documents
from eventstreams.fanout.selector import is_canary
from eventstreams.metrics import Metrics
from eventstreams.model.frame import Frame
from eventstreams.model.minimum_rate import MinimumRate
from eventstreams.model.stream import Stream

_log = logging.getLogger(__name__)
_STEPS = 20
_LOOK_S = (0.05, 5.0)


class Window:
    """Of one stream."""

    def __init__(self, rate: MinimumRate, topics: frozenset[str], now: float) -> None:
        self.rate = rate
        self.topics = topics
        self.silent = False
        self._began = now
        self._step_s = rate.per_s / _STEPS
        self._steps: deque[tuple[float, int]] = deque()  # when it began, how many came

    def came(self, count: int, now: float) -> None:
        if not self._steps or now - self._steps[-1][0] >= self._step_s:
            self._steps.append((now, 0))
        began, before = self._steps[-1]
        self._steps[-1] = (began, before + count)

    def events(self, now: float) -> int:
        """In the last `per_s`, or up to a twentieth longer."""
        while self._steps and now - self._steps[0][0] > self.rate.per_s + self._step_s:
            self._steps.popleft()
        return sum(count for _, count in self._steps)

    def look(self, now: float) -> bool:
        """Whether it is silent now."""
        whole = now - self._began >= self.rate.per_s
        self.silent = whole and self.events(now) < self.rate.events
        return self.silent


class Silence:
    """Of all streams that say how many events they have at least."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._windows: dict[str, Window] = {}
        self._by_topic: dict[str, list[Window]] = {}
        self._documents = Documents(bytes_max=1)

    def declare(self, streams: Mapping[str, Stream]) -> None:
        """These, from now on. One that was declared the same before is counted on."""
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

    def came(self, topic: str, frames: Sequence[Frame]) -> None:
        """Events of a topic."""
        windows = self._by_topic.get(topic)
        if not windows or not frames:
            return
        count = sum(
            frame.data is not None and not is_canary(frame, frame.data, self._documents)
            for frame in frames
        )
        now = time.monotonic()
        for window in windows:
            window.came(count, now)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_pause_s(window.rate.per_s for window in self._windows.values()))
            now = time.monotonic()
            for name, window in self._windows.items():
                before = window.silent
                if window.look(now) != before:
                    self._tell(name, window)

    def _tell(self, name: str, window: Window) -> None:
        self._metrics.stream_silent.labels(name).set(window.silent)
        if window.silent:
            rate = window.rate
            _log.warning(
                "stream %s is silent: fewer than %d events in %g s", name, rate.events, rate.per_s
            )
        else:
            _log.info("stream %s is silent no more", name)


def _pause_s(windows: Iterable[float]) -> float:
    least, most = _LOOK_S
    return min(most, max(least, min(windows, default=most) / _STEPS))
