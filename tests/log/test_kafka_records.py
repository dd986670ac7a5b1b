"""Batches: what is packed is unpacked, and what is damaged or unfinished is noticed. No broker."""

from __future__ import annotations

from contextlib import suppress

import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.log.kafka_records import CODECS, pack, unpack
from eventstreams.model.event import Event, Partition, Record

WHERE = Partition("topic", 0)
RECORDS_AT = 61
"""Where the header of a batch ends."""

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


def resealed(batch: bytes) -> bytes:
    """With the length and the checksum that are right for it."""
    body = batch[21:]
    length, checksum = len(batch) - 12, calc_crc32c(body)
    return b"".join(
        (batch[:8], length.to_bytes(4, "big"), batch[12:17], checksum.to_bytes(4, "big"), body)
    )


@given(some_records, st.sampled_from(sorted(CODECS)), st.data())
def test_what_a_checksum_covers_and_no_decoder_reads_is_damage_as_well(
    records: list[Record], codec: str, data: st.DataObject
) -> None:
    batch = packed(records, 0, codec)
    cut = data.draw(st.integers(RECORDS_AT, len(batch)))
    batch = batch[:cut] + data.draw(st.binary(max_size=len(batch) - cut))
    try:
        found = unpack(WHERE, 0, resealed(batch))
    except CorruptRecordException:
        return
    assert found.next == len(records)


@pytest.mark.parametrize("codec", sorted(CODECS))
@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("by_broker", [False, True])
def test_headers_do_no_harm_whatever_their_names_are(
    codec: str, skip: int, *, by_broker: bool
) -> None:
    """Of the names the protocol says that they are text, and nobody looks."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, 7, 0, 0, 10_000)
    for n in range(4):
        builder.append(n, 1_000 + n, None, b"%d" % n, [("name", b"\xff"), ("none", None)])
    plain = bytes(builder.build()).replace(b"name", b"\xff\x00\x80\xc3")
    records = {
        "none": bytes,
        "gzip": gzip_encode,
        "snappy": snappy_encode,
        "lz4": lz4_encode,
        "zstd": zstd_encode,
    }[codec](plain[RECORDS_AT:])
    attributes = CODECS[codec] | (8 if by_broker else 0)
    batch = resealed(plain[:21] + attributes.to_bytes(2, "big") + plain[23:RECORDS_AT] + records)
    found = unpack(WHERE, skip, batch + packed([Record("topic", b"next", timestamp_ms=5)], 4))
    assert list(found.events) == [
        *(Event(WHERE, n, 1_003 if by_broker else 1_000 + n, b"%d" % n) for n in range(skip, 4)),
        Event(WHERE, 4, 5, b"next"),
    ]


def test_a_header_without_text_does_not_hide_damage() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, 7, 0, 0, 10_000)
    builder.append(0, 1_000, None, b"value", [("name", b"")])
    batch = bytes(builder.build()).replace(b"name", b"\xff\x00\x80\xc3")
    for at in range(RECORDS_AT, batch.index(b"value")):
        with suppress(CorruptRecordException):
            unpack(WHERE, 0, resealed(batch[:at] + b"\x7f" + batch[at + 1 :]))
