"""Determines when a stream with a stop condition ends.

A limit on events or on the clock ends the stream at the position it has reached by then. A limit on
the records' time is converted to offsets once that time has come, because no earlier records are
expected from then on. Records are ordered by offset, not by time: the first record at or after the
limit ends its partition.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from eventstreams.fanout.spec import SubscriptionSpec
from eventstreams.model.position import Position
from eventstreams.model.stop_condition import StopCondition

_TIMER_S_MAX = 3600.0
"""The longest timer. Clocks can be adjusted, so `until` is checked again at least this often."""


class StopOffsets(Protocol):
    """The methods of `Hub` that a stop tracker uses. `Hub` documents them."""

    def ends(self, spec: SubscriptionSpec) -> tuple[int, ...]: ...

    async def ends_at(self, spec: SubscriptionSpec, until_ms: int) -> tuple[int, ...]: ...


class StopTracker:
    """Tracks one stream; `stop_condition` holds what is remaining of its condition."""

    __slots__ = ("_clock", "_deadline_s", "_ends", "_timer", "_wake", "stop_condition")

    def __init__(
        self, stop_condition: StopCondition, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` returns seconds that pass whatever the time of day is set to."""
        self.stop_condition = stop_condition
        self._clock = clock
        deadline_ms = stop_condition.deadline_ms
        self._deadline_s = (
            None if deadline_ms is None else clock() + (deadline_ms - now_ms()) / 1000
        )
        """When the stream ends. Ids carry the deadline as a time of day."""
        self._ends: tuple[int, ...] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wake: Callable[[], None] | None = None

    def start(self, wake: Callable[[], None]) -> None:
        """Start the timer; `wake` is called when the stream may have reached its end."""
        self._wake = wake
        self._set_timer()

    def stop(self) -> None:
        """Cancel the timer and release what `start` was given."""
        if self._timer is not None:
            self._timer.cancel()
        self._wake = None

    def count(self, events: int) -> None:
        """Record that `events` events were sent."""
        if self.stop_condition.remaining is not None:
            self.stop_condition = self.stop_condition._replace(
                remaining=self.stop_condition.remaining - events
            )

    def id_of(self, position: Position) -> bytes:
        """Return the id with which a client can resume from `position`."""
        return self.stop_condition.wrap(position.encode())

    async def ends(self, spec: SubscriptionSpec, hub: StopOffsets) -> tuple[int, ...]:
        """Return the offsets up to which the stream may read now. Raises LogError."""
        until_ms, now = self.stop_condition.until_ms, hub.ends(spec)
        if until_ms is None or now_ms() < until_ms:
            return now
        if self._ends is None or len(self._ends) != len(now):  # or partitions were added
            self._ends = await hub.ends_at(spec, until_ms)
        return tuple(map(min, hub.ends(spec), self._ends))

    def is_reached(self, position: Position) -> bool:
        """Return whether the stream ends at this position."""
        if self.stop_condition.remaining == 0:
            return True
        if self._deadline_s is not None and self._clock() >= self._deadline_s:
            return True
        return self._ends is not None and not position.is_behind(self._ends)

    def _set_timer(self) -> None:
        due_s: list[float] = []
        if self.stop_condition.until_ms:
            due_s.append((self.stop_condition.until_ms - now_ms()) / 1000)
        if self._deadline_s is not None:
            due_s.append(self._deadline_s - self._clock())
        if due_s := [each for each in due_s if each > 0]:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(min(due_s) + 0.001, _TIMER_S_MAX), self._on_time)

    def _on_time(self) -> None:
        assert self._wake is not None
        self._wake()
        self._set_timer()


def now_ms() -> int:
    """Return the time in ms since 1970, by the gateway's clock."""
    return time.time_ns() // 1_000_000
