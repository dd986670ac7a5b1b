"""Refused events become events on the error stream."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.errors import ConfigError
from eventstreams.intake.error_events import ErrorEventRate
from eventstreams.intake.violation import Violation
from eventstreams.schemas.validation import Validator
from eventstreams.settings import AccessSettings
from tests.intake.place import ERRORS, STREAMS, TEST, event, place

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("mode", ["strict", "eventgate"])
async def test_an_invalid_event_becomes_one(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode, emitter_id="our-intake") as here:
        posted = event(7)
        posted["meta"] |= {"uri": "https://a/b", "domain": "a", "request_id": "r1"}
        await here.post([posted, event("good")])
        [error] = await here.errors(1)
        assert error["$schema"] == "/error/2.1.0"
        assert error["emitter_id"] == "our-intake"
        assert error["message"] == "'.test' should be string"
        assert json.loads(error["raw_event"]) == posted
        assert error["errored_schema_uri"] == "/test/event/1.0.0"
        assert error["errored_stream_name"] == TEST
        assert error["error_type"] == "ValidationError"
        meta = error["meta"]
        assert meta["stream"] == ERRORS
        assert (meta["uri"], meta["domain"], meta["request_id"]) == ("https://a/b", "a", "r1")


@pytest.mark.parametrize("mode", ["strict", "eventgate"])
async def test_error_events_leave_out_what_the_event_lacks(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        posted = event(7)
        posted["meta"]["domain"] = "a.org"
        await here.post(posted)
        [error] = await here.errors(1)
        assert error["meta"].keys() & {"uri", "domain", "request_id"} == {"domain", "request_id"}


async def test_refusals_at_the_gate_become_one_too(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.post([event(stream="nowhere"), {"a": 1}, {**event(), "$schema": "/no/1.0.0"}])
        kinds = [error["error_type"] for error in await here.errors(3)]
        assert kinds == [
            "UnauthorizedSchemaForStreamError",
            "MissingFieldError",
            "EventSchemaLoadError",
        ]


SECRET = "S3CRET"
RULE = {"domain": "a.org", "titles": ["x"], "remove": ["test"]}


async def test_an_event_is_not_repeated_to_those_who_may_not_read_its_stream(
    tmp_path: Path,
) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 32)
    access = AccessSettings(hs256_secret_file=str(tmp_path / "secret"))
    private = {
        "private": {
            "schema_title": "test/event",
            "scope": "read:private",
            "stream_aliases": ["other_name"],
        },
        "redacted": {"schema_title": "test/event", "redact": [RULE]},
    }

    def wrong(stream: str) -> dict[str, object]:
        posted = event(7, stream=stream, more=SECRET)
        posted["meta"] |= {"uri": f"https://a/{SECRET}"}
        return posted

    torn = f'{{"a": "{SECRET}"}}'.encode()
    for scope, shown in ((None, {TEST}), ("read:private", {TEST, "private"})):
        folder = tmp_path / str(scope)
        folder.mkdir()
        errors = {"schema_title": "error", **({"scope": scope} if scope else {})}
        streams = {**STREAMS, **private, ERRORS: errors}
        async with place(folder, streams=streams, access=access) as here:
            await here.post([wrong("private"), wrong("redacted"), wrong(TEST), wrong("misspelt")])
            await here.post(torn)
            await here.post(torn, query="?stream=redacted")
            found = await here.errors(6)
        names = {e.get("errored_stream_name") for e in found}
        assert names == {"private", "redacted", TEST, None}
        repeated = {e.get("errored_stream_name") for e in found if SECRET in json.dumps(e)}
        assert repeated == shown


_TEST_MAP = "#/properties/test_map/additionalProperties/type"
_PRIVATE_SCHEMA: dict[str, Any] = {
    "title": "test/private",
    "$id": "/test/private/1.0.0",
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "$schema": {"type": "string"},
        "meta": {"type": "object", "properties": {"dt": {"format": "date-time"}}},
        "closed": {"properties": {"known": {}}, "additionalProperties": False},
        "empty": {"additionalProperties": False},
        "names": {"propertyNames": {"maxLength": 3, "pattern": "^[a-z]*$"}},
        "patterns": {"patternProperties": {"^[A-Z]": {"type": "integer"}}},
        "choice": {"enum": ["a", "b"]},
        "constant": {"const": "a"},
        "either": {"anyOf": [{"type": "integer"}, {"properties": {"deep": {"type": "integer"}}}]},
        "one": {"oneOf": [{"additionalProperties": {"type": "integer"}}, {"type": "integer"}]},
        "list": {"items": {"additionalProperties": {"maxLength": 3}}, "uniqueItems": True},
        "parts": {"dependencies": {"a": ["b"], "c": {"additionalProperties": False}}},
        "counted": {"maxProperties": 1, "minProperties": 1},
        "number": {"multipleOf": 2, "minimum": 0},
        "conditional": {"if": {"required": ["a"]}, "then": {"propertyNames": {"enum": ["a"]}}},
        "contains": {"contains": {"const": 1}},
        "never": {"not": {"type": "string"}},
    },
}
_HIDDEN = st.sampled_from([SECRET, {SECRET: SECRET}, [SECRET, SECRET], {"a": SECRET, "c": 1}, -1])
_FIELDS = st.dictionaries(
    st.sampled_from([*_PRIVATE_SCHEMA["properties"], SECRET]),
    st.recursive(_HIDDEN, lambda inner: st.lists(inner) | st.dictionaries(st.just(SECRET), inner)),
)


@settings(deadline=None)
@given(_FIELDS)
def test_the_rule_of_an_invalid_event_holds_nothing_of_the_event(fields: dict[str, Any]) -> None:
    problems = Validator(_PRIVATE_SCHEMA, "f").validate(fields)
    rule = Violation(problems).rule
    assert SECRET not in rule
    assert bool(rule) == bool(problems)


async def test_of_a_stream_with_a_scope_only_the_rule_and_its_place_are_told(
    tmp_path: Path,
) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 32)
    access = AccessSettings(hs256_secret_file=str(tmp_path / "secret"))
    streams = {**STREAMS, "private": {"schema_title": "test/event", "scope": "read:private"}}

    def posted(**fields: Any) -> dict[str, Any]:
        return {**event(stream="private"), **fields}

    private = {"stream": "private", "uri": f"https://a/{SECRET}", "domain": SECRET}
    expected: list[tuple[Any, str, str]] = [
        (posted(test_map={f"{SECRET}@a.org": 1}), "ValidationError", f"{_TEST_MAP} is not met"),
        (posted(test=[SECRET]), "ValidationError", "#/properties/test/type is not met"),
        (posted(**{"$schema": f"/{SECRET}/1.0.0"}), "EventSchemaLoadError", "can't be loaded"),
        (posted(**{"$schema": f"nothing {SECRET}"}), "EventSchemaLoadError", "can't be loaded"),
        (posted(**{"$schema": "/error/2.1.0"}), "UnauthorizedSchemaForStreamError", "test/event"),
        (posted(meta={"stream": SECRET}), "UnauthorizedSchemaForStreamError", "not declared"),
        (posted(meta={**private, "dt": SECRET}), "ValidationError", "properties/dt/format"),
        (posted(deep=nested(SECRET, 70)), "EventTooDeepError", "more than 64 deep"),
        (posted(more=SECRET * 200_000), "EventTooLargeError", "more than 1048576 bytes"),
        ([SECRET], "MissingFieldError", "Field(s) $schema"),
        (f'{{"a": "{SECRET}\\ud800"}}'.encode(), "SyntaxError", "can't be read"),
    ]
    async with place(tmp_path, streams=streams, access=access) as here:
        for body, _, _ in expected:
            answer = await here.post(body if isinstance(body, bytes) else [body])
            assert answer.status_code == 400
        errors = await here.errors(len(expected))
    for error, (_, kind, said) in zip(errors, expected, strict=True):
        assert error["error_type"] == kind
        assert said in error["message"]
        assert SECRET not in json.dumps(error)
        assert error.get("errored_stream_name") in ("private", None)
        assert error.get("errored_schema_uri") in ("/test/event/1.0.0", None)
    assert errors[0]["errored_schema_uri"] == "/test/event/1.0.0"
    assert errors[0]["errored_stream_name"] == "private"


def nested(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


async def test_upstream_is_silent_about_those(tmp_path: Path) -> None:
    async with place(tmp_path, compatibility="eventgate") as here:
        await here.post([event(stream="nowhere"), {"a": 1}, event(7)])
        [error] = await here.errors(1)
        assert error["error_type"] == "ValidationError"


async def test_they_can_be_watched_over_sse(tmp_path: Path) -> None:
    async with place(tmp_path) as here, here.served.stream(ERRORS) as stream:
        await stream.opened()
        await here.post(event(7))
        [seen] = await stream.documents(1)
        assert seen["errored_stream_name"] == TEST


async def test_what_is_copied_into_them_can_not_make_them_invalid_or_large(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        posted = event("x" * 500_000, stream="y" * 5000)
        posted["meta"] |= {"uri": "not a uri\\", "domain": ""}
        await here.post(posted)
        [error] = await here.errors(1)
        assert "uri" not in error["meta"]
        assert len(json.dumps(error)) < 300_000


async def test_there_are_only_so_many_a_second(tmp_path: Path) -> None:
    async with place(tmp_path, error_events_per_s=5) as here:
        await here.post([event(7)] * 50)
        await here.errors(3)
        assert here.served.count("intake_error_events_total", outcome="suppressed") == 47


def test_of_error_events_each_client_gets_half_of_those_left() -> None:
    now_s = 100.0
    rate = ErrorEventRate(100, clock=lambda: now_s)

    def admitted(site: str) -> int:
        return sum(rate.admit(site) for _ in range(1000))

    assert [admitted(site) for site in ("flood", "flood", "a", "b")] == [50, 0, 25, 13]
    assert [rate.admit(f"site {n}") for n in range(13)] == [True] * 12 + [False]
    now_s += 1
    assert admitted("flood") == 50


async def test_a_flood_of_one_address_suppresses_no_error_event_of_another(
    tmp_path: Path,
) -> None:
    async with place(tmp_path, error_events_per_s=50) as here:
        await here.post([event(7)] * 200, headers={"x-client-ip": "192.0.2.1"})
        made = 200 - here.served.count("intake_error_events_total", outcome="suppressed")
        await here.post([event(stream="nowhere")], headers={"x-client-ip": "192.0.2.2"})
        kinds = [error["error_type"] for error in await here.errors(int(made) + 1)]
        assert "UnauthorizedSchemaForStreamError" in kinds


async def test_a_log_out_of_reach_is_one_line_for_a_request_and_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prefixed = "eventlogging_Prefixless"
    async with place(tmp_path) as here:
        await here.parts.log.aclose()
        with caplog.at_level(logging.WARNING):
            answer = await here.post([event()] * 600 + [event(stream=prefixed)] * 2)
    assert answer.status_code == 500
    lines = [each.message for each in caplog.records if "not appended" in each.message]
    assert [line.partition(":")[0] for line in lines] == [
        "600 events were not appended",
        "2 events were not appended",
    ]


async def test_without_an_error_stream_there_are_none(tmp_path: Path) -> None:
    async with place(tmp_path, error_stream=None) as here:
        assert (await here.post(event(7))).status_code == 400
        assert await here.documents(ERRORS) == []


@pytest.mark.parametrize("name", ["nowhere", TEST])
async def test_a_stream_that_does_not_take_them_is_refused_at_start(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match=r"intake\.error_stream"):
        async with place(tmp_path, streams=STREAMS, error_stream=name):
            pass
