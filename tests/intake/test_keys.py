"""With producer keys, each event is accepted only for the streams of its key."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from eventstreams.config.settings import AccessSettings
from tests.support.intake import TEST, Place, event, place

pytestmark = pytest.mark.anyio

KEY, OTHER = "key-of-tests", "key-of-others"
OTHERS = "test.untitled"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@asynccontextmanager
async def keyed(folder: Path) -> AsyncIterator[Place]:
    producers = {
        name: {"keys_sha256": [hashlib.sha256(key.encode()).hexdigest()], "streams": streams}
        for name, key, streams in (("tests", KEY, ["eventstreams.*"]), ("others", OTHER, ["x"]))
    }
    file = folder / "producers.yaml"
    file.write_text(json.dumps(producers))
    async with place(folder, access=AccessSettings(producer_keys=str(file))) as its_place:
        yield its_place


@pytest.mark.parametrize("query", ["", "?hasty=true"])
async def test_posts_without_a_known_key_are_refused(tmp_path: Path, query: str) -> None:
    async with keyed(tmp_path) as its_place:
        for headers in ({}, bearer("wrong"), {"authorization": f"Basic {KEY}"}):
            refused = await its_place.post(event(), headers=headers, query=query)
            assert refused.status_code == 401
            assert "Bearer" in refused.headers["www-authenticate"]
            assert "wrong" not in refused.text
        assert await its_place.documents() == []
        assert (await its_place.post(event(), headers=bearer(KEY))).status_code == 201


async def test_a_key_allows_only_events_of_its_streams(
    tmp_path: Path,
) -> None:
    async with keyed(tmp_path) as its_place:
        mine, theirs = event("1"), event("2", stream="test.keyed")
        mixed = await its_place.post([mine, theirs], headers=bearer(KEY))
        assert mixed.status_code == 207
        [refused] = mixed.json()["invalid"] + mixed.json()["error"]
        assert refused["event"]["meta"]["stream"] == "test.keyed"
        assert (
            refused["context"]["errorsText"] == "The producer key does not allow stream test.keyed"
        )
        assert [found["test"] for found in await its_place.documents()] == ["1"]
        assert await its_place.documents("test.keyed") == []
        none = await its_place.post([mine, theirs], headers=bearer(OTHER))
        assert none.status_code in (400, 500)
        assert len(await its_place.documents()) == 1


async def test_keys_appear_in_no_log_or_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "eventstreams")
    async with keyed(tmp_path) as its_place:
        await its_place.post(event(), headers=bearer(KEY))
        await its_place.post(event(stream="none"), headers=bearer(KEY))
        await its_place.post(event(), headers=bearer("wrong-key"))
        registry = its_place.parts.metrics.registry
        shown = [str(sample) for family in registry.collect() for sample in family.samples]
        assert any(TEST in sample for sample in shown)
    said = "\n".join([*shown, *(str(vars(record)) for record in caplog.records)])
    assert KEY not in said
    assert "wrong-key" not in said
