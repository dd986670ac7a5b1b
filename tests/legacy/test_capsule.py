"""Percent-encoded capsules: whatever clients encode is read, and nothing else gets through."""

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

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CAPSULES: st.SearchStrategy[dict[str, Any]] = st.dictionaries(TEXT, VALUES, max_size=5)
AROUND = st.sampled_from([("", ""), ("?", ";"), ("?", ""), ("", ";"), ("??", ";;"), ("?", "&;")])


def decoded(query: bytes, *, plus_is_space: bool = False) -> dict[str, Any]:
    return decode_query(query, bytes_max=10**6, plus_is_space=plus_is_space)


@given(CAPSULES, AROUND, st.booleans())
def test_what_javascript_and_php_encode_is_read_back(
    capsule: dict[str, Any], around: tuple[str, str], is_php: bool
) -> None:
    """PHP escapes what is not ASCII, and spaces too, so that a log with spaces can hold it."""
    text = json.dumps(capsule, ensure_ascii=is_php, separators=(",", ":"))
    if is_php:
        text = text.replace(" ", "\\u0020")
    encoded = quote(text, safe="" if is_php else "!~*'()")
    query = (around[0] + encoded + around[1]).encode()
    assert decoded(query) == capsule
    assert decoded(query, plus_is_space=True) == capsule


@given(CAPSULES)
def test_a_plus_is_a_space_only_where_the_processor_read_it(capsule: dict[str, Any]) -> None:
    text = json.dumps(capsule, ensure_ascii=False)
    query = quote_plus(text).encode()
    assert decoded(query, plus_is_space=True) == capsule
    raw = quote(text, safe="+ ").encode()
    assert decoded(raw) == capsule


@given(CAPSULES, st.data())
def test_a_capsule_that_was_cut_is_never_taken(capsule: dict[str, Any], data: Any) -> None:
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
def test_problems_say_the_rule_without_the_bytes(noise: bytes) -> None:
    secret = b"S3CRET" + noise
    query = quote_from_bytes(b'{"a":"' + secret + b'"').encode()
    with pytest.raises(EventProblem) as raised:
        decoded(query)
    assert "S3CRET" not in raised.value.rule


def test_the_limit_is_of_the_query_as_it_came() -> None:
    query = quote('{"a":"' + "x" * 50 + '"}').encode()
    assert decode_query(query, bytes_max=len(query)) == {"a": "x" * 50}
    with pytest.raises(EventProblem, match=f"at most {len(query) - 1} are taken"):
        decode_query(query, bytes_max=len(query) - 1)


def test_a_cut_is_named_and_so_is_a_bad_escape() -> None:
    with pytest.raises(EventProblem, match="the URL was probably cut off"):
        decoded(b"%7B%22a%22%3A1")
    with pytest.raises(EventProblem, match="byte 3 of the query is a %"):
        decoded(b"%7B%zz")


def test_numbers_are_not_rounded() -> None:
    assert decoded(b"%7B%22a%22%3A12345678901234567890%7D") == {"a": 12345678901234567890}
