"""Rejected events become error events."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.config.settings import AccessSettings
from eventstreams.errors import ConfigError, SchemaError
from eventstreams.intake.error_events import ErrorEventRate, ErrorEvents
from eventstreams.intake.router import Route
from eventstreams.intake.violation import Violation
from eventstreams.model.problem import Problem
from eventstreams.schemas.validation import Validator
from tests.support.intake import ERRORS, STREAMS, TEST, event, place

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("mode", ["strict", "eventgate"])
async def test_an_invalid_event_becomes_an_error_event(tmp_path: Path, mode: str) -> None:
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
async def test_error_events_omit_missing_fields(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        posted = event(7)
        posted["meta"]["domain"] = "a.org"
        await here.post(posted)
        [error] = await here.errors(1)
        assert error["meta"].keys() & {"uri", "domain", "request_id"} == {"domain", "request_id"}


async def test_unroutable_events_become_error_events(tmp_path: Path) -> None:
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


async def test_error_events_do_not_disclose_events_of_scoped_streams(
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
def test_the_rule_in_an_error_event_quotes_nothing(fields: dict[str, Any]) -> None:
    problems = Validator(_PRIVATE_SCHEMA, "f").validate(fields)
    rule = Violation(problems).rule
    assert SECRET not in rule
    assert bool(rule) == bool(problems)


async def test_errors_of_scoped_streams_contain_only_rule_and_place(
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
        (posted(**{"$schema": f"/{SECRET}/1.0.0"}), "EventSchemaLoadError", "cannot be loaded"),
        (posted(**{"$schema": f"nothing {SECRET}"}), "EventSchemaLoadError", "cannot be loaded"),
        (posted(**{"$schema": "/error/2.1.0"}), "UnauthorizedSchemaForStreamError", "test/event"),
        (posted(meta={"stream": SECRET}), "UnauthorizedSchemaForStreamError", "not declared"),
        (posted(meta={**private, "dt": SECRET}), "ValidationError", "properties/dt/format"),
        (posted(deep=nested(SECRET, 70)), "EventTooDeepError", "more than 64 deep"),
        (posted(more=SECRET * 200_000), "EventTooLargeError", "more than 1048576 bytes"),
        ([SECRET], "MissingFieldError", "Field(s) $schema"),
        (f'{{"a": "{SECRET}\\ud800"}}'.encode(), "SyntaxError", "cannot be read"),
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


async def test_in_compatibility_mode_only_violations_become_error_events(tmp_path: Path) -> None:
    async with place(tmp_path, compatibility="eventgate") as here:
        await here.post([event(stream="nowhere"), {"a": 1}, event(7)])
        [error] = await here.errors(1)
        assert error["error_type"] == "ValidationError"


async def test_error_events_can_be_read_over_sse(tmp_path: Path) -> None:
    async with place(tmp_path) as here, here.served.stream(ERRORS) as stream:
        await stream.opened()
        await here.post(event(7))
        [seen] = await stream.documents(1)
        assert seen["errored_stream_name"] == TEST


async def test_copied_text_cannot_make_error_events_invalid_or_large(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        posted = event("x" * 500_000, stream="y" * 5000)
        posted["meta"] |= {"uri": "not a uri\\", "domain": ""}
        await here.post(posted)
        [error] = await here.errors(1)
        assert "uri" not in error["meta"]
        assert len(json.dumps(error)) < 300_000


async def test_error_events_per_second_are_limited(tmp_path: Path) -> None:
    async with place(tmp_path, error_events_per_s=5) as here:
        rate = here.parts.intake._error_events._rate  # type: ignore[union-attr]
        rate._clock = lambda: rate._began_s  # the second lasts
        await here.post([event(7)] * 50)
        await here.errors(3)
        assert here.served.count("intake_error_events_total", outcome="suppressed") == 47


def test_each_client_gets_half_of_the_remaining_error_events() -> None:
    now_s = 100.0
    rate = ErrorEventRate(100, clock=lambda: now_s)

    def admitted(site: str) -> int:
        return sum(rate.admit(site) for _ in range(1000))

    assert [admitted(site) for site in ("flood", "flood", "a", "b")] == [50, 0, 25, 13]
    assert [rate.admit(f"site {n}") for n in range(13)] == [True] * 12 + [False]
    now_s += 1
    assert admitted("flood") == 50


async def test_a_flood_leaves_error_events_to_other_clients(
    tmp_path: Path,
) -> None:
    async with place(tmp_path, error_events_per_s=50) as here:
        await here.post([event(7)] * 200, headers={"x-client-ip": "192.0.2.1"})
        made = 200 - here.served.count("intake_error_events_total", outcome="suppressed")
        await here.post([event(stream="nowhere")], headers={"x-client-ip": "192.0.2.2"})
        kinds = [error["error_type"] for error in await here.errors(int(made) + 1)]
        assert "UnauthorizedSchemaForStreamError" in kinds


async def test_an_unreachable_log_is_logged_once_per_request_and_stream(
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


async def test_an_invalid_error_schema_is_logged_rarely(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(tmp_path, error_events_per_s=1000) as here:

        async def broken(_: object) -> Route:
            raise SchemaError([Problem("/error/1.0.0", "", "it is broken")])

        monkeypatch.setattr(ErrorEvents, "route", broken)
        errors = here.parts.intake._error_events  # type: ignore[union-attr]
        assert errors is not None
        errors._clock = lambda now_s=errors._quiet_until_s: now_s
        for _ in range(5):
            await here.post([event(7)] * 50)
        failed = here.served.count("intake_error_events_total", outcome="failed")
    assert failed > 50
    lines = [each.message for each in caplog.records if "could not create" in each.message]
    assert lines == [
        "could not create error events (1 since the last message): /error/1.0.0: it is broken"
    ]


def test_unlogged_failures_of_error_events_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 100.0
    unused: Any = None
    errors = ErrorEvents(
        stream=ERRORS,
        emitter_id="test",
        rate=ErrorEventRate(1),
        router=unused,
        schemas=unused,
        catalogue=unused,
        clock=lambda: now_s,
    )
    for now_s in (100.0, 101.0, 109.0, 110.0, 111.0, 150.0):  # noqa: B007 - the clock reads it
        errors.log_failure(ValueError("x"))
    counts = [each.args[0] for each in caplog.records if isinstance(each.args, tuple)]
    assert counts == [1, 3, 2]


async def test_without_an_error_stream_there_are_no_error_events(tmp_path: Path) -> None:
    async with place(tmp_path, error_stream=None) as here:
        assert (await here.post(event(7))).status_code == 400
        assert await here.documents(ERRORS) == []


@pytest.mark.parametrize("name", ["nowhere", TEST])
async def test_an_unsuitable_error_stream_is_refused_at_start(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"intake\.error_stream"):
        async with place(tmp_path, streams=STREAMS, error_stream=name):
            pass
