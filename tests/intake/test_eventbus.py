"""MediaWiki's EventBus as a client: its bodies are taken, and its reading of answers holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.intake.place import SHIPPED, Place, place

pytestmark = pytest.mark.anyio
both = pytest.mark.parametrize("mode", ["strict", "eventgate"])

CREATE = "mediawiki.page-create"
CHANGE = "mediawiki.recentchange"
STREAMS = {
    CREATE: {"schema_title": "mediawiki/revision/create", "topic_prefixes": ["eqiad.", "codfw."]},
    CHANGE: {"schema_title": "mediawiki/recentchange", "topic_prefixes": ["eqiad.", "codfw."]},
    "eventstreams.error": {"schema_title": "error"},
}


def example(title: str) -> dict[str, Any]:
    [newest] = sorted((SHIPPED / title).glob("latest.json"))
    document = json.loads(newest.read_text())
    return {**document["examples"][0], "$schema": document["$id"]}


def built(title: str, stream: str) -> dict[str, Any]:
    """As EventFactory does: an id, a request id, a domain and a URI, but no meta.dt."""
    event = {**example(title), "comment": "Ünïcode / \u2028 and \\ more"}
    event["meta"] = {
        "uri": "https://test.wikipedia.org/wiki/%C3%9Cn%C3%AFcode",
        "request_id": str(uuid4()),
        "id": str(uuid4()),
        "domain": "test.wikipedia.org",
        "stream": stream,
    }
    return event


def page_create() -> dict[str, Any]:
    return built("mediawiki/revision/create", CREATE)


def recent_change() -> dict[str, Any]:
    return built("mediawiki/recentchange", CHANGE)


class EventBus:
    """Its `send`: one POST of a list; 207 and from 300 on is failure; the events that failed are
    those in the lists of the body."""

    def __init__(self, here: Place) -> None:
        self.here = here
        self.failed: list[dict[str, Any]] = []
        self.answer: httpx.Response

    async def send(self, events: list[dict[str, Any]]) -> bool:
        # PHP's json_encode with FormatJson::ALL_OK: slashes and letters as they are
        body = json.dumps(events, ensure_ascii=False, separators=(",", ":")).encode()
        self.answer = answer = await self.here.http.post(
            "/v1/events",
            content=body,
            headers={
                "content-type": "application/json",
                "user-agent": "MediaWiki/1.46.0-alpha",
                "x-request-id": "7e1d40fe-7a21-4a4b-a6a5-4e6d0e3b2f10",
                "x-client-ip": "192.0.2.44",
            },
        )
        if answer.status_code != 207 and answer.status_code < 300:
            return True
        told = answer.json()
        self.failed = [element["event"] for kind in told for element in told[kind]]
        return False


@both
async def test_what_eventbus_sends_is_in_the_log_as_it_was_sent(tmp_path: Path, mode: str) -> None:
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
        assert dt.endswith("Z"), "the intake's to set"
        assert after == before
        assert list(after) == list(before), "signatures are over the order too"


@both
async def test_what_failed_of_a_207_is_read_from_its_lists(tmp_path: Path, mode: str) -> None:
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
async def test_when_the_log_takes_none_a_500_names_them(tmp_path: Path, mode: str) -> None:
    sent = [page_create(), page_create()]
    async with place(tmp_path, streams=STREAMS, compatibility=mode) as here:
        await here.parts.log.aclose()
        bus = EventBus(here)
        assert not await bus.send(sent)
        assert bus.answer.status_code == 500
        assert [e["meta"]["id"] for e in bus.failed] == [e["meta"]["id"] for e in sent]
        told = [element["context"].get("retryable") for element in bus.answer.json()["error"]]
        assert told == ([True] if mode == "strict" else [None]) * 2


@both
async def test_one_event_alone_and_a_thousand_are_taken(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, streams=STREAMS, compatibility=mode) as here:
        bus = EventBus(here)
        assert await bus.send([page_create()])
        assert await bus.send([page_create() for _ in range(1000)])
        assert len(await here.documents(f"eqiad.{CREATE}")) == 1001
