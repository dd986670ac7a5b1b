"""Which events may go where: declared streams, schemas that exist, and nothing outside of those."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.intake.place import TEST, Place, event, place

pytestmark = pytest.mark.anyio
both = pytest.mark.parametrize("mode", ["strict", "eventgate"])


async def refusal(here: Place, posted: Any, mode: str) -> str:
    answer = await here.post(posted)
    if mode == "strict":
        assert answer.status_code == 400
        return str(answer.json()["invalid"][0]["context"]["errorsText"])
    assert answer.status_code == 500
    return str(answer.json()["error"][0]["context"]["message"])


@both
async def test_a_stream_must_be_declared(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        assert "nowhere is not declared" in await refusal(here, event(stream="nowhere"), mode)


@both
async def test_a_stream_takes_only_events_of_its_schema_title(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        message = await refusal(here, event(stream="test.http"), mode)
        assert "test/event is not allowed in stream test.http" in message
        other = {"$schema": "/test/http/1.0.0", "meta": {"stream": "test.regex.a"}}
        assert "is not allowed" in await refusal(here, other, mode)


@both
async def test_a_stream_without_schema_title_takes_nothing(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        message = await refusal(here, event(stream="test.untitled"), mode)
        assert "no schema_title setting" in message


async def test_a_pattern_declares_all_streams_that_match(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        assert (await here.post(event(stream="test.regex.a"))).status_code == 201
        assert len(await here.documents("test.regex.a")) == 1
        assert here.served.count(
            "intake_events_total", stream="/^test\\.regex\\..+/", outcome="accepted"
        )


@both
@pytest.mark.parametrize("name", ["../up", "test.regex.a/b", "test.regex." + "x" * 300, "", 7])
async def test_a_pattern_does_not_make_any_text_a_topic(
    tmp_path: Path, mode: str, name: Any
) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        await refusal(here, event(stream=name), mode)


@both
@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:9/test/event/1.0.0",
        "file:///etc/passwd",
        "//host/test/event/1.0.0",
        "/../../etc/passwd",
        "/test/../test/event/1.0.0",
        "/test/event/../event/1.0.0",
        "/test/event/latest",
        "/test/event",
        "/test/event/1.0.0.yml",
        "./test/event/1.0.0",
        "test:test/event/1.0.0",
        "/test/event/9.9.9",
        "/" + "x" * 10_000 + "/1.0.0",
        "",
        {"a": 1},
        1,
    ],
)
async def test_a_schema_uri_is_a_title_and_a_full_version(
    tmp_path: Path, mode: str, uri: Any
) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        message = await refusal(here, {**event(), "$schema": uri}, mode)
        assert len(message) < 1000
        assert "root:" not in message


async def test_many_first_events_of_one_schema_are_all_taken(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        answers = await asyncio.gather(*(here.post(event(str(n))) for n in range(20)))
        assert {answer.status_code for answer in answers} == {201}
        assert {each["test"] for each in await here.documents()} == {str(n) for n in range(20)}


async def test_metrics_know_declared_streams_only(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.post([event(stream="made.up.1"), event(stream="made.up.2"), event(1), [7]])
        count = here.served.count
        assert count("intake_events_total", stream="undeclared", outcome="invalid") == 3
        assert count("intake_events_total", stream=TEST, outcome="invalid") == 1
        assert count("intake_requests_total", status="400") == 1


@both
@pytest.mark.parametrize(
    "uri", ["test/event/1.0.0", "/test/event/1.0.0.yaml", "test/event/1.0.0.json"]
)
async def test_a_schema_uri_may_lack_its_slash_and_have_an_extension(
    tmp_path: Path, mode: str, uri: str
) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        assert (await here.post({**event(), "$schema": uri})).status_code == 201
        [stored] = await here.documents()
        assert stored["$schema"] == uri
