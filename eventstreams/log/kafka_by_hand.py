"""The records of a batch without their headers, which aiokafka can't read if a name is no UTF-8.

The protocol says that it is, but brokers take any, and clients exist that write any: one record of
theirs must not end a partition. No I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from aiokafka.errors import CorruptRecordException
from aiokafka.record.util import decode_varint

from eventstreams.model.event import Event, Partition

# https://kafka.apache.org/documentation/#recordbatch: base offset, (length, epoch, magic, crc,)
# attributes, (last offset delta,) base and max timestamp, (producer, sequence, count).
_HEADER = struct.Struct(">q13xh4xqq18x")
_STAMPED_BY_BROKER = 0x08


def events_by_hand(partition: Partition, offset: int, batch: bytes) -> list[Event]:
    """The events at and after `offset` of an uncompressed batch. Raises CorruptRecordException."""
    try:
        return [event for event in _events(partition, batch) if event.offset >= offset]
    except Exception as error:
        raise CorruptRecordException(f"unreadable batch: {type(error).__name__}") from error


def _events(partition: Partition, batch: bytes) -> Iterator[Event]:
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
