"""How far one client's stream goes, and when it is there.

A bound by events or by the clock is met where the stream stands then. A bound by the records' time
becomes one of offsets, once that time has come: from then on nothing of before it is to be expected
(records are in order of offsets, not of time: the first record at or after it ends its partition).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from eventstreams.fanout.want import Want
from eventstreams.model.extent import Extent
from eventstreams.model.position import Position

_TIMER_S_MAX = 3600.0
"""Clocks are set: look again now and then."""


class Ends(Protocol):
    """What a hub knows of ends."""

    def ends(self, want: Want) -> tuple[int, ...]: ...

    async def ends_at(self, want: Want, until_ms: int) -> tuple[int, ...]: ...


class Bound:
    """`extent` says what is left of it."""

    __slots__ = ("_ends", "_timer", "_wake", "extent")

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self._ends: tuple[int, ...] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wake: Callable[[], None] | None = None

    def start(self, wake: Callable[[], None]) -> None:
        """`wake` is called whenever a moment has come at which to look again."""
        self._wake = wake
        self._set_timer()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def count(self, events: int) -> None:
        """So many were sent."""
        if self.extent.left is not None:
            self.extent = self.extent._replace(left=self.extent.left - events)

    def id_of(self, position: Position) -> bytes:
        """What the client is to send to go on from there."""
        return self.extent.wrap(position.encode())

    async def ends(self, want: Want, hub: Ends) -> tuple[int, ...]:
        """How far the stream may go now. Raises LogError."""
        until_ms, now = self.extent.until_ms, hub.ends(want)
        if until_ms is None or now_ms() < until_ms:
            return now
        if self._ends is None or len(self._ends) != len(now):  # or it has gained partitions
            self._ends = await hub.ends_at(want, until_ms)
        return tuple(map(min, hub.ends(want), self._ends))

    def is_reached(self, position: Position) -> bool:
        """Whether there is no more to come for one who stands there."""
        _, deadline_ms, left = self.extent
        if left == 0 or (deadline_ms is not None and now_ms() >= deadline_ms):
            return True
        return self._ends is not None and not position.is_behind(self._ends)

    def _set_timer(self) -> None:
        now = now_ms()
        due = [at for at in (self.extent.until_ms, self.extent.deadline_ms) if at and at > now]
        if due:
            delay_s = (min(due) - now) / 1000 + 0.001
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(delay_s, _TIMER_S_MAX), self._on_time)

    def _on_time(self) -> None:
        assert self._wake is not None
        self._wake()
        self._set_timer()


def now_ms() -> int:
    """Milliseconds since 1970, by the gateway's clock."""
    return time.time_ns() // 1_000_000
