"""Provides the clocks, which tests replace."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """The time of day, and the time that passes, which setting the time of day does not change."""

    def now_ms(self) -> int:
        """Return the Unix time in ms."""
        ...

    def elapsed_ms(self) -> int:
        """Return the time since a fixed moment in ms."""
        ...

    async def sleep_until(self, moment_ms: int) -> None:
        """Wait until `elapsed_ms()` is at least `moment_ms`."""
        ...


class SystemClock:
    """The clocks of the system."""

    def now_ms(self) -> int:
        """Return the Unix time in ms."""
        return time.time_ns() // 1_000_000

    def elapsed_ms(self) -> int:
        """Return the time since a fixed moment in ms."""
        return time.monotonic_ns() // 1_000_000

    async def sleep_until(self, moment_ms: int) -> None:
        """Wait until `elapsed_ms()` is at least `moment_ms`."""
        while (left_ms := moment_ms - self.elapsed_ms()) > 0:  # noqa: ASYNC110 - timers round
            await asyncio.sleep(left_ms / 1000)
