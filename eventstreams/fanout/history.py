"""Reads records older than the tails, once for all clients that catch up.

There are two caches, each limited in bytes; both evict the least recently used entry. Blocks hold
frames by partition and offset range, so that a thousand clients that return together cause one read
of the log and one parse. Batches hold bytes ready to send by spec and position, so that they are
encoded once.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from eventstreams.errors import (
    LogError,
    LogTruncated,
    LogUnavailable,
    OffsetOutOfRange,
    RecordsDamaged,
)
from eventstreams.fanout.batch import EncodedBatch
from eventstreams.fanout.spec import SubscriptionSpec
from eventstreams.fanout.tails import TailSlice
from eventstreams.log.base import Log, Slice
from eventstreams.metrics import Metrics
from eventstreams.model.epochs import NO_EPOCH, Epochs
from eventstreams.model.event import EventRun, Partition
from eventstreams.model.frame import FRAME_OVERHEAD_BYTES, NO_REDACTIONS, Frame
from eventstreams.model.frame_run import FrameRun, index_of
from eventstreams.model.position import Position
from eventstreams.model.redaction import Redactions

_ALIGN = 256
"""Reads start at a multiple of this offset, so that readers a few events apart share a block."""


class Block(NamedTuple):
    """All frames of a partition from offset `start` up to, not including, `next`."""

    start: int
    frames: Sequence[Frame]
    next: int
    bytes: int
    epochs: Epochs
    last_epoch: int
    """The epoch directly before `next`; NO_EPOCH if it is not known."""


def follows(epoch: int, tail_slice: TailSlice) -> bool:
    """Return whether the slice may follow a record of this epoch, as far as that is known."""
    first = tail_slice.epochs.at(tail_slice.frames[0].offset) if tail_slice.frames else NO_EPOCH
    return first == epoch or NO_EPOCH in (first, epoch)


class History:
    def __init__(
        self,
        *,
        log: Log,
        block_bytes: int,
        bytes_max: int,
        metrics: Metrics,
        outage: Callable[[list[Partition]], LogUnavailable | None] = lambda _: None,
        redactions: Redactions = NO_REDACTIONS,
    ) -> None:
        """Create an empty cache over `log`.

        `outage` returns the error for partitions that are known to be unreachable, so that no time
        is spent on waiting for them. A block takes up to `block_bytes`, all blocks `bytes_max`.
        """
        self._log = log
        self._outage = outage
        self._redactions = redactions
        self._block_bytes = block_bytes
        self._shared_bytes = bytes_max // 4
        self._bytes_max = bytes_max
        self._metrics = metrics
        self._bytes = 0
        self._blocks: OrderedDict[tuple[Partition, int], Block] = OrderedDict()
        self._starts: dict[Partition, list[int]] = {}
        self._reading: dict[Partition, asyncio.Lock] = {}
        self._ages: dict[Partition, int] = {}
        """How many times each partition was forgotten. Reads that began before are discarded."""
        self._wanted: dict[Partition, tuple[int, int]] = {}
        self._asked = asyncio.Event()

    def cached(self, partition: Partition, offset: int) -> TailSlice | None:
        """Return the cached frames from `offset` on, or None if `offset` is not in the cache."""
        block = self._block(partition, offset)
        if block is None:
            return None
        frames = block.frames[index_of(block.frames, offset) :]
        return TailSlice(frames, block.next, block.epochs, block.last_epoch)

    async def load(self, partition: Partition, offset: int, beside: int = 1) -> TailSlice:
        """Return frames from `offset` on, read from the log unless they are in the cache.

        `beside` is how many partitions the caller needs blocks of at once: the more there are, the
        smaller the blocks, so that they do not evict each other. A slice without frames whose
        `next` equals `offset` means the end of the log. Raises LogError.
        """
        lock = self._reading.setdefault(partition, asyncio.Lock())
        async with lock:
            held = self.cached(partition, offset)
            self._metrics.history_reads.labels("shared" if held else "log").inc()
            if held is not None:
                return held
            if error := self._outage([partition]):
                raise error
            await self._read(
                partition, offset, min(self._block_bytes, self._shared_bytes // beside)
            )
        return self.cached(partition, offset) or TailSlice([], offset)

    def prefetch(self, partition: Partition, offset: int, beside: int = 1) -> None:
        """Read a block that will be needed soon in the background, unless it is cached."""
        if self._block(partition, offset) is None:
            self._wanted[partition] = offset, beside
            self._asked.set()

    async def read_ahead(self) -> None:
        """Read the blocks that `prefetch` has requested, until cancelled."""
        while True:
            self._asked.clear()
            while self._wanted:
                partition, (offset, beside) = self._wanted.popitem()
                with contextlib.suppress(LogError):  # `load` raises it again for the client
                    await self.load(partition, offset, beside)
            await self._asked.wait()

    async def timestamp_before(self, partition: Partition, offset: int) -> int | None:
        """Return the timestamp of the record before `offset` in ms.

        Return None if there is no such record nearby, or if it is damaged. Raises OffsetOutOfRange
        if the log no longer holds `offset - 1`, or another LogError.
        """
        if self.cached(partition, offset - 1) is None:
            try:
                await self.load(partition, offset - 1)
            except RecordsDamaged:
                return None
        block = self._block(partition, offset - 1)
        if block is None:
            return None
        before = index_of(block.frames, offset)
        return block.frames[before - 1].timestamp_ms if before else None

    async def epoch_before(self, partition: Partition, offset: int) -> int:
        """Return the epoch of the record directly before `offset`.

        Return NO_EPOCH if there is no such record, or if the log has no epochs. Raises LogError and
        OffsetOutOfRange as `timestamp_before` does.
        """
        await self.timestamp_before(partition, offset)
        block = self._block(partition, offset - 1)
        if block is None:
            return NO_EPOCH
        i = index_of(block.frames, offset - 1)
        held = i < len(block.frames) and block.frames[i].offset == offset - 1
        return block.epochs.at(offset - 1) if held else NO_EPOCH

    async def require_same(
        self, partition: Partition, offset: int, epoch: int, tail_slice: TailSlice
    ) -> None:
        """Check that `tail_slice`, read at `offset`, follows a record of this epoch.

        Raises LogTruncated if other records have replaced those that were read before, and
        LogError if the log cannot be read.
        """
        if follows(epoch, tail_slice):
            return
        end = await self._log.divergence(partition, offset, epoch)
        if end is not None:
            raise LogTruncated(partition, offset, end)

    def forget(self, partition: Partition) -> None:
        """Drop the blocks of a partition whose records have changed, and reads in progress."""
        self._ages[partition] = self._ages.get(partition, 0) + 1
        for start in self._starts.pop(partition, []):
            self._bytes -= self._blocks.pop((partition, start)).bytes

    async def _read(self, partition: Partition, offset: int, max_bytes: int) -> None:
        start = max(offset - offset % _ALIGN, self._held_before(partition, offset))
        found = None
        if start < offset:
            # Even if earlier records are gone or damaged, `offset` itself may be readable.
            with contextlib.suppress(OffsetOutOfRange, RecordsDamaged):
                found = await self._read_and_keep(partition, start, max_bytes)
        if found is None or found.next <= offset:
            await self._read_and_keep(partition, offset, max_bytes)

    async def _read_and_keep(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        age = self._ages.get(partition)
        found = await self._log.read(partition, offset, max_bytes)
        if self._ages.get(partition) != age:
            raise LogUnavailable(
                f"{partition.topic}/{partition.number} changed while it was being read", [partition]
            )
        self._keep(offset, found)
        return found

    def _held_before(self, partition: Partition, offset: int) -> int:
        """Return the end of the cached block before `offset`, so that nothing is read twice."""
        starts = self._starts.get(partition, [])
        i = bisect_right(starts, offset)
        return self._blocks[partition, starts[i - 1]].next if i else 0

    def _block(self, partition: Partition, offset: int) -> Block | None:
        starts = self._starts.get(partition)
        if not starts:
            return None
        i = bisect_right(starts, offset)
        if not i:
            return None
        block = self._blocks[partition, starts[i - 1]]
        if offset >= block.next:
            return None
        self._blocks.move_to_end((partition, block.start))
        return block

    def _keep(self, start: int, found: Slice) -> None:
        partition, events, end, epochs = found
        self._metrics.history_events.inc(len(events))
        last_epoch = epochs.at(end - 1)
        starts = self._starts.setdefault(partition, [])
        following = bisect_left(starts, start)
        if following < len(starts) and starts[following] < end:
            end = starts[following]
            last_epoch = NO_EPOCH
            events = events[: bisect_left(events, end, key=lambda event: event.offset)]
        if end <= start:
            return
        frames: Sequence[Frame]
        if isinstance(events, EventRun):
            frames = FrameRun.of(events, self._redactions)
            size = FRAME_OVERHEAD_BYTES * len(events) + sum(map(len, events.values))
        else:
            frames = [Frame(event, self._redactions) for event in events]
            size = sum(frame.size for frame in frames)
        block = Block(start, frames, end, 256 + size, epochs, last_epoch)
        insort(starts, start)
        self._blocks[partition, start] = block
        self._bytes += block.bytes
        while self._bytes > self._bytes_max and len(self._blocks) > 1:
            (partition, start), oldest = self._blocks.popitem(last=False)
            self._starts[partition].remove(start)
            self._bytes -= oldest.bytes


_BATCH_BYTES = 3000
"""Size of a batch and its key without content and positions. A filter has at most 2 KB."""
_PARTITION_BYTES = 220
"""Three numbers for each partition, in the key's position and in that of the batch."""


