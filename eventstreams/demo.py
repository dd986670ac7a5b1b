"""The demo feed: appends synthetic recent changes to a stream's log at a settable rate."""

from __future__ import annotations

import asyncio
import logging
import random
import time

import orjson

from eventstreams.demo_events import RecentChanges
from eventstreams.errors import LogError
from eventstreams.log.base import Log
from eventstreams.model.event import Record
from eventstreams.model.stream import Stream

_log = logging.getLogger(__name__)

_TICK_S = 0.01  # shortest wait; above 100 events a second they go in batches
_BATCH_MAX = 500  # records in one append
_LAG_MAX_S = 1.0  # what fell due longer ago, while the log did not answer, is left out
_ROUNDING = 1e-6  # events; else one due exactly now may wait another tick
_PAUSE_S = 1.0  # after a failed append
_FIRST_TOPIC_SHARE = 0.8  # the rest is spread over the other topics, as of a second data centre


class DemoFeed:
    """Appends `rate` events a second, evenly, to the topics of `stream`."""

    def __init__(self, *, log: Log, stream: Stream, rate: float, seed: int | None = None) -> None:
        self._destination = log
        self._topics = stream.topics
        self._rate = rate
        self._events = RecentChanges(stream=stream.name, seed=seed)
        self._random = random.Random(seed)  # noqa: S311 - spreads events, keeps no secret

    async def run(self) -> None:
        """Runs until cancelled. A failed append is a warning: its events are lost, others follow.

        Events are due at `start + n / rate`, whatever an append takes, so the rate does not drift.
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
            succeeded = await self._append(count)
            await asyncio.sleep(0 if succeeded else _PAUSE_S)  # others run, however much is due

    def records(self, count: int) -> list[Record]:
        """The next `count` records, as of now."""
        now_ms = time.time_ns() // 1_000_000
        return [
            Record(
                topic=self._topic(),
                value=orjson.dumps(self._events.event(now_ms)),
                timestamp_ms=now_ms,
            )
            for _ in range(count)
        ]

    async def _append(self, count: int) -> bool:
        try:
            await self._destination.append(self.records(count))
        except LogError as error:
            _log.warning("the demo feed could not append %d events: %s", count, error)
            return False
        return True

    def _topic(self) -> str:
        first, *others = self._topics
        if not others or self._random.random() < _FIRST_TOPIC_SHARE:
            return first
        return self._random.choice(others)
