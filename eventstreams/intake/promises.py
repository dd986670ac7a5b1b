"""Runs work that continues after its request has been answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from eventstreams.intake.request import PostedEvents

_log = logging.getLogger(__name__)


class Promises:
    """Background tasks that outlive their requests, and unsettled requests answered with 202."""

    def __init__(self, stop_in_s: Callable[[], float]) -> None:
        """Set `stop_in_s`, which returns the seconds left for the tasks once the process is
        stopping.
        """
        self._stop_in_s = stop_in_s
        self._tasks: set[asyncio.Task[None]] = set()
        self.hasty: set[PostedEvents] = set()
        """Requests answered with 202 that have unsettled events."""

    def keep(self, work: Coroutine[Any, Any, None], hasty: PostedEvents | None = None) -> None:
        """Run `work` in the background. It settles the events of `hasty`, if given."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        if hasty is not None:
            self.hasty.add(hasty)
            task.add_done_callback(lambda _: self._settle(hasty))

    async def kept(self) -> None:
        """Wait for all tasks."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def finish(self) -> None:
        """Wait for the remaining tasks as long as time is left, then cancel them."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._stop_in_s())):
                await self.kept()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        if self.hasty:
            unsettled = sum(request.unsettled for request in self.hasty)
            _log.warning(
                "%d events of %d requests that were answered with 202 may not be in the "
                "log, because the process is stopping",
                unsettled,
                len(self.hasty),
                extra={"events": unsettled},
            )
            self.hasty.clear()

    def _settle(self, hasty: PostedEvents) -> None:
        if not hasty.unsettled:
            self.hasty.discard(hasty)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("could not process posted events", exc_info=error)
