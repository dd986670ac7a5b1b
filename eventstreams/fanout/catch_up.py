"""Produces batches for subscriptions that are not in a cohort.

Batches come from the tails where these reach back far enough, otherwise from the log. The number of
subscriptions that read the log at the same time is limited, and rendered batches are cached for all
of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator

from eventstreams.config.settings import FanoutSettings
from eventstreams.errors import LogError, LogUnavailable
from eventstreams.fanout.batch import EncodedBatch, encode_batch, render
from eventstreams.fanout.history import BatchCache, History, follows
from eventstreams.fanout.spec import SubscriptionSpec
from eventstreams.fanout.tails import Tails, TailSlice
from eventstreams.filters.selector import Documents
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition
from eventstreams.model.position import Position
from eventstreams.turns import Turns


class CatchUp:
    """Reads, renders and caches batches.

    `slots` limits how many clients read the log at once; `documents` holds the events that were
    parsed for selectors.
    """

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
        self._batches = BatchCache(bytes_max=settings.cache_bytes_max // 2)

    def forget(self, partition: Partition) -> None:
        """Drop cached history and batches after the records of this partition have changed."""
        self._history.forget(partition)
        self._batches.clear()

    def forget_rendered(self) -> None:
        """Drop cached batches and parsed events after the content of frames has changed."""
        self._batches.clear()
        self.documents.clear()

    async def read(
        self,
        spec: SubscriptionSpec,
        position: Position,
        ends: tuple[int, ...],
        remaining: int | None,
        *,
        client: str,
        latest: Callable[[], tuple[int, ...]] | None = None,
    ) -> EncodedBatch:
        """Return the next batch for a subscription outside a cohort, at most `remaining` events.

        Reading the log takes one of the slots; selecting and rendering the events is charged to
        the turns of the client. `latest` returns the ends as they are then: if it is given and the
        tails hold all events up to these, the batch goes up to them. Raises LogError.
        """
        held = self._held(spec, position, ends, remaining)
        if held is not None:
            return held
        age = self._batches.age
        if self._is_near(spec, position, ends):
            slices = await self._slices(spec, position, ends)
        else:
            with self._metrics.catching_up.track_inprogress():
                with self._metrics.catch_up_waiting.track_inprogress():
                    await self.slots.acquire()
                try:
                    slices = await self._slices(spec, position, ends)
                finally:
                    self.slots.release()
        return await self._render(
            spec, position, ends, remaining, slices, age=age, client=client, latest=latest
        )

    def _held(
        self,
        spec: SubscriptionSpec,
        position: Position,
        ends: tuple[int, ...],
        remaining: int | None,
    ) -> EncodedBatch | None:
        """Return the cached batch, if there is one."""
        assert position.is_behind(ends), "an empty batch at the end would be read forever"
        return self._batches.get(spec, position, ends) if remaining is None else None

    def _is_near(self, spec: SubscriptionSpec, position: Position, ends: tuple[int, ...]) -> bool:
        """Return whether the tails hold all records from `position` to `ends`."""
        return all(
            offset >= end or self._tails.floor(partition) <= offset <= self._tails.end(partition)
            for partition, offset, end in zip(spec.partitions, position.offsets, ends, strict=True)
        )

    async def prepare(
        self, spec: SubscriptionSpec, position: Position, ends: tuple[int, ...], *, client: str
    ) -> None:
        """Render the batch at `position` into the cache, if a slot to read the log is free."""
        if not position.is_behind(ends) or self.slots.locked():
            return
        if self._held(spec, position, ends, None) is not None:
            return
        age = self._batches.age
        # `read` meets the same error again and reports it.
        with contextlib.suppress(LogError):
            async with self.slots:
                slices = await self._slices(spec, position, ends)
            await self._render(spec, position, ends, None, slices, age=age, client=client)

    async def _slices(
        self, spec: SubscriptionSpec, position: Position, ends: tuple[int, ...]
    ) -> dict[int, TailSlice]:
        """Return the next slice of each partition that is behind `ends`. Raises LogError."""
        slices: dict[int, TailSlice] = {}
        for i, partition in enumerate(spec.partitions):
            offset = position.offsets[i]
            if offset >= ends[i]:
                continue
            tail_slice = self._tails.since(partition, offset)
            if tail_slice is None:
                tail_slice = await self._from_history(partition, offset, ends[i], len(ends))
            await self._history.require_same(partition, offset, position.epochs[i], tail_slice)
            slices[i] = tail_slice
            if tail_slice.next == offset:
                raise LogUnavailable(
                    f"{partition.topic}/{partition.number} ended at {offset}", [partition]
                )
        return slices

    async def _render(
        self,
        spec: SubscriptionSpec,
        position: Position,
        ends: tuple[int, ...],
        remaining: int | None,
        slices: dict[int, TailSlice],
        *,
        age: int,
        client: str,
        latest: Callable[[], tuple[int, ...]] | None = None,
    ) -> EncodedBatch:
        """Render and encode a batch in turns of the client.

        `age` is the age of the cache before the slices were read: if it has changed since, the
        batch is not cached.

        A cohort moves on while a subscription that is about to join it waits for a turn. If many
        clients wait, the subscription would never reach it. Therefore the batch goes up to the ends
        that `latest` returns once the turn has begun.
        """
        while True:
            if position.is_long and self._held(spec, position, ends, remaining) is None:
                await self._turns.pause(client)
                await self._turns.run_steps(client, position.prepare())
            async with self._turns.turn(client):
                held = self._held(spec, position, ends, remaining)
                if held is not None:  # rendered while this client waited
                    return held
                if latest is not None and (now := latest()) != ends:
                    slices, ends = self._extended(spec, position, slices, ends, now)
                rendered_at = self._batches.age
                batch = render(
                    spec,
                    position,
                    slices,
                    ends,
                    self._batch_bytes,
                    documents=self.documents,
                    remaining=remaining,
                )
                steps = encode_batch(batch, spec.encoding)
                made = _if_done(steps)
            if made is None:
                made = await self._turns.run_steps(client, steps)
            if self._batches.age == rendered_at:
                break  # otherwise the events may have been redacted meanwhile
        self._metrics.rendered(batch.skipped, batch.selecting_s)
        if self._batches.age == age and remaining is None:
            self._batches.keep(spec, position, made._replace(selecting_s=0.0))
        return made

    def _extended(
        self,
        spec: SubscriptionSpec,
        position: Position,
        slices: dict[int, TailSlice],
        ends: tuple[int, ...],
        later: tuple[int, ...],
    ) -> tuple[dict[int, TailSlice], tuple[int, ...]]:
        """Return slices up to `later`, and `later`.

        Return `slices` and `ends` unchanged if the tails do not hold all of these records.
        """
        if any(new < end for new, end in zip(later, ends, strict=True)):
            return slices, ends
        extended: dict[int, TailSlice] = {}
        for i, partition in enumerate(spec.partitions):
            offset = position.offsets[i]
            if offset >= later[i]:
                continue
            tail_slice = self._tails.since(partition, offset)
            if tail_slice is None or not follows(position.epochs[i], tail_slice):
                return slices, ends
            extended[i] = tail_slice
        return extended, later

    async def _from_history(
        self, partition: Partition, offset: int, end: int, beside: int
    ) -> TailSlice:
        tail_slice = self._history.cached(partition, offset)
        if tail_slice is None:
            tail_slice = await self._history.load(partition, offset, beside)
        if tail_slice.next < min(end, self._tails.floor(partition)):
            self._history.prefetch(partition, tail_slice.next, beside)
        return tail_slice


def _if_done(steps: Generator[None, None, EncodedBatch]) -> EncodedBatch | None:
    """Take one step; return the result if that completed the work, otherwise None."""
    try:
        next(steps)
    except StopIteration as done:
        made: EncodedBatch = done.value
        return made
    return None
