"""Clients of EventGate get the responses, reason phrases and bodies that they expect.

The cases are those of EventGate's test suite, and some more.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eventstreams.config.settings import AccessSettings, HttpSettings
from eventstreams.errors import LogError, LogUnavailable
from eventstreams.intake.intake import _OFFERED_MAX
from eventstreams.model.event import Placed, Record
from tests.support.intake import TEST, event, place

pytestmark = pytest.mark.anyio

MODES = ["strict", "eventgate"]
both = pytest.mark.parametrize("mode", MODES)
JSON = "application/json"
UNLOADABLE = {**event(), "$schema": "bad/uri/right/here@@@"}


@both
async def test_one_valid_event_is_accepted(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post(event())
        assert answer.status_code == 201
        assert answer.reason_phrase == "All 1 out of 1 events were accepted."
        assert answer.content == b""
        assert "content-type" not in answer.headers
        assert answer.headers["access-control-allow-origin"] == "*"
        [stored] = await here.documents()
        assert stored["test"] == "specific value"


@both
async def test_two_valid_events_are_accepted_in_their_order(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post([event("one"), event("two")])
        assert answer.reason_phrase == "All 2 out of 2 events were accepted."
        assert [each["test"] for each in await here.documents()] == ["one", "two"]


@both
async def test_a_default_of_the_schema_is_filled_in(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        posted = event()
        del posted["test"]
        assert (await here.post(posted)).status_code == 201
        [stored] = await here.documents()
        assert stored["test"] == "default value"


@both
async def test_an_invalid_event_is_refused_in_ajvs_words(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post(event(0.01))
        assert answer.status_code == 400
        assert answer.reason_phrase == "1 out of 1 events were invalid and not accepted."
        body = answer.json()
        assert body.keys() == {"invalid"}
        [element] = body["invalid"]
        assert element["status"] == "invalid"
        assert element["event"]["test"] == 0.01
        assert ("id" in element["event"]["meta"]) == (mode == "eventgate"), "filled in"
        assert element["context"]["errorsText"] == "'.test' should be string"
        [problem] = element["context"]["errors"]
        assert problem["dataPath"] == ".test"
        assert problem.keys() == {"keyword", "dataPath", "schemaPath", "params", "message"}
        assert element.get("index") == (0 if mode == "strict" else None)
        assert await here.documents() == []


@both
async def test_two_invalid_events_are_reported_in_order(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post([event(1), event("x", test_map={"a": 1})])
        assert answer.status_code == 400
        assert answer.reason_phrase == "2 out of 2 events were invalid and not accepted."
        texts = [element["context"]["errorsText"] for element in answer.json()["invalid"]]
        assert texts == ["'.test' should be string", "'.test_map['a']' should be string"]


@both
async def test_a_valid_event_beside_an_invalid_one_is_accepted(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post([event(1), event("good")])
        assert answer.status_code == 207
        assert answer.reason_phrase == (
            "1 out of 2 events were accepted, but 1 failed (1 invalid and 0 errored)."
        )
        body = answer.json()
        assert body["error"] == []
        assert len(body["invalid"]) == 1
        assert [each["test"] for each in await here.documents()] == ["good"]


async def test_invalid_and_failed_events_are_reported_as_upstream_does(tmp_path: Path) -> None:
    async with place(tmp_path, compatibility="eventgate") as here:
        answer = await here.post([event(1), event("good"), UNLOADABLE])
        assert answer.status_code == 207
        assert answer.reason_phrase == (
            "1 out of 3 events were accepted, but 2 failed (1 invalid and 1 errored)."
        )
        body = answer.json()
        assert len(body["invalid"]) == len(body["error"]) == 1
        assert body["error"][0]["status"] == "error"
        assert body["error"][0]["context"].keys() == {"message"}


@both
async def test_a_schema_that_cannot_be_loaded_is_an_error(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post(UNLOADABLE)
        text = "Failed loading schema at bad/uri/right/here@@@"
        if mode == "strict":  # the client's fault
            assert answer.status_code == 400
            assert answer.json()["invalid"][0]["context"]["errorsText"].startswith(text)
        else:
            assert answer.status_code == 500
            assert answer.reason_phrase == (
                "1 out of 1 events had failures and were not accepted. (0 invalid and 1 errored)."
            )
            body = answer.json()
            assert body["invalid"] == []
            assert body["error"][0]["context"]["message"].startswith(text)


@both
async def test_two_failed_events_are_reported(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post([UNLOADABLE, {"a": 1}])
        assert answer.status_code == (400 if mode == "strict" else 500)
        elements = answer.json()["invalid" if mode == "strict" else "error"]
        assert len(elements) == 2
        context = elements[1]["context"]
        assert context["errorsText" if mode == "strict" else "message"] == (
            "Field(s) $schema were missing from event and could not be extracted."
        )


@both
@pytest.mark.parametrize("body", [[1, "a", None], [{}], [[]], [True]])
async def test_a_body_that_is_no_event_lacks_fields(tmp_path: Path, mode: str, body: Any) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post(body)
        assert answer.status_code == (400 if mode == "strict" else 500)
        elements = answer.json()["invalid" if mode == "strict" else "error"]
        assert [element["event"] for element in elements] == body
        if mode == "strict":
            assert [element["index"] for element in elements] == list(range(len(body)))


@both
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"  ", b" { } ", b"[ ]\n"])
@pytest.mark.parametrize("query", ["", "?hasty=true"])
async def test_an_empty_body_is_refused(tmp_path: Path, mode: str, body: bytes, query: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post(body, query=query)
        assert answer.status_code == 400
        assert answer.reason_phrase == "Request body was empty. Must provide JSON encoded events."
        assert answer.content == b""


@both
async def test_hasty_posts_are_answered_before_validation(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post([event(1), event(2)], query="?hasty=true")
        assert answer.status_code == 202
        assert answer.reason_phrase == "2 events hastily received."
        assert answer.content == b""
        await here.served.until("intake_events_total", 2, stream=TEST, outcome="invalid")
        answer = await here.post(event("later"), query="?hasty=1")
        assert answer.status_code == 202
        await here.served.until("intake_events_total", 1, stream=TEST, outcome="accepted")
        assert [each["test"] for each in await here.documents()] == ["later"]
        assert here.parts.intake.admission.bytes == 0


@both
@pytest.mark.parametrize("value", ["false", "0"])
async def test_hasty_is_boolean_except_in_compatibility_mode(
    tmp_path: Path, mode: str, value: str
) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post(event(), query=f"?hasty={value}")
        assert answer.status_code == (201 if mode == "strict" else 202)


async def test_hasty_that_is_neither_true_nor_false_is_refused(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        assert (await here.post(event(), query="?hasty=")).status_code == 201
        answer = await here.post(event(), query="?hasty=perhaps")
        assert answer.status_code == 400
        assert "hasty=perhaps" in answer.json()["detail"]


@both
@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        'APPLICATION/JSON;charset="UTF-8"',
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/reports+json",
    ],
)
async def test_json_content_types_are_accepted(tmp_path: Path, mode: str, kind: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        assert (await here.post(event(), kind=kind)).status_code == 201


@both
@pytest.mark.parametrize("kind", ["application/cloudevents+json", "text/html", None])
async def test_other_content_types_are_refused(tmp_path: Path, mode: str, kind: str | None) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post(event(), kind=kind)
        assert answer.status_code == (415 if mode == "strict" else 400)


@both
async def test_gzip_and_deflate_are_accepted(tmp_path: Path, mode: str) -> None:
    content = json.dumps(event()).encode()
    async with place(tmp_path, compatibility=mode) as here:
        for coding, pack in (
            ("gzip", gzip.compress),
            ("X-GZIP", gzip.compress),
            ("deflate", zlib.compress),
        ):
            answer = await here.post(pack(content), headers={"content-encoding": coding})
            assert answer.status_code == 201


@both
async def test_answers_have_the_content_security_policy_of_the_gateway(
    tmp_path: Path, mode: str
) -> None:
    policy = "default-src 'none'"
    async with place(tmp_path, compatibility=mode, http=HttpSettings(csp=policy)) as here:
        for body, status in ((event(), 201), ([event(), event(7)], 207), (event(7), 400)):
            answer = await here.post(body)
            assert answer.status_code == status
            assert answer.headers["content-security-policy"] == policy


@both
async def test_repeated_single_headers_of_posts_are_refused(tmp_path: Path, mode: str) -> None:
    body = json.dumps(event()).encode()
    kind, coding, key = (
        ("content-type", JSON),
        ("content-encoding", "gzip"),
        ("authorization", "Bearer k"),
    )
    (tmp_path / "producers.yaml").write_text("{}")
    access = AccessSettings(producer_keys=str(tmp_path / "producers.yaml"))
    async with place(tmp_path, compatibility=mode) as here:
        for content, headers, status in (
            (gzip.compress(gzip.compress(body)), [kind, coding, coding], 415),
            (gzip.compress(body), [kind, coding, ("content-encoding", "identity")], 415),
            (body, [kind, kind], 400),
            (body, [kind, ("content-type", "text/html")], 400),
        ):
            answer = await here.http.post("/v1/events", content=content, headers=headers)
            expected = 500 if (mode, status) == ("eventgate", 415) else status
            assert answer.status_code == expected
            assert status == 415 or "several content-type headers" in answer.json()["detail"]
        assert await here.documents() == []
    (tmp_path / "keys").mkdir()
    async with place(tmp_path / "keys", access=access, compatibility=mode) as here:
        answer = await here.http.post("/v1/events", content=body, headers=[kind, key, key])
        assert answer.status_code == 400


@both
async def test_a_gzip_body_may_have_several_members(tmp_path: Path, mode: str) -> None:
    first, second = (json.dumps(event(text)).encode() for text in ("one", "two"))
    members = (b"[", first, b"", b"," + second + b"]")
    packed = b"".join(map(gzip.compress, members)) + b"\0" * 100
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post(packed, headers={"content-encoding": "gzip"})
        assert answer.status_code == 201
        assert [each["test"] for each in await here.documents()] == ["one", "two"]


_packed = partial(gzip.compress, mtime=0)  # fixed, because names of tests contain these bytes

LARGE = b'[{"a": "' + b"x" * 5000 + b'"}]'
BODIES: list[tuple[bytes, dict[str, str], int, str]] = [
    (b'{"a": ', {}, 400, "SyntaxError"),
    (b"42", {}, 400, "SyntaxError"),
    (b'"text"', {}, 400, "SyntaxError"),
    (b"[1, 2] 3", {}, 400, "SyntaxError"),
    (b"[NaN]", {}, 400, "SyntaxError"),
    (b"[" * 100_000, {}, 400, "SyntaxError"),
    (LARGE, {}, 413, "PayloadTooLargeError"),
    (_packed(LARGE), {"content-encoding": "gzip"}, 413, "PayloadTooLargeError"),
    (b"not gzip", {"content-encoding": "gzip"}, 400, "SyntaxError"),
    (_packed(b"[{}]")[:-4], {"content-encoding": "gzip"}, 400, "SyntaxError"),
    (_packed(b"[{}]") + b"x", {"content-encoding": "gzip"}, 400, "SyntaxError"),
    (
        _packed(b"[{}]") + _packed(LARGE),
        {"content-encoding": "gzip"},
        413,
        "PayloadTooLargeError",
    ),
    (_packed(b"[{}]") * 2 + b"\x1f\x8b", {"content-encoding": "gzip"}, 400, "SyntaxError"),
    (zlib.compress(b"[{}]") * 2, {"content-encoding": "deflate"}, 400, "SyntaxError"),
    (b"[{}]", {"content-encoding": "zork"}, 415, "UnsupportedMediaTypeError"),
    (b"[{}]", {"content-type": JSON + "; charset=latin-1"}, 415, "UnsupportedMediaTypeError"),
    (
        "[{}]".encode("utf-16"),
        {"content-type": JSON + "; charset=utf-16"},
        415,
        "UnsupportedMediaTypeError",
    ),
]


@both
@pytest.mark.parametrize(("body", "headers", "status", "title"), BODIES)
async def test_unreadable_bodies_are_refused(  # noqa: PLR0917
    tmp_path: Path, mode: str, body: bytes, headers: dict[str, str], status: int, title: str
) -> None:
    most = 200_000 if body.startswith(b"[[") else 4096
    async with place(tmp_path, compatibility=mode, body_bytes_max=most) as here:
        kind = None if "content-type" in headers else "application/json"
        answer = await here.post(body, headers=headers, kind=kind)
        problem = answer.json()
        if mode == "strict":
            assert answer.status_code == problem["status"] == status
        else:
            assert answer.status_code == problem["status"] == 500
            assert problem["type"] == "internal_error"
            assert problem["title"] == title
        assert problem["method"] == "POST"
        assert problem["uri"] == "/v1/events"
        assert problem["detail"]


@both
async def test_other_methods_are_refused(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        for method in ("GET", "PUT", "HEAD", "DELETE"):
            answer = await here.http.request(method, "/v1/events")
            assert answer.status_code == 404
            assert answer.headers["content-type"].startswith("text/html")
        answer = await here.http.options("/v1/events")
        assert (answer.status_code, answer.text) == (200, "POST")
        assert answer.headers["access-control-allow-methods"] == "POST"
        slashed = await here.http.post("/v1/events/", json=event())
        assert slashed.status_code == 201


async def test_the_readiness_probe_posts_the_events_of_the_settings(tmp_path: Path) -> None:
    async with place(tmp_path, test_events=(event("probe"),)) as here:
        for _ in range(2):
            assert (await here.http.get("/v1/_test/events")).status_code == 201
        stored = await here.documents()
        assert [each["test"] for each in stored] == ["probe", "probe"]
        assert stored[0]["meta"]["id"] != stored[1]["meta"]["id"]


async def test_without_test_events_there_is_no_probe(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        assert (await here.http.get("/v1/_test/events")).status_code == 404


async def test_draft_4_schemas_work(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        good = {"$schema": "/test/draft4/1.0.0", "meta": {"stream": "test.draft4"}, "count": 1}
        assert (await here.post(good)).status_code == 201
        assert (await here.post({**good, "count": "one"})).status_code == 400


async def test_failures_are_reported_in_the_order_of_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some events are refused before they are offered to the log, others by the log."""
    async with place(tmp_path, compatibility="eventgate") as here:

        async def refuse(records: Sequence[Record]) -> list[LogError]:
            return [LogUnavailable("away")] * len(records)

        monkeypatch.setattr(here.parts.log, "offer", refuse)
        posted = [event("a"), event("b", stream="nowhere"), event("c")]
        answer = await here.post(posted)
        assert [each["event"]["test"] for each in answer.json()["error"]] == ["a", "b", "c"]
        monkeypatch.undo()


async def test_a_failed_append_does_not_affect_other_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is skipped only after it was unreachable for a whole part."""
    texts = [f"{n}" for n in range(_OFFERED_MAX + 1)]
    async with place(tmp_path) as here:
        offer = here.parts.log.offer
        away = b'"away"'

        async def offering(records: Sequence[Record]) -> list[Placed | LogError]:
            placed = await offer([r for r in records if away not in (r.value or b"")])
            found = iter(placed)
            return [
                LogUnavailable("away") if away in (r.value or b"") else next(found) for r in records
            ]

        monkeypatch.setattr(here.parts.log, "offer", offering)
        answer = await here.post([event(text) for text in (texts[0], "away", *texts[1:])])
        assert answer.status_code == 207
        assert [document["test"] for document in await here.documents()] == texts
        monkeypatch.undo()
