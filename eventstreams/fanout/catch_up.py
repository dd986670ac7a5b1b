"""Chunks for those who pull alone: from the tails where they reach, else from history, in turn.

Only so many read the log at once; what one of them had read and rendered is there for the others.
"""

from __future__ import annotations

import asyncio
import contextlib

from eventstreams.errors import LogError, LogUnavailable
from eventstreams.fanout.chunk import Portion, portion, render
from eventstreams.fanout.history import ChunkCache, History
from eventstreams.fanout.selector import Documents
from eventstreams.fanout.tail import Run
from eventstreams.fanout.tails import Tails
from eventstreams.fanout.want import Want
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition
from eventstreams.model.position import Position
from eventstreams.settings import FanoutSettings


class CatchUp:
    """`slots` is the turn to read the log; `documents` the events parsed for selectors."""

    def __init__(
        self, *, history: History, tails: Tails, settings: FanoutSettings, metrics: Metrics
    ) -> None:
        self.slots = asyncio.Semaphore(settings.catch_up_slots)
        self.documents = Documents()
        self._history = history
        self._tails = tails
        self._batch_bytes = settings.batch_bytes_max
        self._metrics = metrics
        self._chunks = ChunkCache(bytes_max=settings.cache_bytes_max // 2)

    def forget(self, partition: Partition) -> None:
        """Drops what was made of a partition that is not what it was."""
        self._history.forget(partition)
        self._chunks.clear()

    def forget_rendered(self) -> None:
        """Drops what was made of frames that are not what they were."""
        self._chunks.clear()
        self.documents.clear()

    async def chunk(
        self, want: Want, position: Position, ends: tuple[int, ...], left: int | None
    ) -> Portion:
        """The next chunk for one who pulls alone, in its turn where the log must be read; at most
        `left` events. Raises LogError."""
        if self._is_near(want, position, ends):
            return await self._chunk(want, position, ends, left)
        with self._metrics.catching_up.track_inprogress():
            with self._metrics.catch_up_waiting.track_inprogress():
                await self.slots.acquire()
            try:
                return await self._chunk(want, position, ends, left)
            finally:
                self.slots.release()

    def _is_near(self, want: Want, position: Position, ends: tuple[int, ...]) -> bool:
        """Whether the tails hold all that comes next."""
        return all(
            offset >= end or self._tails.floor(partition) <= offset <= self._tails.end(partition)
            for partition, offset, end in zip(want.partitions, position.offsets, ends, strict=True)
        )

    async def prepare(self, want: Want, position: Position, ends: tuple[int, ...]) -> None:
        """Has the chunk after the present one made ready, if there is a turn to spare."""
        if not position.is_behind(ends) or self.slots.locked():
            return
        # What goes wrong is met again, and told, when it is needed.
        with contextlib.suppress(LogError):
            async with self.slots:
                await self._chunk(want, position, ends)

    async def _chunk(
        self, want: Want, position: Position, ends: tuple[int, ...], left: int | None = None
    ) -> Portion:
        assert position.is_behind(ends), "a chunk that leads nowhere would be read for ever"
        held = self._chunks.get(want, position, ends) if left is None else None
        if held is not None:
            return held
        age = self._chunks.age
        runs: dict[int, Run] = {}
        for i, partition in enumerate(want.partitions):
            offset = position.offsets[i]
            if offset >= ends[i]:
                continue
            run = self._tails.since(partition, offset)
            if run is None:
                run = await self._from_history(partition, offset, ends[i], len(ends))
            await self._history.require_same(partition, offset, position.epochs[i], run)
            runs[i] = run
            if run.next == offset:
                raise LogUnavailable(
                    f"{partition.topic}/{partition.number} ended at {offset}", [partition]
                )
        batch = self._batch_bytes
        chunk = render(want, position, runs, ends, batch, documents=self.documents, left=left)
        self._metrics.rendered(chunk.skipped, chunk.selecting_s)
        made = portion(chunk, want.encoding)
        if self._chunks.age == age and left is None:
            self._chunks.keep(want, position, made)
        return made

    async def _from_history(self, partition: Partition, offset: int, end: int, beside: int) -> Run:
        run = self._history.cached(partition, offset)
        if run is None:
            run = await self._history.load(partition, offset, beside)
        if run.next < min(end, self._tails.floor(partition)):
            self._history.want(partition, run.next, beside)
        return run
