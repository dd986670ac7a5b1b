"""Real events of a public wiki are equal after passing through both logs and formats."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import NDJSON, Site

pytestmark = [pytest.mark.anyio, pytest.mark.shared]

EVENTS = Path(__file__).parents[3] / "shared" / "data" / "recentchange-2023-07-29.ndjson"


@pytest.fixture
def lines() -> list[bytes]:
    if not EVENTS.exists():
        pytest.skip("the real events are not beside this checkout")
    return EVENTS.read_bytes().splitlines()


def time_ms(line: bytes) -> int:
    moment = datetime.fromisoformat(json.loads(line)["meta"]["dt"])
    return int(moment.timestamp() * 1000)


def without_place(document: Any) -> Any:
    meta = {k: v for k, v in document["meta"].items() if k not in ("topic", "partition", "offset")}
    return {**document, "meta": meta}


def by_id(documents: list[Any]) -> dict[str, Any]:
    return {document["meta"]["id"]: without_place(document) for document in documents}


async def test_since_an_events_own_time_starts_at_that_event(
    site: Site, lines: list[bytes]
) -> None:
    topic = await site.topic()
    for line in lines:
        await site.produce(topic, line, timestamp_ms=time_ms(line))
    dt = json.loads(lines[50])["meta"]["dt"]
    first = next(n for n, line in enumerate(lines) if time_ms(line) >= time_ms(lines[50]))
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s", since=dt) as stream:
            frame = await stream.frame()
        async with gateway.stream("s", last_event_id=frame.id) as stream:
            following = await stream.frame()
    assert [frame.place[2], following.place[2]] == [first, first + 1]


async def test_real_events_arrive_complete_and_equal(site: Site, lines: list[bytes]) -> None:
    topics = [await site.topic(3), await site.topic(3)]
    for n, line in enumerate(lines):
        await site.produce(topics[n % 2], line, partition=n // 2 % 3)
    expected = by_id([json.loads(line) for line in lines])
    assert len(expected) == len(lines) == 100
    async with site.gateway({"mediawiki.recentchange": topics}) as gateway:
        name = "mediawiki.recentchange"
        async with gateway.stream(name, since="2023-01-01") as stream:
            frames = await stream.frames(100)
        async with gateway.stream(name, NDJSON, since="2023-01-01") as stream:
            documents = [json.loads(line) for line in await stream.lines(100)]
    assert by_id([frame.document for frame in frames]) == expected
    assert by_id(documents) == expected
    assert set(frames[-1].position.values()) == {16, 17}
    assert len(frames[-1].position) == 6
    for document in documents:
        meta = document["meta"]
        for key in ("uri", "request_id", "id", "dt", "domain", "stream"):
            assert key in meta
        assert meta["stream"] == "mediawiki.recentchange"
        assert document["$schema"]