class BatchCache:
    """Encoded batches by spec and position, limited in bytes."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self.age = 0
        """How often the cache was cleared. Batches made from older data must not be kept."""
        self._batches: OrderedDict[
            tuple[SubscriptionSpec, Position, tuple[int, ...], tuple[int, ...]], EncodedBatch
        ]
        self._batches = OrderedDict()

    def get(
        self, spec: SubscriptionSpec, position: Position, ends: tuple[int, ...]
    ) -> EncodedBatch | None:
        """Return the batch from `position`, unless it goes beyond `ends`."""
        key = (spec, position, position.timestamps, position.epochs)
        batch = self._batches.get(key)
        if batch is None:
            return None
        moved = zip(batch.position.offsets, position.offsets, ends, strict=True)
        if any(there > end and there != here for there, here, end in moved):
            return None
        self._batches.move_to_end(key)
        return batch

    def keep(self, spec: SubscriptionSpec, position: Position, batch: EncodedBatch) -> None:
        key = (spec, position, position.timestamps, position.epochs)
        if key in self._batches:
            self._bytes -= _weight(self._batches.pop(key))
        self._batches[key] = batch
        self._bytes += _weight(batch)
        while self._bytes > self._bytes_max:
            _, oldest = self._batches.popitem(last=False)
            self._bytes -= _weight(oldest)

    def clear(self) -> None:
        self._batches.clear()
        self._bytes = 0
        self.age += 1


def _weight(batch: EncodedBatch) -> int:
    """Return the bytes taken by a batch and its key, each of which holds a position."""
    content = len(batch.piece.content) if batch.piece else 0
    return content + _BATCH_BYTES + _PARTITION_BYTES * len(batch.position.offsets)
