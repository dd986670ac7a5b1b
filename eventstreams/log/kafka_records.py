"""Record batches: bytes of a fetch into events, and records into the bytes of a produce. No I/O.

Why not aiokafka's consumer, which does the same: see docs/decisions/0003-kafka-reads.md. What is
easily missed here: `next` comes from the batch, not from its last record, since compaction and
transactions leave batches with fewer records than offsets, or none.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence
from typing import Any, cast

from aiokafka.errors import CorruptRecordException
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from eventstreams.log.base import Slice
from eventstreams.log.kafka_by_hand import events_by_hand
from eventstreams.log.kafka_compression import is_compressed, without_compression
from eventstreams.model.epochs import NO_EPOCH, Epochs
from eventstreams.model.event import Event, Partition, Record

_AT_ONCE_BYTES = 16 * 1024
"""So much is unpacked in some 2 ms, even where the records are empty."""
_LENGTH = struct.Struct(">i")
_LENGTH_AT = 8
_EPOCH_AT = 12

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

# What a batch needs beside keys and values, at most: the record's own lengths and deltas.
RECORD_OVERHEAD_BYTES = 32


def unpack(
    partition: Partition,
    offset: int,
    data: bytes,
    aborted: Iterable[tuple[int, int]] | None = None,
) -> Slice:
    """The events at and after `offset` in a fetched run of batches.

    `aborted` holds (producer id, first offset) of the transactions in this run that were given up;
    None reads them too. An unfinished batch at the end is left for the next fetch. Raises
    CorruptRecordException, an error of aiokafka's.
    """
    events: list[Event] = []
    following = offset
    given_up = _GivenUp(aborted)
    starts: list[int] = []
    epochs: list[int] = []
    batches: Any = MemoryRecords(data)
    begin = 0
    while batches.has_next():
        batch = batches.next_batch()
        if not batch.validate_crc():
            raise CorruptRecordException(f"damaged batch at or after offset {following}")
        end = begin + _LENGTH_AT + 4 + _LENGTH.unpack_from(data, begin + _LENGTH_AT)[0]
        if not given_up.holds(batch) and not batch.is_control_batch:
            try:
                events += _read(partition, offset, batch, data[begin:end])
            except Exception as error:  # each decompressor has errors of its own
                raise CorruptRecordException(
                    f"unreadable batch at or after offset {following}: {type(error).__name__}"
                ) from error
        if batch.next_offset > following:
            epoch = NO_EPOCH if _is_old(batch) else _epoch(data, begin)
            if epochs[-1:] != [epoch]:
                starts.append(following)
                epochs.append(epoch)
            following = batch.next_offset
        begin = end
    return Slice(partition, events, following, Epochs(tuple(starts), tuple(epochs)))


async def unpacked(
    partition: Partition,
    offset: int,
    data: bytes,
    aborted: Iterable[tuple[int, int]] | None = None,
) -> Slice:
    """As `unpack`, in a thread where that takes long, so that the event loop has its turns."""
    if len(data) <= _AT_ONCE_BYTES and not is_compressed(data):
        return unpack(partition, offset, data, aborted)
    return await asyncio.to_thread(unpack, partition, offset, data, aborted)


def _read(partition: Partition, offset: int, batch: Any, whole: bytes) -> list[Event]:
    if is_compressed(whole):
        whole = without_compression(whole)
        batch = cast("Any", MemoryRecords(whole)).next_batch()
    try:
        return _events(partition, offset, batch)
    except UnicodeDecodeError:
        return events_by_hand(partition, offset, whole)


def _epoch(data: bytes, batch_at: int) -> int:
    """Return the epoch of the leader that wrote the batch which begins at `batch_at`."""
    return int(_LENGTH.unpack_from(data, batch_at + _EPOCH_AT)[0])


def _events(partition: Partition, offset: int, batch: Any) -> list[Event]:
    if not _is_old(batch) and batch.base_offset >= offset:  # nearly always
        return [Event(partition, r.offset, r.timestamp, r.value, r.key) for r in batch]
    return [
        Event(partition, r.offset, _milliseconds(r.timestamp), r.value, r.key)
        for r in batch
        if r.offset >= offset
    ]


class _GivenUp:
    """Which batches belong to aborted transactions, as org.apache.kafka's CompletedFetch finds it.

    A producer's batches are dropped from the first offset of its aborted transaction on until the
    marker that ends it.
    """

    def __init__(self, aborted: Iterable[tuple[int, int]] | None) -> None:
        self._coming = sorted(aborted or (), key=lambda one: -one[1])
        self._producers: set[int] = set()

    def holds(self, batch: Any) -> bool:
        if _is_old(batch) or not (self._coming or self._producers):
            return False
        while self._coming and self._coming[-1][1] <= batch.base_offset:
            self._producers.add(self._coming.pop()[0])
        if batch.is_control_batch:
            if ControlRecord.parse(next(batch).key) == ABORT_MARKER:
                self._producers.discard(batch.producer_id)
            return False
        return bool(batch.is_transactional) and batch.producer_id in self._producers


def _is_old(batch: Any) -> bool:
    """Whether it is of the formats before Kafka 0.11, which know no producers."""
    return batch.producer_id is None


def _milliseconds(timestamp: int | None) -> int:
    return -1 if timestamp is None else timestamp  # the oldest message format has none


def size_of(record: Record) -> int:
    """Bytes a record takes in a batch, at most and before compression."""
    return RECORD_OVERHEAD_BYTES + len(record.value or b"") + len(record.key or b"")


def pack(
    records: Sequence[Record], *, codec: str, producer: tuple[int, int], sequence: int
) -> bytes:
    """One batch, however large. `producer` is (id, epoch); records without a time get now."""
    size = sum(map(size_of, records)) + 1024
    builder: Any = DefaultRecordBatchBuilder(
        2, CODECS[codec], 0, producer[0], producer[1], sequence, size
    )
    for index, record in enumerate(records):
        kept = builder.append(index, record.timestamp_ms, record.key, record.value, [])
        assert kept is not None, "the batch was made large enough"
    return bytes(builder.build())
