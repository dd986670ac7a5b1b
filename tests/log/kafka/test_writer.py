"""The writer of a partition, with a model of a broker that refuses records and loses answers."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import AppendRefused, LogUnavailable
from eventstreams.log.kafka.brokers import Brokers
from eventstreams.log.kafka.protocol import Produce
from eventstreams.log.kafka.records import unpack
from eventstreams.log.kafka.writer import KafkaWriter
from eventstreams.model.event import Partition, Record

HOME = Partition("t", 0)
PRODUCER = struct.Struct(">43xqh i")
"""Reads the producer's id, its epoch and the first sequence number from a batch."""
SEQUENCES = 2**31
"""The number of sequence numbers; 0 follows the largest one."""
NONE, TOO_LARGE, INVALID_TIMESTAMP, OUT_OF_ORDER = 0, 10, 32, 45


class Broker:
    """Stores what an idempotent partition stores. `fates` says what happens to its answers."""

    def __init__(self, *, bytes_max: int, names_records: bool, fates: Iterable[str]) -> None:
        self.kept: list[bytes] = []
        self._bytes_max = bytes_max
        self._names_records = names_records
        self._fates = iter(fates)
        self._next: dict[int, int] = {}
        self._seen: dict[tuple[int, int], int] = {}

    async def route(self, partitions: Iterable[Partition]) -> dict[int, list[Partition]]:
        return {1: list(partitions)}

    def forget(self, partitions: Iterable[Partition]) -> None:
        pass

    async def ask(self, lane: str, node: int, request: Any) -> Any:
        await asyncio.sleep(0)
        if not isinstance(request, Produce):
            self._next[id_ := len(self._next)] = 0
            return SimpleNamespace(error_code=NONE, producer_id=id_, producer_epoch=0)
        fate = next(self._fates, "answered")
        if fate == "not received":
            raise LogUnavailable("cut off")
        data = request.prepare({0: (3, 8)}).topics[0][1][0][1]
        answer = self._produce(data)
        if fate == "not answered":
            raise LogUnavailable("cut off")
        return answer

    def _produce(self, data: bytes) -> Any:
        values = [event.value or b"" for event in unpack(HOME, 0, data).events]
        id_, _, sequence = PRODUCER.unpack_from(data)
        bad = [n for n, value in enumerate(values) if value.startswith(b"bad")]
        if len(data) > self._bytes_max:
            return self._answer(TOO_LARGE)
        if bad:
            return self._answer(INVALID_TIMESTAMP, named=bad if self._names_records else [])
        if (id_, sequence) not in self._seen:
            if sequence != self._next[id_]:
                return self._answer(OUT_OF_ORDER)
            self._seen[id_, sequence] = len(self.kept)
            self._next[id_] = (sequence + len(values)) % SEQUENCES
            self.kept += values
        return self._answer(NONE, self._seen[id_, sequence])

    def _answer(self, code: int, offset: int = -1, named: Iterable[int] = ()) -> Any:
        errors = [(n, "dated ahead") for n in named]
        return SimpleNamespace(
            API_VERSION=8, topics=[("t", [(0, code, offset, -1, 0, errors, None)])]
        )


fates = st.lists(st.sampled_from(["answered", "not received", "not answered"]), max_size=6)
pieces = st.lists(
    st.lists(st.tuples(st.booleans(), st.integers(0, 60)), min_size=1, max_size=4), max_size=12
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(pieces, fates, st.booleans(), st.integers(500, 1500))
def test_valid_records_are_written_once_in_order_despite_errors(
    pieces: list[list[tuple[bool, int]]], fates: list[str], names_records: bool, bytes_max: int
) -> None:
    broker = Broker(bytes_max=bytes_max, names_records=names_records, fates=fates)
    offered = [
        [
            Record("t", b"%b %d %d " % (b"good" if good else b"bad", n, i) + b"x" * size)
            for i, (good, size) in enumerate(piece)
        ]
        for n, piece in enumerate(pieces)
    ]

    async def run() -> list[list[int] | BaseException]:
        writer = KafkaWriter(
            HOME,
            brokers=cast("Brokers", broker),
            settings=KafkaSettings(),
            batch_bytes_max=1000,
            retry_pause_s=0.0,
        )
        written = [writer.write(piece, time.monotonic() + 60) for piece in offered]
        return await asyncio.gather(*written, return_exceptions=True)

    outcomes = asyncio.run(run())
    good: list[bytes | None] = []
    for piece, outcome in zip(offered, outcomes, strict=True):
        if any((record.value or b"").startswith(b"bad") for record in piece):
            assert isinstance(outcome, AppendRefused)
        else:
            assert isinstance(outcome, list)
            assert [broker.kept[offset] for offset in outcome] == [r.value for r in piece]
            good += [record.value for record in piece]
    assert [value for value in broker.kept if value in set(good)] == good


def test_sequence_numbers_wrap_around_to_zero() -> None:
    broker = Broker(bytes_max=10_000, names_records=True, fates=[])

    async def run() -> None:
        writer = KafkaWriter(HOME, brokers=cast("Brokers", broker), settings=KafkaSettings())
        await writer.write([Record("t", b"first")], time.monotonic() + 60)
        writer._sequence = broker._next[0] = SEQUENCES - 1
        broker._seen.clear()  # brokers remember only the last few batches
        for value in (b"largest", b"zero", b"one"):
            await writer.write([Record("t", value)], time.monotonic() + 60)

    asyncio.run(run())
    assert broker.kept == [b"first", b"largest", b"zero", b"one"]
    assert broker._next == {0: 2}, "no new producer was needed"
