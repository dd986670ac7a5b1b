"""MediaWiki's EventBus as a client: its bodies are accepted, and it understands responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.intake.eventbus import CHANGE, CREATE, STREAMS, EventBus, built, recent_change
from tests.support.intake import place

pytestmark = pytest.mark.anyio
both = pytest.mark.parametrize("mode", ["strict", "eventgate"])


def page_create() -> dict[str, Any]:
    return built("mediawiki/revision/create", CREATE)


@both
async def test_events_from_eventbus_are_stored_unchanged(tmp_path: Path, mode: str) -> None:
    sent = [page_create(), recent_change(), page_create()]
    settings = {"compatibility": mode, "topic_prefix": "codfw."}
    async with place(tmp_path, streams=STREAMS, **settings) as here:
        bus = EventBus(here)
        assert await bus.send(sent), bus.answer.text
        assert bus.answer.status_code == 201
        assert bus.answer.content == b""
        assert bus.answer.reason_phrase == "All 3 out of 3 events were accepted."
        kept = [
            *await here.documents(f"codfw.{CREATE}"),
            *await here.documents(f"codfw.{CHANGE}"),
        ]
    for before, after in zip([sent[0], sent[2], sent[1]], kept, strict=True):
        dt = after["meta"].pop("dt")
        assert dt.endswith("Z"), "set by the intake"
        assert after == before
        assert list(after) == list(before), "signatures depend on the order"


@both
async def test_failures_of_a_207_are_in_its_lists(tmp_path: Path, mode: str) -> None:
    good, bad, lost = page_create(), recent_change(), page_create()
    bad["namespace"] = "zero"
    lost["meta"]["stream"] = "nowhere"
    async with place(tmp_path, streams=STREAMS, compatibility=mode) as here:
        bus = EventBus(here)
        assert not await bus.send([good, bad, lost])
        assert bus.answer.status_code == 207
        assert set(bus.answer.json()) == {"invalid", "error"}
        assert {e["meta"]["id"] for e in bus.failed} == {bad["meta"]["id"], lost["meta"]["id"]}
        [kept] = await here.documents(f"eqiad.{CREATE}")
        assert kept["meta"]["id"] == good["meta"]["id"]


@both
async def test_when_all_are_invalid_a_400_names_them(tmp_path: Path, mode: str) -> None:
    sent = [page_create(), recent_change()]
    sent[0]["page_id"] = "one"
    sent[1]["type"] = 7
    async with place(tmp_path, streams=STREAMS, compatibility=mode) as here:
        bus = EventBus(here)
        assert not await bus.send(sent)
        assert bus.answer.status_code == 400
        assert [e["meta"]["id"] for e in bus.failed] == [e["meta"]["id"] for e in sent]
        assert "2 out of 2 events were invalid" in bus.answer.reason_phrase


@both
async def test_when_no_append_succeeds_a_500_names_the_events(tmp_path: Path, mode: str) -> None:
    sent = [page_create(), page_create()]
    async with place(tmp_path, streams=STREAMS, compatibility=mode) as here:
        await here.parts.log.aclose()
        bus = EventBus(here)
        assert not await bus.send(sent)
        assert bus.answer.status_code == 500
        assert [e["meta"]["id"] for e in bus.failed] == [e["meta"]["id"] for e in sent]
        reported = [element["context"].get("retryable") for element in bus.answer.json()["error"]]
        assert reported == ([True] if mode == "strict" else [None]) * 2


@both
async def test_one_event_and_a_thousand_are_accepted(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, streams=STREAMS, compatibility=mode) as here:
        bus = EventBus(here)
        assert await bus.send([page_create()])
        assert await bus.send([page_create() for _ in range(1000)])
        assert len(await here.documents(f"eqiad.{CREATE}")) == 1001
