"""The cases of eventlogging-service-eventbus: what its clients see of `/v1/events` and schemas."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.blocking import no_blocking
from tests.intake.place import TEST, Place, event, place

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    with no_blocking():
        async with place(tmp_path) as here:
            yield here


async def test_the_spec_and_the_list_of_schemas_are_there(here: Place) -> None:
    assert (await here.http.get("/?spec")).status_code == 200
    assert "/test/event/1.0.0" in json.dumps((await here.http.get("/v1/schemas")).json())


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "application/json"),
        ("blablabla", "application/json"),
        ("application/yaml", "application/yaml"),
        ("application/x-yaml", "application/yaml"),
    ],
)
@pytest.mark.parametrize("version", ["1.0.0", "latest"])
async def test_a_schema_is_json_or_yaml_as_the_client_accepts(
    here: Place, accept: str | None, content_type: str, version: str
) -> None:
    headers = {} if accept is None else {"accept": accept}
    answer = await here.http.get(f"/v1/schemas/test/event/{version}", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(content_type)
    assert yaml.safe_load(answer.text)["title"] == "test/event"


async def test_valid_events_are_accepted_and_written_as_posted(here: Place) -> None:
    sent = [event("a"), event("b", test_map={"k": "v"})]
    assert (await here.post(sent[0])).status_code == 201
    assert (await here.post(sent)).status_code == 201
    kept = await here.documents(TEST)
    assert [each["test"] for each in kept] == ["a", "a", "b"]
    for filled in ("id", "dt", "request_id"):
        kept[2]["meta"].pop(filled, None)
    assert kept[2] == sent[1]


async def test_one_bad_of_two_is_207_and_all_bad_is_400(here: Place) -> None:
    some = await here.post([event("a"), event(7)])
    assert some.status_code == 207
    assert [each["index"] for each in some.json()["invalid"]] == [1]
    every = await here.post([event(6), event(7)])
    assert every.status_code == 400
    assert [each["index"] for each in every.json()["invalid"]] == [0, 1]


async def test_a_missing_required_field_is_400_and_says_so(here: Place) -> None:
    broken: dict[str, Any] = {**event(), "meta": {"stream": TEST, "id": 7}}
    answer = await here.post(broken)
    assert answer.status_code == 400
    assert answer.json()["invalid"][0]["context"]["errorsText"] == "'.meta.id' should be string"


async def test_events_name_stream_and_schema_and_not_topic_and_revision(here: Place) -> None:
    """The service's own names are refused, with a word on what is missing."""
    capsule = {"schema": "Test", "revision": 13, "wiki": "x", "event": {}}
    named = {"meta": {"topic": "badtopic", "schema_uri": "DoesNotMatter/1"}, "some": "Blah"}
    for old in (capsule, named):
        answer = await here.post(old)
        assert answer.status_code == 400
        text = answer.json()["invalid"][0]["context"]["errorsText"]
        assert text == "Field(s) $schema were missing from event and could not be extracted."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta": {"stream": "badtopic"}}, "Stream badtopic is not declared"),
        ({"$schema": "/test/event"}, "not /title/MAJOR.MINOR.PATCH"),
        ({"$schema": "/error/2.1.0"}, f"Schema error is not allowed in stream {TEST}"),
    ],
)
async def test_an_unknown_topic_or_a_wrong_schema_is_400(
    here: Place, change: dict[str, Any], message: str
) -> None:
    answer = await here.post({**event(), **change})
    assert answer.status_code == 400
    assert message in answer.json()["invalid"][0]["context"]["errorsText"]
    assert await here.documents(TEST) == []
