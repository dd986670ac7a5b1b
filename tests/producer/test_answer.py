"""Any response yields one verdict for each event of the request."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.producer.answer import Answer, Fate, Verdict, read

NOW_S = 1_800_000_000.0
LINES = [json.dumps({"meta": {"id": f"id-{n}"}, "n": n}).encode() for n in range(4)]


def answered(
    status: int, document: Any = None, lines: list[bytes] = LINES, **headers: str
) -> Answer:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read(status, names, body, lines, NOW_S)


def fates(answer: Answer) -> list[str]:
    return [verdict.fate.value for verdict in answer.verdicts]


def invalid(**more: Any) -> dict[str, Any]:
    return {"status": "invalid", "context": {"errorsText": "'.n' should be string"}, **more}


def failed(**more: Any) -> dict[str, Any]:
    return {"status": "error", "context": {"message": "the log is unreachable"}, **more}


@pytest.mark.parametrize("status", [201, 202])
def test_201_and_202_accept_all_events(status: int) -> None:
    assert fates(answered(status, b"")) == ["accepted"] * 4


def test_events_that_a_207_does_not_name_were_accepted() -> None:
    answer = answered(207, {"invalid": [invalid(index=1)], "error": [failed(index=3)]})
    assert answer.verdicts == [
        Verdict(Fate.ACCEPTED),
        Verdict(Fate.REJECTED, "'.n' should be string"),
        Verdict(Fate.ACCEPTED),
        Verdict(Fate.FAILED, "the log is unreachable"),
    ]
    assert not answer.too_much


def test_eventgate_identifies_events_by_their_content() -> None:
    filled = {"n": 2, "meta": {"id": "id-2", "dt": "2026-01-31T12:00:00Z"}}
    answer = answered(207, {"invalid": [invalid(event=filled)], "error": []})
    assert fates(answer) == ["accepted", "accepted", "rejected", "accepted"]


def test_events_without_an_id_are_identified_by_content() -> None:
    lines = [b'{"n":1}', b"[1]", b'{"n":1,"meta":7}', b'{"n":1}', b'{"n":2}']
    document = {
        "invalid": [invalid(event={"n": 1}), invalid(event=[1]), invalid(event={"n": 1})],
        "error": [failed(event={"meta": 7, "n": 1})],
    }
    answer = answered(207, document, lines)
    assert fates(answer) == ["rejected", "rejected", "failed", "rejected", "accepted"]


@pytest.mark.parametrize(
    "element",
    [{}, None, "x", 7, {"index": 4}, {"index": -1}, {"index": True}, {"event": {"n": 99}}],
)
def test_an_unmatched_element_leaves_events_undecided(element: Any) -> None:
    answer = answered(207, {"invalid": [invalid(index=0), element]})
    assert fates(answer) == ["rejected"] + ["unanswered"] * 3
    assert answer.too_much, "smaller requests show which event it is"
    assert fates(answered(207, {"invalid": [element]}, LINES[:1])) in (["rejected"], ["unanswered"])


def test_every_element_applies_to_a_single_event() -> None:
    answer = answered(500, {"error": [failed(event={"changed": "beyond recognition"})]}, LINES[:1])
    assert fates(answer) == ["failed"]


def test_a_refusal_decides_all_events_or_none() -> None:
    four = [invalid(index=n) for n in range(4)]
    assert fates(answered(400, {"invalid": four})) == ["rejected"] * 4
    answer = answered(500, {"invalid": [], "error": [failed(index=0)]})
    assert fates(answer) == ["failed"] + ["unanswered"] * 3


def test_reasons_are_bounded_and_never_empty() -> None:
    long = {"invalid": [{"index": 0, "context": {"errorsText": "x" * 10_000}}, {"index": 1}]}
    answer = answered(400, long)
    assert len(answer.verdicts[0].reason) == 500
    assert answer.verdicts[1].reason == "rejected, without a reason"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_body_is_retried_in_parts(status: int) -> None:
    document = {"detail": "the event at 0 is nested too deeply"}
    answer = answered(status, document)
    assert fates(answer) == ["unanswered"] * 4
    assert answer.too_much
    one = answered(status, document, LINES[:1])
    assert fates(one) == ["rejected"]
    assert one.verdicts[0].reason.endswith(": the event at 0 is nested too deeply")


@pytest.mark.parametrize(
    "status",
    [100, 200, 204, 301, 302, 400, 401, 403, 404, 405, 408, 415, 418, 429, 499, 502, 503, 599],
)
def test_other_responses_decide_nothing(status: int) -> None:
    for body in (b"", b"<html>", b"[]", b"7", b'{"invalid": 7', b"[" * 100_000, b"\xff"):
        for lines in (LINES, LINES[:1]):
            answer = answered(status, body, lines)
            assert set(fates(answer)) == {"unanswered"}
            assert str(status) in answer.verdicts[0].reason
            assert not answer.too_much


def test_a_redirect_is_reported_with_its_location() -> None:
    answer = answered(308, b"", location="https://example.org/v1/events")
    reason = "308 Permanent Redirect: post to https://example.org/v1/events"
    assert answer.verdicts[0].reason == reason


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("99999999999999999999", 600.0),
        (formatdate(NOW_S + 30, usegmt=True), 30.0),
        (formatdate(NOW_S - 30, usegmt=True), 0.0),
        (formatdate(NOW_S + 10**6, usegmt=True), 600.0),
        *((text, 0.0) for text in ("", "soon", "-1", "1.5", "7 s", "Thu, 99 Foo 2026")),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, wait_s: float) -> None:
    assert answered(503, b"", retry_after=text).wait_s == wait_s


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["invalid", "error", "index", "event", "meta", "id", "context", "detail"]
            ),
            inner,
            max_size=4,
        )
    ),
)
_bodies = st.binary(max_size=50) | st.builds(lambda value: json.dumps(value).encode(), _json)


@given(st.integers(100, 999), _bodies, st.text(max_size=20), st.integers(1, 4))
def test_any_response_yields_a_verdict_for_each_event(
    status: int, body: bytes, retry_after: str, count: int
) -> None:
    answer = read(status, {"retry-after": retry_after}, body, LINES[:count], NOW_S)
    assert len(answer.verdicts) == count
    assert 0 <= answer.wait_s <= 600
    for fate, reason in answer.verdicts:
        assert (fate is Fate.ACCEPTED) == (not reason)
        if fate is Fate.ACCEPTED:
            assert status in (201, 202, 207)
