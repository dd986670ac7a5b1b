"""Compressed batches are unpacked within bounds of memory, and beside the event loop."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.errors import CorruptRecordException
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.log.kafka_compression import BatchTooLarge, is_compressed, without_compression
from eventstreams.log.kafka_records import CODECS, pack, unpack, unpacked
from eventstreams.model.event import Partition, Record

WHERE = Partition("t", 0)
HEADER = bytes(16) + b"\x02" + bytes(44)
ENCODERS = {
    "gzip": gzip_encode,
    "snappy": snappy_encode,
    "lz4": lz4_encode,
    "zstd": zstd_encode,
    "raw snappy": lambda payload: snappy_encode(payload, xerial_compatible=False),
}
codecs = pytest.mark.parametrize("codec", sorted(ENCODERS))


def batch_of(payload: bytes, codec: str) -> bytes:
    header = bytearray(HEADER)
    header[22] = CODECS[codec.rsplit(maxsplit=1)[-1]]
    return bytes(header) + bytes(ENCODERS[codec](payload))


@codecs
@given(payload=st.binary(min_size=1, max_size=2_000) | st.integers(1, 200_000).map(bytes))
def test_what_was_compressed_comes_back(codec: str, payload: bytes) -> None:
    batch = batch_of(payload, codec)
    assert is_compressed(batch)
    plain = without_compression(batch)
    assert not is_compressed(plain)
    assert plain[61:] == payload
    assert int.from_bytes(plain[8:12], "big") == len(plain) - 12


@codecs
@pytest.mark.parametrize("bytes_max", [1_000, 100_000, 1_000_000])
def test_a_batch_may_unpack_to_the_limit_and_no_further(codec: str, bytes_max: int) -> None:
    exact = without_compression(batch_of(bytes(bytes_max), codec), bytes_max)
    assert len(exact) == 61 + bytes_max
    for size in (bytes_max + 1, 100 * bytes_max):
        with pytest.raises(BatchTooLarge):
            without_compression(batch_of(bytes(size), codec), bytes_max)


def test_a_gzip_batch_of_several_members_is_read_whole() -> None:
    header = batch_of(b"", "gzip")[:61]
    batch = header + gzip.compress(b"abc") + gzip.compress(b"def")
    assert without_compression(batch)[61:] == b"abcdef"


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4", "snappy"])
def test_a_batch_that_unpacks_to_very_much_is_damage(codec: str) -> None:
    records = [Record("t", bytes(1 << 20), None, 1) for _ in range(65)]
    batch = pack(records, codec=codec, producer=(1, 0), sequence=0)
    with pytest.raises(CorruptRecordException, match="BatchTooLarge"):
        unpack(WHERE, 0, batch)


@pytest.mark.anyio
@pytest.mark.parametrize("codec", sorted(CODECS))
async def test_the_event_loop_has_its_turns_while_a_large_batch_is_unpacked(codec: str) -> None:
    records = [Record("t", b"", None, 1) for _ in range(50_000)]
    batch = pack(records, codec=codec, producer=(1, 0), sequence=0)
    task = asyncio.create_task(unpacked(WHERE, 0, batch))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    assert len((await task).events) == 50_000
    assert turns > 5, "more than a task that never waits for anything takes"
