"""Chunks for those who pull alone: from the tails where they reach, else from history, in turn.

Only so many read the log at once; what one of them had read and rendered is there for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator

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
from eventstreams.turns import Turns


class CatchUp:
    """`slots` is the turn to read the log; `documents` the events parsed for selectors."""

    def __init__(
        self,
        *,
        history: History,
        tails: Tails,
        settings: FanoutSettings,
        metrics: Metrics,
        turns: Turns,
    ) -> None:
        self.slots = asyncio.Semaphore(settings.catch_up_slots)
        self.documents = Documents()
        self._history = history
        self._tails = tails
        self._batch_bytes = settings.batch_bytes_max
        self._metrics = metrics
        self._turns = turns
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
        self,
        want: Want,
        position: Position,
        ends: tuple[int, ...],
        left: int | None,
        *,
        client: str,
    ) -> Portion:
        """Return the next chunk for one who pulls alone, at most `left` events.

        A turn to read the log is taken where that must be read; choosing and rendering the events
        takes a turn of the client. Raises LogError.
        """
        held = self._held(want, position, ends, left)
        if held is not None:
            return held
        age = self._chunks.age
        if self._is_near(want, position, ends):
            runs = await self._runs(want, position, ends)
        else:
            with self._metrics.catching_up.track_inprogress():
                with self._metrics.catch_up_waiting.track_inprogress():
                    await self.slots.acquire()
                try:
                    runs = await self._runs(want, position, ends)
                finally:
                    self.slots.release()
        return await self._render(want, position, ends, left, runs, age=age, client=client)

    def _held(
        self, want: Want, position: Position, ends: tuple[int, ...], left: int | None
    ) -> Portion | None:
        """The chunk that was made for another client."""
        assert position.is_behind(ends), "a chunk that leads nowhere would be read for ever"
        return self._chunks.get(want, position, ends) if left is None else None

    def _is_near(self, want: Want, position: Position, ends: tuple[int, ...]) -> bool:
        """Whether the tails hold all that comes next."""
        return all(
            offset >= end or self._tails.floor(partition) <= offset <= self._tails.end(partition)
            for partition, offset, end in zip(want.partitions, position.offsets, ends, strict=True)
        )

    async def prepare(
        self, want: Want, position: Position, ends: tuple[int, ...], *, client: str
    ) -> None:
        """Has the chunk after the present one made ready, if there is a turn to spare."""
        if not position.is_behind(ends) or self.slots.locked():
            return
        if self._held(want, position, ends, None) is not None:
            return
        age = self._chunks.age
        # What goes wrong is met again, and told, when it is needed.
        with contextlib.suppress(LogError):
            async with self.slots:
                runs = await self._runs(want, position, ends)
            await self._render(want, position, ends, None, runs, age=age, client=client)

    async def _runs(self, want: Want, position: Position, ends: tuple[int, ...]) -> dict[int, Run]:
        """What comes next in each partition. Raises LogError."""
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
        return runs

    async def _render(
        self,
        want: Want,
        position: Position,
        ends: tuple[int, ...],
        left: int | None,
        runs: dict[int, Run],
        *,
        age: int,
        client: str,
    ) -> Portion:
        """In turns of the client. `age` is that of the cache when the runs were not yet read."""
        async with self._turns.turn(client):
            held = self._held(want, position, ends, left)
            if held is not None:  # made while this one waited
                return held
            batch = self._batch_bytes
            chunk = render(want, position, runs, ends, batch, documents=self.documents, left=left)
            steps = portion(chunk, want.encoding)
            made = _if_done(steps)
        if made is None:
            made = await self._turns.run_steps(client, steps)
        self._metrics.rendered(chunk.skipped, chunk.selecting_s)
        if self._chunks.age == age and left is None:
            self._chunks.keep(want, position, made._replace(selecting_s=0.0))
        return made

    async def _from_history(self, partition: Partition, offset: int, end: int, beside: int) -> Run:
        run = self._history.cached(partition, offset)
        if run is None:
            run = await self._history.load(partition, offset, beside)
        if run.next < min(end, self._tails.floor(partition)):
            self._history.want(partition, run.next, beside)
        return run


def _if_done(steps: Generator[None, None, Portion]) -> Portion | None:
    """Take one step; return the result if that was all."""
    try:
        next(steps)
    except StopIteration as done:
        made: Portion = done.value
        return made
    return None
