"""MediaWiki's EventBus as a client: large batches, signed jobs, and invalid UTF-8."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.intake.eventbus import CHANGE, STREAMS, EventBus, recent_change
from tests.support.intake import Place, place

pytestmark = pytest.mark.anyio
both = pytest.mark.parametrize("mode", ["strict", "eventgate"])

KEPT, JOBS = f"eqiad.{CHANGE}", "mediawiki.job.test"
JOB = {
    "title": "mediawiki/job",
    "$id": "/mediawiki/job/1.0.0",
    "$schema": "https://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "meta": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("id", "dt", "request_id")},
        },
        "params": {"type": "object"},
    },
}
SECRET = b"$wgSecretKey"
BATCH_BYTES_MAX = 4194304


def commented(comment: Any) -> dict[str, Any]:
    return {**recent_change(), "comment": comment}


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["meta"]["id"] for event in events]


async def send_split(bus: EventBus, events: list[dict[str, Any]], bytes_max: int) -> list[bool]:
    """An oversized batch is sent in halves; an oversized event is sent by itself."""
    if len(str(events).encode()) <= bytes_max or len(events) == 1:
        return [await bus.send(events)]
    half = len(events) // 2
    first = await send_split(bus, events[:half], bytes_max)
    return first + await send_split(bus, events[half:], bytes_max)


@both
async def test_invalid_utf_8_from_mediawiki_is_preserved(tmp_path: Path, mode: str) -> None:
    raw = b"\xff\xfe not text"
    text = "data:application/octet-stream;base64," + base64.b64encode(raw).decode()
    async with place(tmp_path, streams=STREAMS, compatibility=mode) as here:
        assert await EventBus(here).send([commented(text)])
        [kept] = await here.documents(KEPT)
    assert base64.b64decode(kept["comment"].partition(",")[2]) == raw


@both
async def test_an_oversized_batch_is_sent_in_parts(tmp_path: Path, mode: str) -> None:
    limits = {"compatibility": mode, "body_bytes_max": 20_000}
    async with place(tmp_path, streams=STREAMS, **limits) as here:
        bus = EventBus(here)
        posted = [commented("x" * 3_000) for _ in range(21)]
        assert all(await send_split(bus, posted, 20_000))
        assert ids(await here.documents(KEPT)) == ids(posted)
        huge = [commented("few"), commented("x" * 20_000), commented("few")]
        with pytest.raises((AttributeError, TypeError)):  # the response names no event
            await send_split(bus, huge[1:2], 20_000)
        assert bus.answer.status_code == (413 if mode == "strict" else 500)
        assert len(await here.documents(KEPT)) == 21


@both
async def test_a_batch_of_mediawikis_usual_size_is_accepted(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, streams=STREAMS, compatibility=mode) as here:
        bus = EventBus(here)
        posted = [commented("x" * (BATCH_BYTES_MAX // 5 - 5_000)) for _ in range(5)]
        assert await bus.send(posted)
        assert BATCH_BYTES_MAX * 0.98 < len(bus.answer.request.content) <= BATCH_BYTES_MAX
        assert ids(await here.documents(KEPT)) == ids(posted)


def serialized(value: Any) -> str:
    """Sign a job like PHP; the order of the keys matters."""
    match value:
        case None:
            return "N;"
        case bool():
            return f"b:{value:d};"
        case int():
            return f"i:{value};"
        case str():
            return f's:{len(value.encode())}:"{value}";'
        case list():
            return serialized(dict(enumerate(value)))
        case dict():
            inner = "".join(serialized(k) + serialized(v) for k, v in value.items())
            return f"a:{len(value)}:{{{inner}}}"
    raise TypeError(type(value))


def signature(event: dict[str, Any]) -> str:
    signed = {name: value for name, value in event.items() if name != "mediawiki_signature"}
    return hmac.new(SECRET, serialized(signed).encode(), hashlib.sha1).hexdigest()


@both
async def test_a_complete_signed_job_is_unchanged(tmp_path: Path, mode: str) -> None:
    schema = tmp_path / "schemas" / "mediawiki" / "job" / "1.0.0.yaml"
    schema.parent.mkdir(parents=True)
    schema.write_text(yaml.safe_dump(JOB))
    meta = {"stream": JOBS, "id": str(uuid4()), "request_id": "r", "dt": "2026-01-31T12:00:00Z"}
    params = {"z": 1, "a": [True, None, "ž/<"], "m": {"b": -(2**53), "a": ""}}
    job = {"$schema": "/mediawiki/job/1.0.0", "meta": meta, "type": "test", "params": params}
    job["mediawiki_signature"] = signature(job)
    streams = {**STREAMS, JOBS: {"schema_title": "mediawiki/job"}}
    async with place(tmp_path, streams=streams, compatibility=mode) as here:
        assert await EventBus(here).send([job])
        [kept] = await here.documents(JOBS)
    assert kept["mediawiki_signature"] == signature(kept)


@pytest.fixture(params=["strict", "eventgate"])
async def here(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with place(tmp_path, streams=STREAMS, compatibility=request.param) as found:
        yield found


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(kinds=st.lists(st.sampled_from(["good", "invalid", "nowhere", "unknown"]), min_size=1))
async def test_events_not_reported_as_failed_are_in_the_log(here: Place, kinds: list[str]) -> None:
    bus = EventBus(here)
    posted = [recent_change() for _ in kinds]
    for event, kind in zip(posted, kinds, strict=True):
        if kind == "invalid":
            event["type"] = 7
        elif kind == "nowhere":
            event["meta"]["stream"] = "mediawiki.nowhere"
        elif kind == "unknown":
            event["$schema"] = "/mediawiki/unknown/1.0.0"
    before = len(await here.events(KEPT))
    assert await bus.send(posted) == (set(kinds) == {"good"})
    failed = ids(bus.failed)
    assert len(failed) == len(kinds) - kinds.count("good")
    left = [id_ for id_ in ids(posted) if id_ not in failed]
    assert ids((await here.documents(KEPT))[before:]) == left
