"""Decodes the record batches of a fetch into events, and encodes records for a produce. No I/O.

docs/decisions/0003-kafka-reads.md says why this is not left to aiokafka's consumer. Easy to get
wrong: `next` comes from the batch, not from its last record, because compaction and transactions
leave batches with fewer records than offsets, or with none.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from aiokafka.errors import CorruptRecordException
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint

from eventstreams.log.base import Slice
from eventstreams.log.kafka.compression import is_compressed, without_compression
from eventstreams.model.epochs import NO_EPOCH, Epochs
from eventstreams.model.event import Event, Partition, Record

_AT_ONCE_BYTES = 16 * 1024
"""Up to this size, decoding takes about 2 ms at most, even if all records are empty."""
_LENGTH = struct.Struct(">i")
_LENGTH_AT = 8
_EPOCH_AT = 12

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

RECORD_OVERHEAD_BYTES = 32
"""The most bytes that a record takes in a batch besides key and value, for lengths and deltas."""


def unpack(
    partition: Partition,
    offset: int,
    data: bytes,
    aborted: Iterable[tuple[int, int]] | None = None,
) -> Slice:
    """Return the events at and after `offset` in fetched batches.

    `aborted` holds (producer id, first offset) of the transactions that were aborted; if it is
    None, their records are returned too. An incomplete batch at the end is ignored; the next fetch
    returns it again. Raises CorruptRecordException, which is an error of aiokafka.
    """
    events: list[Event] = []
    following = offset
    skipped = _Aborted(aborted)
    starts: list[int] = []
    epochs: list[int] = []
    batches: Any = MemoryRecords(data)
    begin = 0
    while batches.has_next():
        batch = batches.next_batch()
        if not batch.validate_crc():
            raise CorruptRecordException(f"damaged batch at or after offset {following}")
        end = begin + _LENGTH_AT + 4 + _LENGTH.unpack_from(data, begin + _LENGTH_AT)[0]
        if not skipped.holds(batch) and not batch.is_control_batch:
            try:
                events += _read(partition, offset, batch, data[begin:end])
            except Exception as error:  # each decompressor has its own errors
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
    """Call `unpack`, in a thread if it may take long, so that it does not block the event loop."""
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


class _Aborted:
    """Finds the batches of aborted transactions, as CompletedFetch of org.apache.kafka does.

    The batches of a producer are dropped from the first offset of its aborted transaction to the
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
    """Return whether the batch has a format older than Kafka 0.11, without producers."""
    return batch.producer_id is None


def _milliseconds(timestamp: int | None) -> int:
    return -1 if timestamp is None else timestamp  # the oldest format has no timestamps


def size_of(record: Record) -> int:
    """Return how many bytes a record takes in a batch at most, before compression."""
    return RECORD_OVERHEAD_BYTES + len(record.value or b"") + len(record.key or b"")


def pack(
    records: Sequence[Record], *, codec: str, producer: tuple[int, int], sequence: int
) -> bytes:
    """Encode one batch of any size. `producer` is (id, epoch). Records without a timestamp get the
    current time."""
    size = sum(map(size_of, records)) + 1024
    builder: Any = DefaultRecordBatchBuilder(
        2, CODECS[codec], 0, producer[0], producer[1], sequence, size
    )
    for index, record in enumerate(records):
        kept = builder.append(index, record.timestamp_ms, record.key, record.value, [])
        assert kept is not None, "the batch was made large enough"
    return bytes(builder.build())


# https://kafka.apache.org/documentation/#recordbatch: base offset, (length, epoch, magic, crc,)
# attributes, (last offset delta,) base and max timestamp, (producer, sequence, count).
_HEADER = struct.Struct(">q13xh4xqq18x")
_STAMPED_BY_BROKER = 0x08


def events_by_hand(partition: Partition, offset: int, batch: bytes) -> list[Event]:
    """Return the events at and after `offset` of an uncompressed batch, without aiokafka.

    Raises CorruptRecordException.
    """
    try:
        return [event for event in _events_by_hand(partition, batch) if event.offset >= offset]
    except Exception as error:
        raise CorruptRecordException(f"unreadable batch: {type(error).__name__}") from error


def _events_by_hand(partition: Partition, batch: bytes) -> Iterator[Event]:
    base, attributes, first_ms, last_ms = _HEADER.unpack_from(batch)
    records = bytearray(batch[_HEADER.size :])
    at = 0
    while at < len(records):
        length, begin = decode_varint(records, at)
        at = begin + length
        if not begin < at <= len(records):
            raise ValueError("longer than its batch")
        delta_ms, place = decode_varint(records, begin + 1)  # behind the attributes
        number, place = decode_varint(records, place)
        key, place = _nullable(records, place, at)
        value, _ = _nullable(records, place, at)
        time_ms = last_ms if attributes & _STAMPED_BY_BROKER else first_ms + delta_ms
        yield Event(partition, base + number, time_ms, value, key)


def _nullable(records: bytearray, at: int, end: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(records, at)
    if length < 0:
        return None, at
    if at + length > end:
        raise ValueError("longer than its record")
    return bytes(records[at : at + length]), at + length
