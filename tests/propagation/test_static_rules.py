"""The cases of change-propagation's test suite for simple rules, with a file in its format."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventstreams.model.gap_marker import gap_record
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.validation import Validator
from tests.propagation.stage import RULES, event, running_file

pytestmark = pytest.mark.anyio

TOPIC = "dc1.simple_topic"
RETRIES = "dc1.changeprop.retry.simple_topic"
ERRORS = "dc1.changeprop.error"
PAGE = "https://en.wikipedia.org/wiki/SamplePage"


def sample(message: str = "test", **more: Any) -> dict[str, Any]:
    made = event(message=message, **more)
    made["meta"]["uri"] = PAGE
    return made


async def schema_problems(uri: str, document: Any) -> list[str]:
    def find() -> list[str]:
        schema = SchemaRepository([RULES.parents[2] / "config" / "schemas"]).get(uri)
        found = Validator(schema.document, uri).validate(document)
        return [str(problem) for problem in found]

    return await asyncio.to_thread(find)


async def test_a_matching_event_makes_one_request_with_exact_headers_and_body() -> None:
    async with running_file("static.yaml") as stage:
        await stage.act(TOPIC, sample("other", random=1), sample(random="abc"), b"{}")
        [call] = [call for call in stage.target.calls if call.path == "/simple"]
        assert call.method == "POST"
        assert call.json == {
            "test_field_name": "test_field_value",
            "derived_field": "test",
            "random_field": "abc",
        }
        expected = {
            "test_header_name": "test_header_value",
            "content-type": "application/json",
            "x-request-id": "request-1",
            "x-triggered-by": f"req:request-1,simple_topic:{PAGE}",
            "user-agent": "PropagationTestSuite",
            "host": "target.test",
            "accept": "*/*",
            "content-length": str(len(call.body)),
        }
        assert call.headers == expected


async def test_a_retry_names_the_failed_attempt_in_its_chain() -> None:
    async with running_file("static.yaml") as stage:
        stage.target.answers(500, 200)
        await stage.act(TOPIC, sample())
        assert len(stage.target.calls) == 1
        await stage.advance(10)
        first, second = stage.target.calls
        assert second.body == first.body
        assert second.headers["x-triggered-by"] == (
            f"req:request-1,simple_topic:{PAGE},changeprop.retry.simple_topic:{PAGE}"
        )
        await stage.advance(10**9)
        assert len(stage.target.calls) == 2
        assert await stage.documents(ERRORS) == []


async def test_a_target_that_keeps_failing_is_called_three_times() -> None:
    async with running_file("static.yaml") as stage:
        stage.target.answers(500)
        await stage.act(TOPIC, sample())
        for _ in range(5):
            await stage.advance(10**7)
        assert len(stage.target.calls) == 3
        [error] = await stage.documents(ERRORS)
        assert error["error_type"] == "HTTPError"
        assert "500" in error["message"]
        assert stage.counts("simple_rule") == {"retried": 2, "failed": 1}


async def test_delays_of_retries_grow() -> None:
    async with running_file("static.yaml") as stage:
        stage.target.answers(500)
        await stage.act(TOPIC, sample())
        for ms, calls in ((9, 1), (1, 2), (59, 2), (1, 3)):
            await stage.advance(ms)
            assert len(stage.target.calls) == calls, ms


async def test_a_retry_event_is_valid() -> None:
    async with running_file("static.yaml") as stage:
        stage.target.answers(503)
        await stage.act(TOPIC, sample(random=2**70))
        [retry] = await stage.documents(RETRIES)
        assert await schema_problems("/change-prop/retry/1.0.0", retry) == []
        assert retry["triggered_by"] == f"req:request-1,simple_topic:{PAGE}"
        assert retry["emitter_id"] == "changeprop#simple_rule"
        assert retry["retries_left"] == 2
        assert retry["original_event"] == sample(random=2**70)
        assert retry["error_status"] == 503


async def test_a_retry_event_of_change_propagation_itself_is_acted_on() -> None:
    async with running_file("static.yaml") as stage:
        retry = {
            "$schema": "/change-prop/retry/1.0.0",
            "meta": {"stream": "changeprop.retry.simple_topic", "dt": "2023-11-14T22:13:20Z"},
            "emitter_id": "changeprop#simple_rule",
            "retries_left": 2,
            "original_event": sample(),
        }
        other = {**retry, "emitter_id": "changeprop#other"}
        await stage.act(RETRIES, retry, other, b"none", {"emitter_id": "changeprop#simple_rule"})
        assert stage.target.calls == []
        await stage.advance(10)
        assert len(stage.target.calls) == 1


async def test_statuses_outside_retry_on_are_not_retried() -> None:
    async with running_file("static.yaml") as stage:
        stage.target.answers(404)
        await stage.act(TOPIC, sample())
        await stage.advance(10**9)
        assert len(stage.target.calls) == 1
        assert len(await stage.documents(ERRORS)) == 1


@pytest.mark.parametrize("status", [403, 412])
async def test_ignored_statuses_are_successes(status: int) -> None:
    async with running_file("static.yaml") as stage:
        stage.target.answers(status)
        await stage.act(TOPIC, sample())
        assert await stage.documents(ERRORS) == []
        assert stage.counts("simple_rule") == {"processed": 1}


async def test_redirects_are_not_followed() -> None:
    async with running_file("static.yaml") as stage:
        moved = {"location": "http://target.test/redirected"}
        stage.target.answer = lambda _: (301, moved, b"")
        await stage.act(TOPIC, sample("redirect"))
        assert [call.path for call in stage.target.calls] == ["/will_redirect"]
        assert stage.counts("redirect_rule") == {"processed": 1}


async def test_an_event_that_is_not_json_becomes_an_error_event() -> None:
    async with running_file("static.yaml") as stage:
        await stage.act(TOPIC, b"non-parsable-json", sample())
        assert [call.path for call in stage.target.calls] == ["/simple"]
        errors = await stage.documents(ERRORS)
        mine = [each for each in errors if each["emitter_id"] == "changeprop#simple_rule"]
        assert len(mine) == 1
        assert mine[0]["raw_event"] == "non-parsable-json"
        assert mine[0]["meta"]["domain"] == "unknown"
        assert await schema_problems("/error/2.1.0", mine[0]) == []


async def test_a_rule_can_produce_two_events_that_another_acts_on() -> None:
    async with running_file("static.yaml") as stage:
        made = event("producing_topic", produce_to="simple_topic")
        made["meta"]["uri"] = PAGE
        await stage.act("dc1.producing_topic", made)
        produced = await stage.documents(TOPIC)
        assert len(produced) == 2
        assert {each["meta"]["request_id"] for each in produced} == {"request-1"}
        assert [call.headers["x-triggered-by"] for call in stage.target.calls] == [
            f"producing_topic:{PAGE},simple_topic:{PAGE}"
        ] * 2


async def test_an_event_that_cannot_be_produced_becomes_an_error_event() -> None:
    async with running_file("static.yaml") as stage:
        await stage.act("dc1.producing_topic", event("producing_topic", produce_to="nowhere"))
        [error] = await stage.documents(ERRORS)
        assert "nowhere is not declared" in error["message"]


async def test_a_recorded_gap_is_no_event_for_a_rule_without_match() -> None:
    async with running_file("static.yaml") as stage:
        await stage.log.append([gap_record("dc1.producing_topic", 0, {"message": "lost"})])
        made = event("producing_topic", produce_to="simple_topic")
        made["meta"]["uri"] = PAGE
        await stage.act("dc1.producing_topic", made)
        assert len(await stage.documents(TOPIC)) == 2
        assert await stage.documents(ERRORS) == []


async def test_a_sample_takes_the_same_events_as_change_propagation() -> None:
    async with running_file("static.yaml") as stage:
        for title in ("rpiwQuPlA", "N0ryO6Lrp"):
            await stage.act(
                "dc1.sample_topic", event("sample_topic", message="sampled", page_title=title)
            )
        assert [call.path for call in stage.target.calls] == ["/en.wikipedia.org/rpiwQuPlA"]
        assert stage.counts("sample_rule") == {"processed": 1, "sampled_out": 1}


async def test_a_rule_reads_several_topics_and_not_those_it_excludes() -> None:
    async with running_file("static.yaml") as stage:
        for name in ("simple_topic", "second_topic", "third_topic"):
            await stage.act(f"dc1.{name}", event(name, message="array"))
        assert [call.json for call in stage.target.calls] == [
            {"topic": "simple_topic"}, {"topic": "second_topic"}
        ]  # fmt: skip


async def test_failures_beyond_the_limit_stop_requests_for_the_same_key() -> None:
    async with running_file("static.yaml") as stage:
        stage.target.answers(500)
        for n in range(100):
            await stage.put(TOPIC, sample(random=n))
        await stage.idle()
        assert len(stage.target.calls) >= 100
        before = len(stage.target.calls)
        await stage.act(TOPIC, sample(random="one more"))
        assert len(stage.target.calls) == before
        assert stage.counts("simple_rule")["limited"] >= 1
