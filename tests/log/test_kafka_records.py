"""Batches: what is packed is unpacked, and what is damaged or unfinished is noticed. No broker."""

from __future__ import annotations

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.log.kafka_records import CODECS, pack, unpack
from eventstreams.model.event import Event, Partition, Record

WHERE = Partition("topic", 0)

some_bytes = st.none() | st.binary(max_size=300)
some_records = st.lists(
    st.builds(
        Record,
        topic=st.just("topic"),
        value=some_bytes,
        key=some_bytes,
        timestamp_ms=st.integers(0, 2**41),
    ),
    min_size=1,
    max_size=20,
)


def packed(records: list[Record], base: int, codec: str = "none") -> bytes:
    """A batch as the broker keeps it: with the offset it gave it, which no checksum covers."""
    data = pack(records, codec=codec, producer=(7, 0), sequence=0)
    return base.to_bytes(8, "big") + data[8:]


@given(some_records, st.sampled_from(sorted(CODECS)), st.integers(0, 2**40), st.integers(-5, 30))
def test_what_is_packed_is_unpacked_from_any_offset(
    records: list[Record], codec: str, base: int, skip: int
) -> None:
    offset = max(0, base + skip)
    found = unpack(WHERE, offset, packed(records, base, codec), [])
    expected = [
        Event(WHERE, base + n, record.timestamp_ms or 0, record.value, record.key)
        for n, record in enumerate(records)
    ]
    assert list(found.events) == [event for event in expected if event.offset >= offset]
    assert found.next == max(offset, base + len(records))


@given(st.lists(some_records, min_size=1, max_size=4), st.data())
def test_a_batch_cut_off_is_left_for_the_next_fetch(
    batches: list[list[Record]], data: st.DataObject
) -> None:
    run, starts, base = b"", [0], 0
    ends = [0]
    for records in batches:
        run += packed(records, base)
        base += len(records)
        starts.append(base)
        ends.append(len(run))
    cut = data.draw(st.integers(0, len(run)))
    found = unpack(WHERE, 0, run[:cut])
    whole = max(n for n, end in enumerate(ends) if end <= cut)
    assert found.next == len(found.events) == starts[whole]


@given(some_records, st.data())
def test_a_damaged_batch_is_noticed(records: list[Record], data: st.DataObject) -> None:
    batch = bytearray(packed(records, 0))
    at = data.draw(st.integers(21, len(batch) - 1))  # what the checksum covers
    batch[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptRecordException):
        unpack(WHERE, 0, bytes(batch))


def test_batches_of_the_old_format_are_read() -> None:
    builder = LegacyRecordBatchBuilder(magic=1, compression_type=0, batch_size=10_000)
    for n in range(3):
        builder.append(n, 1_000 + n, b"k", b"%d" % n)
    found = unpack(WHERE, 1, bytes(builder.build()), [(7, 0)])
    assert list(found.events) == [Event(WHERE, n, 1_000 + n, b"%d" % n, b"k") for n in (1, 2)]
    assert found.next == 3
