"""Record batches: encoding, decoding, and damaged or incomplete batches. No broker."""

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

from eventstreams.log.kafka.records import CODECS, pack, unpack
from eventstreams.model.event import Event, Partition, Record

WHERE = Partition("topic", 0)
RECORDS_AT = 61
"""The length of the header of a batch, in bytes."""

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
    """Return a batch as a broker stores it, with an offset, which the checksum does not cover."""
    data = pack(records, codec=codec, producer=(7, 0), sequence=0)
    return base.to_bytes(8, "big") + data[8:]


@given(some_records, st.sampled_from(sorted(CODECS)), st.integers(0, 2**40), st.integers(-5, 30))
def test_packed_records_are_unpacked_from_any_offset(
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
def test_an_incomplete_batch_is_left_for_the_next_fetch(
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
def test_a_damaged_batch_is_detected(records: list[Record], data: st.DataObject) -> None:
    batch = bytearray(packed(records, 0))
    at = data.draw(st.integers(21, len(batch) - 1))  # the checksum covers these bytes
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
    """Return the batch with a correct length and checksum."""
    body = batch[21:]
    length, checksum = len(batch) - 12, calc_crc32c(body)
    return b"".join(
        (batch[:8], length.to_bytes(4, "big"), batch[12:17], checksum.to_bytes(4, "big"), body)
    )


@given(some_records, st.sampled_from(sorted(CODECS)), st.data())
def test_damage_under_a_valid_checksum_is_detected(
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
def test_records_with_any_header_names_are_read(codec: str, skip: int, *, by_broker: bool) -> None:
    """By the protocol the names are text, but brokers do not check that."""
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


def test_damage_is_detected_beside_a_header_that_is_not_text() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, 7, 0, 0, 10_000)
    builder.append(0, 1_000, None, b"value", [("name", b"")])
    batch = bytes(builder.build()).replace(b"name", b"\xff\x00\x80\xc3")
    for at in range(RECORDS_AT, batch.index(b"value")):
        with suppress(CorruptRecordException):
            unpack(WHERE, 0, resealed(batch[:at] + b"\x7f" + batch[at + 1 :]))


def transaction(base: int, values: list[bytes], *, producer: int = 7) -> bytes:
    """Return a batch of a transaction, as a broker stores it."""
    builder = DefaultRecordBatchBuilder(2, 0, 1, producer, 0, 0, 10_000)
    for n, value in enumerate(values):
        builder.append(n, 1_000, None, value, [])
    return base.to_bytes(8, "big") + bytes(builder.build())[8:]


def marker(base: int, kind: int, *, producer: int = 7) -> bytes:
    """Return the record that ends a transaction: 0 aborts it, 1 commits it."""
    builder = DefaultRecordBatchBuilder(2, 0, 1, producer, 0, 0, 10_000)
    builder.append(0, 1_000, b"\0\0" + kind.to_bytes(2, "big"), b"\0" * 6, [])
    plain = bytes(builder.build())
    attributes = int.from_bytes(plain[21:23], "big") | 0x20  # the bit of a control batch
    changed = plain[:21] + attributes.to_bytes(2, "big") + plain[23:]
    return base.to_bytes(8, "big") + resealed(changed)[8:]


def test_an_aborted_transaction_is_skipped_up_to_its_marker() -> None:
    data = b"".join(
        (
            transaction(0, [b"0", b"1"]),
            marker(2, 1),
            transaction(3, [b"3", b"4"]),
            transaction(5, [b"5"]),
            marker(6, 0),
            transaction(7, [b"7"]),
            marker(8, 1),
        )
    )
    found = unpack(WHERE, 0, data, [(7, 3)])
    assert [event.value for event in found.events] == [b"0", b"1", b"7"]
    assert found.next == 9
