"""Percent-encoded capsules are decoded, and everything else is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import quote, quote_from_bytes, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstreams.intake.document import EventProblem
from eventstreams.legacy.capsule import decode_query
from tests.legacy.capsules import CAPSULES

AROUND = st.sampled_from([("", ""), ("?", ";"), ("?", ""), ("", ";"), ("??", ";;"), ("?", "&;")])


def decoded(query: bytes, *, plus_is_space: bool = False) -> dict[str, Any]:
    return decode_query(query, bytes_max=10**6, plus_is_space=plus_is_space)


@given(CAPSULES, AROUND, st.booleans())
def test_encodings_of_javascript_and_php_are_decoded(
    capsule: dict[str, Any], around: tuple[str, str], is_php: bool
) -> None:
    """PHP escapes non-ASCII characters, and spaces, which separate the fields of logs."""
    text = json.dumps(capsule, ensure_ascii=is_php, separators=(",", ":"))
    if is_php:
        text = text.replace(" ", "\\u0020")
    encoded = quote(text, safe="" if is_php else "!~*'()")
    query = (around[0] + encoded + around[1]).encode()
    assert decoded(query) == capsule
    assert decoded(query, plus_is_space=True) == capsule


@given(CAPSULES)
def test_plus_is_a_space_only_in_raw_logs(capsule: dict[str, Any]) -> None:
    text = json.dumps(capsule, ensure_ascii=False)
    query = quote_plus(text).encode()
    assert decoded(query, plus_is_space=True) == capsule
    raw = quote(text, safe="+ ").encode()
    assert decoded(raw) == capsule


@given(CAPSULES, st.data())
def test_a_truncated_capsule_is_refused(capsule: dict[str, Any], data: Any) -> None:
    query = quote(json.dumps(capsule)).encode()
    cut = data.draw(st.integers(0, len(query) - 1))
    with pytest.raises(EventProblem) as raised:
        decoded(query[:cut])
    assert raised.value.kind == "CapsuleError"


@given(st.binary(max_size=60))
@example(b"%")
@example(b"%7")
@example(b"[" * 50)
@example(b"%EF%BB%BF{}")
@example(b"{}{}")
@example(b'{"a":1e999}')
@example(b'{"a":"\\ud800"}')
def test_any_bytes_are_an_object_or_a_problem(query: bytes) -> None:
    with contextlib.suppress(EventProblem):
        assert isinstance(decoded(query), dict)


@given(st.binary(min_size=1, max_size=40))
def test_rules_of_problems_quote_nothing(noise: bytes) -> None:
    secret = b"S3CRET" + noise
    query = quote_from_bytes(b'{"a":"' + secret + b'"').encode()
    with pytest.raises(EventProblem) as raised:
        decoded(query)
    assert "S3CRET" not in raised.value.rule


def test_the_limit_applies_to_the_encoded_query() -> None:
    query = quote('{"a":"' + "x" * 50 + '"}').encode()
    assert decode_query(query, bytes_max=len(query)) == {"a": "x" * 50}
    with pytest.raises(EventProblem, match=f"the limit is {len(query) - 1}"):
        decode_query(query, bytes_max=len(query) - 1)


def test_truncation_and_bad_escapes_are_named() -> None:
    with pytest.raises(EventProblem, match="the URL was probably cut off"):
        decoded(b"%7B%22a%22%3A1")
    with pytest.raises(EventProblem, match="byte 3 of the query is a %"):
        decoded(b"%7B%zz")


def test_numbers_are_not_rounded() -> None:
    assert decoded(b"%7B%22a%22%3A12345678901234567890%7D") == {"a": 12345678901234567890}
