"""A hundred real events of a public wiki, through both logs and both formats, equal as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.web.gateway import NDJSON, Site

pytestmark = [pytest.mark.anyio, pytest.mark.shared]

EVENTS = Path(__file__).parents[3] / "shared" / "data" / "recentchange-2023-07-29.ndjson"


@pytest.fixture
def lines() -> list[bytes]:
    if not EVENTS.exists():
        pytest.skip("the real events are not beside this checkout")
    return EVENTS.read_bytes().splitlines()


def without_place(document: Any) -> Any:
    meta = {k: v for k, v in document["meta"].items() if k not in ("topic", "partition", "offset")}
    return {**document, "meta": meta}


def by_id(documents: list[Any]) -> dict[str, Any]:
    return {document["meta"]["id"]: without_place(document) for document in documents}


async def test_a_hundred_real_events_come_out_complete_and_equal(
    site: Site, lines: list[bytes]
) -> None:
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
