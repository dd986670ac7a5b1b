"""Records next to unreadable records and batches are delivered."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from eventstreams.log.kafka.log import KafkaLog
from eventstreams.model.event import Partition, Record
from tests.support.client import Stream, connected
from tests.support.gateway import SSE
from tests.support.kafka_node import KafkaNode, own_node, require
from tests.support.kafka_tools import eventually, opened, topic_with
from tests.support.process import Gateway, over_kafka, serving_over

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


@pytest.fixture(scope="module")
def node() -> Iterator[KafkaNode]:
    with own_node() as node:
        require(node)
        yield node


@pytest.fixture
def address(node: KafkaNode) -> str:
    return require(node)


@asynccontextmanager
async def stream(gateway: Gateway, name: str, query: str = "") -> AsyncIterator[Stream]:
    async with connected(gateway.port) as client:
        await client.send("GET", f"/v2/stream/{name}{query}", SSE)
        stream = Stream(client, await client.head())
        assert stream.head.status == 200
        await stream.opened()
        yield stream


def numbered(topic: str, n: int, pad: str = "") -> Record:
    return Record(topic, json.dumps({"n": n, "pad": pad}).encode())


async def numbers(stream: Stream, count: int) -> list[int]:
    return [document["n"] for document in await stream.documents(count)]


async def append_batch(log: KafkaLog, topic: str, batch: bytes) -> None:
    """Append exactly these bytes, as other Kafka clients might."""
    [node] = await log._brokers.route([Partition(topic, 0)])
    request = ProduceRequest(None, -1, 5_000, [(topic, [(0, batch)])])
    answer = await log._brokers.ask("append", node, request)
    assert answer.topics[0][1][0][1] == 0


def with_a_header_that_is_no_text() -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 10_000)
    builder.append(0, 1_000, None, b'{"n":1}', [("name", b"")])
    batch = bytes(builder.build()).replace(b"name", b"\xff\x00\x80\xc3")
    return batch[:17] + calc_crc32c(batch[21:]).to_bytes(4, "big") + batch[21:]


BAD: dict[str, bytes] = {
    "no JSON": b"not json",
    "JSON that ends early": b'{"n":5,"a":',
    "NULs": b"\0" * 1000,
    "NULs in JSON": b'{"n":5,"a":"\0"}',
    "no UTF-8": b'{"n":5,"a":"\xff"}',
    "deep": b'{"n":' + b"[" * 500_000,
}
SURROGATES = (b'{"n":3,"a":"\\ud800","b":"\\u0000"}', b'{"n":4,"a":"\xed\xa0\x80"}')
"""An unpaired surrogate, which is sent as an escape."""


@pytest.mark.parametrize("live", [True, False], ids=["live", "from history"])
async def test_neighbours_of_poisoned_records_are_delivered(
    address: str, tmp_path: Path, *, live: bool
) -> None:
    topic = await topic_with(address)
    async with opened(address) as log:

        async def poison() -> None:
            await log.append([numbered(topic, 0)])
            await append_batch(log, topic, with_a_header_that_is_no_text())
            await log.append([numbered(topic, 2)])
            for bad in BAD.values():
                await log.append([Record(topic, bad)])
            for value in SURROGATES:
                await log.append([Record(topic, value)])
            await log.append([numbered(topic, 5)])

        if not live:
            await poison()
        async with (
            serving_over(tmp_path, over_kafka(address), {"s": [topic]}) as gateway,
            stream(gateway, "s", "" if live else "?since=earliest") as reader,
        ):
            if live:
                await poison()
            frames = await reader.frames(6)
    assert [frame.document["n"] for frame in frames] == [0, 1, 2, 3, 4, 5]
    assert [frame.place[2] for frame in frames] == [0, 1, 2, *(3 + len(BAD) + n for n in range(3))]
    assert frames[3].document["a"] == frames[4].document["a"] == "\ud800"


def damage(node: KafkaNode, topic: str, *, sealed: bool) -> None:
    """Damage the second batch on disk; if `sealed`, with a correct checksum."""
    [path] = (node.directory / "data" / f"{topic}-0").glob("*.log")
    content = bytearray(path.read_bytes())
    begin = 12 + int.from_bytes(content[8:12], "big")
    end = begin + 12 + int.from_bytes(content[begin + 8 : begin + 12], "big")
    content[begin + 61 + 4 : end] = b"\xff" * (end - begin - 65)
    if sealed:
        checksum = calc_crc32c(bytes(content[begin + 21 : end]))
        content[begin + 17 : begin + 21] = checksum.to_bytes(4, "big")
    path.write_bytes(content)


class Damaged(NamedTuple):
    """Two topics with the same records; the second batch of `bad` is damaged."""

    bad: str
    good: str


CODECS = ("gzip", "zstd")


@pytest.fixture(scope="module")
def topics(node: KafkaNode) -> dict[tuple[str, bool], Damaged]:
    """Return the topics of each codec and damage. The node restarts once for all of them."""
    found = asyncio.run(_filled(require(node)))
    node.stop()
    for (_, sealed), pair in found.items():
        damage(node, pair.bad, sealed=sealed)
    node.start()
    return found


async def _filled(address: str) -> dict[tuple[str, bool], Damaged]:
    found: dict[tuple[str, bool], Damaged] = {}
    for codec, sealed in itertools.product(CODECS, (False, True)):
        pair = Damaged(await topic_with(address), await topic_with(address))
        async with opened(address, compression=codec) as log:
            for n in range(40):
                await log.append([numbered(topic, n) for topic in pair])
        found[codec, sealed] = pair
    return found


@pytest.mark.parametrize("sealed", [False, True], ids=["bad checksum", "truncated compression"])
@pytest.mark.parametrize("codec", CODECS)
async def test_a_damaged_batch_affects_only_its_readers(
    topics: dict[tuple[str, bool], Damaged],
    address: str,
    tmp_path: Path,
    *,
    sealed: bool,
    codec: str,
) -> None:
    bad, good = topics[codec, sealed]
    streams: dict[str, Any] = {"bad": [bad], "good": [good], "both": [bad, good]}
    fanout = {"log_patience_s": 3.0}
    async with (
        opened(address) as log,
        serving_over(tmp_path, over_kafka(address), streams, fanout=fanout) as gateway,
        stream(gateway, "bad") as behind_it,
        stream(gateway, "good", "?since=earliest") as neighbour,
    ):
        assert await numbers(neighbour, 40) == list(range(40))
        async with stream(gateway, "bad", "?since=earliest") as reader:
            frames = reader.taken() or [await reader.frame()]
            while frames[-1].event == "message":
                frames.append(await reader.frame())
        *delivered, error = frames
        assert [frame.document["n"] for frame in delivered] in ([], [0])
        assert error.event == "error"
        assert error.document["name"] in ("LogCorrupt", "LogUnavailable")
        await log.append([numbered(topic, 40) for topic in (bad, good)])
        assert await numbers(neighbour, 1) == await numbers(behind_it, 1) == [40]

        async def ready() -> bool:
            return (await gateway.ask("/readyz")).status == 200

        await eventually(ready)
