"""Canary events appear only in streams that enable them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from eventstreams.intake.canary import canary_of
from tests.support.intake import ERRORS, TEST, place

pytestmark = pytest.mark.anyio

STREAMS = {
    TEST: {"schema_title": "test/event", "canary_events_enabled": True},
    "silent": {"schema_title": "test/event"},
    ERRORS: {"schema_title": "error"},
    "without.example": {"schema_title": "test/numbers", "canary_events_enabled": True},
    "without.schema": {"schema_title": "no/such", "canary_events_enabled": True},
    "without.title": {"canary_events_enabled": True},
    "/^pattern/": {"schema_title": "test/event", "canary_events_enabled": True},
}


async def test_canaries_are_the_first_example_of_the_schema(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        async with place(tmp_path, streams=STREAMS, canary_every_s=0.05) as here:
            accepted = {"stream": TEST, "outcome": "accepted"}
            await here.served.until("canary_events_total", 2, **accepted)
            found = await here.documents()
            assert await here.documents("silent") == []
            for name in ("without.example", "without.schema", "without.title"):
                failed = here.served.count("canary_events_total", stream=name, outcome="failed")
                assert failed >= 1
    for document in found:
        assert document["test"] == "hello"
        assert document["meta"]["stream"] == TEST
        assert document["meta"]["domain"] == "canary"
    assert len({d["meta"]["id"] for d in found}) == len(found) >= 2
    assert all(d["meta"]["dt"] > "2026-02" for d in found), "not the example's"
    for text in ("has no example", "no/such", "has no schema_title"):
        assert text in caplog.text


async def test_without_a_schedule_there_are_no_canaries(tmp_path: Path) -> None:
    async with place(tmp_path, streams=STREAMS, canary_every_s=None) as here:
        assert (
            await here.post({"$schema": "/test/event/1.0.0", "meta": {"stream": TEST}})
        ).is_success
        assert len(await here.documents()) == 1
        assert here.served.count("canary_events_total", stream=TEST, outcome="accepted") == 0


async def test_readers_can_exclude_canaries(tmp_path: Path) -> None:
    streams = {TEST: STREAMS[TEST], ERRORS: STREAMS[ERRORS]}
    async with place(tmp_path, streams=streams, canary_every_s=3600.0) as here:
        await here.served.until("canary_events_total", 1, stream=TEST, outcome="accepted")
        posted = {"$schema": "/test/event/1.0.0", "meta": {"stream": TEST}, "test": "mine"}
        assert (await here.post(posted)).status_code == 201
        for query, wanted in (("", ["hello", "mine"]), ("&canary=false", ["mine"])):
            async with here.served.opened(f"/v2/stream/{TEST}?since=earliest{query}") as stream:
                found = await stream.documents(len(wanted))
            assert [document["test"] for document in found] == wanted


def test_the_example_is_not_modified() -> None:
    example = {"meta": {"id": "x", "dt": "y", "uri": "z"}, "list": [1]}
    made = canary_of(example, "s")
    assert made == {"meta": {"uri": "z", "stream": "s", "domain": "canary"}, "list": [1]}
    assert example["meta"] == {"id": "x", "dt": "y", "uri": "z"}
    assert canary_of({"a": 1}, "s") == {"a": 1, "meta": {"stream": "s", "domain": "canary"}}
