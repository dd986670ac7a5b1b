"""History below the tails, read once for everyone who catches up.

Two caches, each bounded in bytes and emptied oldest use first. Blocks hold frames by partition and
offset range, so that a thousand clients that come back together cost one read of the log and one
parse. Chunks hold bytes ready to send by want and position, so that they cost one encoding.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from eventstreams.errors import (
    LogError,
    LogTruncated,
    LogUnavailable,
    OffsetOutOfRange,
    RecordsDamaged,
)
from eventstreams.fanout.chunk import Portion
from eventstreams.fanout.tail import Run
from eventstreams.fanout.want import Want
from eventstreams.log.base import Log, Slice
from eventstreams.metrics import Metrics
from eventstreams.model.epochs import NO_EPOCH, Epochs
from eventstreams.model.event import Partition
from eventstreams.model.frame import NO_REDACTIONS, Frame
from eventstreams.model.position import Position
from eventstreams.model.redaction import Redactions

_ALIGN = 256
"""Offsets. A read starts at a multiple, so that readers a few events apart share one block."""


class Block(NamedTuple):
    """Complete from `start` to `next`."""

    start: int
    frames: list[Frame]
    next: int
    bytes: int
    epochs: Epochs
    last_epoch: int
    """Of what is directly before `next`; NO_EPOCH where that is not known."""


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
        """`outage` says why partitions are known to be out of reach, if they are: nobody's turn is
        spent on waiting for them."""
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
        """How often each was forgotten: what was read before that is of no use after."""
        self._wanted: dict[Partition, tuple[int, int]] = {}
        self._asked = asyncio.Event()

    def cached(self, partition: Partition, offset: int) -> Run | None:
        """What is held from `offset` on, if anything."""
        block = self._block(partition, offset)
        if block is None:
            return None
        frames = block.frames[bisect_left(block.frames, offset, key=_offset) :]
        return Run(frames, block.next, block.epochs, block.last_epoch)

    async def load(self, partition: Partition, offset: int, beside: int = 1) -> Run:
        """Reads on from `offset`, unless somebody else just did. Raises LogError.

        `beside` is how many partitions the caller needs blocks of at once: with many, blocks are
        smaller, so that they do not drive each other out. A run that has no frames and whose
        `next` is `offset` means the end of the log.
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
        return self.cached(partition, offset) or Run([], offset)

    def want(self, partition: Partition, offset: int, beside: int = 1) -> None:
        """Somebody will load this soon: has it read meanwhile."""
        if self._block(partition, offset) is None:
            self._wanted[partition] = offset, beside
            self._asked.set()

    async def read_ahead(self) -> None:
        """Reads what is wanted, until cancelled."""
        while True:
            self._asked.clear()
            while self._wanted:
                partition, (offset, beside) = self._wanted.popitem()
                with contextlib.suppress(LogError):  # who needs it meets the error, and tells it
                    await self.load(partition, offset, beside)
            await self._asked.wait()

    async def timestamp_before(self, partition: Partition, offset: int) -> int | None:
        """Time in ms of the record before `offset`; None where there is none near, or where it is
        damaged. Raises LogError, OffsetOutOfRange where the log no longer holds the place before
        `offset`."""
        if self.cached(partition, offset - 1) is None:
            try:
                await self.load(partition, offset - 1)
            except RecordsDamaged:
                return None
        block = self._block(partition, offset - 1)
        if block is None:
            return None
        before = bisect_left(block.frames, offset, key=_offset)
        return block.frames[before - 1].timestamp_ms if before else None

    async def epoch_before(self, partition: Partition, offset: int) -> int:
        """Epoch of the record directly before `offset`; NO_EPOCH where there is none, or the log
        has no epochs. Raises LogError, OffsetOutOfRange as `timestamp_before` does."""
        await self.timestamp_before(partition, offset)
        block = self._block(partition, offset - 1)
        if block is None:
            return NO_EPOCH
        i = bisect_left(block.frames, offset - 1, key=_offset)
        held = i < len(block.frames) and block.frames[i].offset == offset - 1
        return block.epochs.at(offset - 1) if held else NO_EPOCH

    async def require_same(self, partition: Partition, offset: int, epoch: int, run: Run) -> None:
        """Raises LogTruncated where `run`, read at `offset`, does not follow on a record of this
        epoch: other records have taken the place of those that were read. Raises LogError."""
        first = run.epochs.at(run.frames[0].offset) if run.frames else NO_EPOCH
        if first == epoch or NO_EPOCH in (first, epoch):
            return
        end = await self._log.divergence(partition, offset, epoch)
        if end is not None:
            raise LogTruncated(partition, offset, end)

    def forget(self, partition: Partition) -> None:
        """Drops what is held of a partition that is not what it was, and what is being read."""
        self._ages[partition] = self._ages.get(partition, 0) + 1
        for start in self._starts.pop(partition, []):
            self._bytes -= self._blocks.pop((partition, start)).bytes

    async def _read(self, partition: Partition, offset: int, max_bytes: int) -> None:
        start = max(offset - offset % _ALIGN, self._held_before(partition, offset))
        found = None
        if start < offset:
            # The offset itself may be kept, and whole.
            with contextlib.suppress(OffsetOutOfRange, RecordsDamaged):
                found = await self._read_and_keep(partition, start, max_bytes)
        if found is None or found.next <= offset:
            await self._read_and_keep(partition, offset, max_bytes)

    async def _read_and_keep(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        age = self._ages.get(partition)
        found = await self._log.read(partition, offset, max_bytes)
        if self._ages.get(partition) != age:
            raise LogUnavailable(
                f"{partition.topic}/{partition.number} changed while it was read", [partition]
            )
        self._keep(offset, found)
        return found

    def _held_before(self, partition: Partition, offset: int) -> int:
        """Where the block below `offset` ends, so that nothing is read twice."""
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
        frames = [Frame(event, self._redactions) for event in events]
        block = Block(
            start, frames, end, 256 + sum(frame.size for frame in frames), epochs, last_epoch
        )
        insort(starts, start)
        self._blocks[partition, start] = block
        self._bytes += block.bytes
        while self._bytes > self._bytes_max and len(self._blocks) > 1:
            (partition, start), oldest = self._blocks.popitem(last=False)
            self._starts[partition].remove(start)
            self._bytes -= oldest.bytes


_CHUNK_BYTES = 3000
"""Of a chunk and its key beside what grows: a want has a filter of 2 KB at most."""
_PARTITION_BYTES = 220
"""Three numbers in the position of the key, and in that of the chunk."""


class ChunkCache:
    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self.age = 0
        """How often it was cleared: what was made before that is not to be kept after."""
        self._chunks: OrderedDict[tuple[Want, Position, tuple[int, ...], tuple[int, ...]], Portion]
        self._chunks = OrderedDict()

    def get(self, want: Want, position: Position, ends: tuple[int, ...]) -> Portion | None:
        """The chunk from `position`, unless it goes beyond `ends`."""
        key = (want, position, position.timestamps, position.epochs)
        chunk = self._chunks.get(key)
        if chunk is None:
            return None
        moved = zip(chunk.position.offsets, position.offsets, ends, strict=True)
        if any(there > end and there != here for there, here, end in moved):
            return None
        self._chunks.move_to_end(key)
        return chunk

    def keep(self, want: Want, position: Position, chunk: Portion) -> None:
        key = (want, position, position.timestamps, position.epochs)
        if key in self._chunks:
            self._bytes -= _weight(self._chunks.pop(key))
        self._chunks[key] = chunk
        self._bytes += _weight(chunk)
        while self._bytes > self._bytes_max:
            _, oldest = self._chunks.popitem(last=False)
            self._bytes -= _weight(oldest)

    def clear(self) -> None:
        self._chunks.clear()
        self._bytes = 0
        self.age += 1


def _weight(chunk: Portion) -> int:
    """Bytes of a chunk and of its key. Both hold a position: numbers for each partition."""
    content = len(chunk.piece.content) if chunk.piece else 0
    return content + _CHUNK_BYTES + _PARTITION_BYTES * len(chunk.position.offsets)


def _offset(frame: Frame) -> int:
    return frame.offset
