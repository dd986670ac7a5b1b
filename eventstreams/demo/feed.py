"""The demo feed: appends synthetic recent changes, and new pages, at a settable rate."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any

import orjson

from eventstreams.demo.recent_changes import RecentChanges, page_created
from eventstreams.errors import LogError
from eventstreams.log.base import Log
from eventstreams.model.catalogue import Stream
from eventstreams.model.event import Record

_log = logging.getLogger(__name__)

_TICK_S = 0.01  # shortest wait; above 100 events a second, they are appended in batches
_BATCH_MAX = 500  # records in one append
_LAG_MAX_S = 1.0  # seconds; events overdue by more, because the log did not answer, are skipped
_ROUNDING = 1e-6  # events; without it, an event due exactly now might wait for the next tick
_PAUSE_S = 1.0  # after a failed append
_FIRST_TOPIC_SHARE = 0.8  # other topics share the rest, as those of a second data centre would


class DemoFeed:
    """Appends `rate` recent changes a second, evenly spaced, to the topics of `stream`.

    With `new_pages`, each change that makes a page is followed by an event in that stream.
    """

    def __init__(
        self,
        *,
        log: Log,
        stream: Stream,
        rate: float,
        new_pages: Stream | None = None,
        seed: int | None = None,
    ) -> None:
        self._destination = log
        self._stream = stream
        self._new_pages = new_pages
        self._rate = rate
        self._events = RecentChanges(stream=stream.name, seed=seed)
        self._random = random.Random(seed)  # noqa: S311 - spreads events, keeps no secret

    async def run(self) -> None:
        """Append events until cancelled. A failed append is logged, and its events are lost.

        Events are due at `start + n / rate`, however long an append takes, so the rate does not
        drift.
        """
        if self._rate <= 0:
            return
        clock = asyncio.get_running_loop().time
        start, done = clock(), 0
        while True:
            now = clock()
            due = int((now - start) * self._rate + _ROUNDING) + 1 - done
            if due > max(1, self._rate * _LAG_MAX_S):
                start, done, due = now, 0, 1
            if due <= 0:
                await asyncio.sleep(max(_TICK_S, start + done / self._rate - now))
                continue
            count = min(due, _BATCH_MAX)
            done += count
            if not await self._append(count):
                await asyncio.sleep(_PAUSE_S)
            elif count < due:
                await asyncio.sleep(0)  # lets other tasks run, however much is due

    def records(self, count: int) -> list[Record]:
        """Return the records of the next `count` recent changes, with the current time."""
        now_ms = time.time_ns() // 1_000_000
        records: list[Record] = []
        for _ in range(count):
            change = self._events.event(now_ms)
            records.append(self._record(self._stream, change, now_ms))
            if self._new_pages is not None and change["type"] == "new":
                created = page_created(change, stream=self._new_pages.name)
                records.append(self._record(self._new_pages, created, now_ms))
        return records

    async def _append(self, count: int) -> bool:
        try:
            await self._destination.append(self.records(count))
        except LogError as error:
            _log.warning("the demo feed could not append %d events: %s", count, error)
            return False
        return True

    def _record(self, stream: Stream, event: dict[str, Any], now_ms: int) -> Record:
        value = orjson.dumps(event)
        return Record(topic=self._topic(stream), value=value, timestamp_ms=now_ms)

    def _topic(self, stream: Stream) -> str:
        first, *others = stream.topics
        if not others or self._random.random() < _FIRST_TOPIC_SHARE:
            return first
        return self._random.choice(others)
