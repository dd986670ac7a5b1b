"""Clients of eventlogging-service-eventbus can use `/v1/events` and the schemas."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.blocking import no_blocking
from tests.support.intake import ERRORS, TEST, Place, event, place

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    with no_blocking():
        async with place(tmp_path) as here:
            yield here


ACCEPTED = [
    (None, "application/json"),
    ("blablabla", "application/json"),
    ("application/yaml", "application/yaml"),
    ("application/x-yaml", "application/yaml"),
]


async def test_the_example_in_the_spec_is_accepted(here: Place) -> None:
    spec = await here.http.get("/?spec")
    assert spec.status_code == 200
    posted = spec.json()["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    assert (await here.post(posted["application/json"]["example"])).status_code == 201


@pytest.mark.parametrize(("accept", "content_type"), ACCEPTED)
@pytest.mark.parametrize("path", ["", "/test/event/1.0.0", "/test/event/latest"])
async def test_schemas_are_json_or_yaml_as_the_client_accepts(
    here: Place, path: str, accept: str | None, content_type: str
) -> None:
    headers = {} if accept is None else {"accept": accept}
    answer = await here.http.get(f"/v1/schemas{path}", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(content_type)
    assert answer.headers["vary"].lower() == "accept"
    read = json.loads if content_type == "application/json" else yaml.safe_load
    document = read(answer.text)
    if path:
        assert document["title"] == "test/event"
    else:
        assert "/test/event/1.0.0" in document


async def test_valid_events_are_accepted_and_written_as_posted(here: Place) -> None:
    sent = [event("a"), event("b", test_map={"k": "v"})]
    assert (await here.post(sent[0])).status_code == 201
    assert (await here.post(sent)).status_code == 201
    kept = await here.documents(TEST)
    assert [each["test"] for each in kept] == ["a", "a", "b"]
    for filled in ("id", "dt", "request_id"):
        kept[2]["meta"].pop(filled, None)
    assert kept[2] == sent[1]


async def test_some_invalid_events_get_207_and_all_400(here: Place) -> None:
    some = await here.post([event("a"), event(7)])
    assert some.status_code == 207
    assert [each["index"] for each in some.json()["invalid"]] == [1]
    every = await here.post([event(6), event(7)])
    assert every.status_code == 400
    assert [each["index"] for each in every.json()["invalid"]] == [0, 1]


async def test_a_missing_required_field_is_a_400_that_names_it(here: Place) -> None:
    error = {"$schema": "/error/2.1.0", "meta": {"stream": ERRORS}, "emitter_id": "test"}
    answer = await here.post(error)
    assert answer.status_code == 400
    reported = answer.json()["invalid"][0]["context"]["errorsText"]
    assert "should have required property 'message'" in reported


async def test_a_missing_optional_field_is_accepted(here: Place) -> None:
    without = event("a")
    del without["test"]
    assert (await here.post(without)).status_code == 201


async def test_events_name_stream_and_schema(here: Place) -> None:
    """The names of the old service are refused with the missing fields."""
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
