"""Checkpoints advance a client's position while no event matches."""

from __future__ import annotations

import asyncio

import pytest

from eventstreams.log.memory import MemoryLog
from tests.support.client import Stream
from tests.support.fanout import Client, joined, serving
from tests.support.gateway import Site, filled
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


async def lines_until(stream: Stream, count: int, begin: bytes) -> list[bytes]:
    """Return the first `count` lines with this beginning."""
    text = b""
    while True:
        found = [line for line in text.split(b"\n") if line.startswith(begin)]
        if len(found) >= count:
            return found[:count]
        chunk = await stream.chunk()
        assert chunk is not None, text
        text += chunk


HEARTBEAT_S = 0.2


@pytest.mark.parametrize(
    ("query", "headers", "checkpoints"),
    [
        ("heartbeat=checkpoint", {}, True),
        ("heartbeat=comment", {"Sec-Fetch-Site": "same-origin"}, False),
        ("", {"Sec-Fetch-Site": "same-origin"}, True),
        ("", {}, False),
    ],
)
async def test_heartbeats_are_ids_for_browsers_and_on_request(
    embedded: Site, query: str, headers: dict[str, str], checkpoints: bool
) -> None:
    topic = await filled(embedded)
    async with (
        embedded.gateway({"s": [topic]}, heartbeat_s=HEARTBEAT_S) as gateway,
        gateway.opened(f"/v2/stream/s?{query}", headers) as stream,
    ):
        if checkpoints:
            ids = await lines_until(stream, 3, b"id: ")
            assert len(set(ids)) == 1
            assert b'"offset":4' in ids[0]
        else:
            assert await lines_until(stream, 3, b":") == [b":ok", b":", b":"]


async def test_heartbeats_advance_the_id_while_nothing_matches(embedded: Site) -> None:
    topic = await filled(embedded)
    filter_ = "filter=event.n%20%3D%3D%209"
    async with embedded.gateway({"s": [topic]}, heartbeat_s=HEARTBEAT_S) as gateway:
        async with gateway.opened(f"/v2/stream/s?{filter_}&heartbeat=checkpoint") as stream:
            assert (await stream.frame()).position == {(topic, 0): 4}
            await embedded.produce(topic, {"n": 4}, {"n": 5})
            frame = await stream.frame()
            async with asyncio.timeout(PATIENCE_S):
                while frame.position != {(topic, 0): 6}:
                    frame = await stream.frame()
            assert frame.event == "checkpoint"
        await embedded.produce(topic, {"n": 6}, {"n": 9})
        back = {"Last-Event-ID": frame.id}
        async with gateway.opened("/v2/stream/s", back) as stream:
            assert [d["n"] for d in await stream.documents(2)] == [6, 9]
        async with gateway.opened(f"/v2/stream/s?{filter_}", back) as stream:
            assert (await stream.frame()).document["n"] == 9


async def test_a_disconnect_before_the_first_event_loses_nothing(embedded: Site) -> None:
    topic = await filled(embedded)
    async with embedded.gateway({"s": [topic]}) as gateway:
        async with gateway.opened("/v2/stream/s?heartbeat=checkpoint") as stream:
            [first] = await lines_until(stream, 1, b"id: ")
        await embedded.produce(topic, {"n": 4})
        back = {"Last-Event-ID": first[4:].decode()}
        async with gateway.opened("/v2/stream/s", back) as stream:
            assert (await stream.frame()).document["n"] == 4


async def test_gap_fail_answers_a_gap_with_410(embedded: Site) -> None:
    topic = await filled(embedded, count=6)
    await embedded.forget_before(topic, 3)
    lost = {"Last-Event-ID": f'[{{"topic":"{topic}","partition":0,"offset":1,"timestamp":0}}]'}
    async with embedded.gateway({"s": [topic]}) as gateway:
        answer = await gateway.get("/v2/stream/s?gap=fail", lost)
        assert answer.status == 410
        async with gateway.opened("/v2/stream/s?gap=tell", lost) as stream:
            frame = await stream.frame()
            assert frame.event == "gap"
            assert frame.document == answer.json()
        whole = {"Last-Event-ID": lost["Last-Event-ID"].replace('"offset":1', '"offset":3')}
        async with gateway.opened("/v2/stream/s?gap=fail", whole) as stream:
            assert (await stream.frame()).document["n"] == 3


async def test_ndjson_never_contains_ids() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", accept="application/json", query="heartbeat=checkpoint")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        assert client.socket.taken == b"\n"
        client.socket.hang_up()
