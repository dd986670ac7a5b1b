"""Batches are decompressed in bounded memory, without blocking the event loop."""

from __future__ import annotations

import asyncio
import gzip
import threading
from typing import Any

import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.errors import CorruptRecordException
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.log.base import Slice
from eventstreams.log.kafka import records
from eventstreams.log.kafka.compression import BatchTooLarge, is_compressed, without_compression
from eventstreams.log.kafka.records import CODECS, pack, unpack, unpacked
from eventstreams.model.event import Partition, Record
from tests.support.waiting import PATIENCE_S

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
def test_decompression_restores_what_was_compressed(codec: str, payload: bytes) -> None:
    batch = batch_of(payload, codec)
    assert is_compressed(batch)
    plain = without_compression(batch)
    assert not is_compressed(plain)
    assert plain[61:] == payload
    assert int.from_bytes(plain[8:12], "big") == len(plain) - 12


@codecs
@pytest.mark.parametrize("bytes_max", [1_000, 100_000, 1_000_000])
def test_a_batch_may_decompress_up_to_the_limit(codec: str, bytes_max: int) -> None:
    exact = without_compression(batch_of(bytes(bytes_max), codec), bytes_max)
    assert len(exact) == 61 + bytes_max
    for size in (bytes_max + 1, 100 * bytes_max):
        with pytest.raises(BatchTooLarge):
            without_compression(batch_of(bytes(size), codec), bytes_max)


def test_a_gzip_batch_of_several_members_is_read_completely() -> None:
    header = batch_of(b"", "gzip")[:61]
    batch = header + gzip.compress(b"abc") + gzip.compress(b"def")
    assert without_compression(batch)[61:] == b"abcdef"


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4", "snappy"])
def test_a_batch_beyond_the_limit_counts_as_damaged(codec: str) -> None:
    records = [Record("t", bytes(1 << 20), None, 1) for _ in range(65)]
    batch = pack(records, codec=codec, producer=(1, 0), sequence=0)
    with pytest.raises(CorruptRecordException, match="BatchTooLarge"):
        unpack(WHERE, 0, batch)


@pytest.mark.anyio
@pytest.mark.parametrize("codec", sorted(CODECS))
async def test_decoding_a_large_batch_does_not_block_the_event_loop(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_had_a_turn = threading.Event()

    def patient(*arguments: Any) -> Slice:
        assert loop_had_a_turn.wait(PATIENCE_S), "decoding blocks the event loop"
        return unpack(*arguments)

    monkeypatch.setattr(records, "unpack", patient)
    events = [Record("t", b"", None, 1) for _ in range(5_000)]
    batch = pack(events, codec=codec, producer=(1, 0), sequence=0)
    task = asyncio.create_task(unpacked(WHERE, 0, batch))
    await asyncio.sleep(0)  # the task starts
    loop_had_a_turn.set()
    assert len((await task).events) == 5_000
