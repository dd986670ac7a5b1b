"""Deadlines of clients: for heads, bodies, handshakes and the reading of responses.

A paused process reads nothing. When it continues, its timers may run before the event loop has read
the sockets, although clients have sent everything in time. A deadline therefore lets the event loop
read once more before it ends a client, and does not count the time by which its timer was late.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

LOOK_S = 0.5
"""How long the event loop may read its sockets before a client is disconnected, in seconds."""
_LATE_S = 0.1
"""If a timer is later than this, in seconds, the whole process was paused."""


class Deadline:
    """Calls `give_up` once at its time, unless it is moved or cancelled before then."""

    __slots__ = ("_due_s", "_give_up", "_is_last_look", "_loop", "_lost_s", "_timer")

    def __init__(self, due_s: float, give_up: Callable[[], object]) -> None:
        """`due_s` is a time of the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._give_up = give_up
        self._lost_s = 0.0
        """How long the process was paused, measured by how late the timer was."""
        self._due_s = due_s
        self._is_last_look = False
        self._timer = self._loop.call_at(due_s, self._on_time)

    def move(self, due_s: float) -> None:
        """Move the deadline to a later time; an earlier one changes nothing."""
        due_s += self._lost_s
        if due_s > self._due_s:
            self._is_last_look = False
            self._set(due_s)

    def cancel(self) -> None:
        self._timer.cancel()

    def _set(self, due_s: float) -> None:
        self._timer.cancel()
        self._due_s = due_s
        self._timer = self._loop.call_at(due_s, self._on_time)

    def _on_time(self) -> None:
        late_s = self._loop.time() - self._due_s
        if late_s > _LATE_S:
            self._lost_s += late_s + LOOK_S
        elif self._is_last_look:
            self._give_up()
            return
        self._is_last_look = True
        self._set(self._loop.time() + LOOK_S)


@asynccontextmanager
async def timeout_at(due_s: float) -> AsyncGenerator[Deadline]:
    """Cancel the block at the deadline, which it may move. Raises TimeoutError then."""
    async with asyncio.timeout(None) as limit:
        deadline = Deadline(due_s, lambda: limit.reschedule(0.0))
        try:
            yield deadline
        finally:
            deadline.cancel()
