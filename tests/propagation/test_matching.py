"""Patterns match what they match in change-propagation."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.propagation.matching import (
    MISSING,
    PatternError,
    SearchTooLong,
    compile_literal,
    compile_pattern,
    stable,
)

EVENT: dict[str, Any] = {
    "meta": {"uri": "a/fake/uri/for/you", "domain": "en.wikipedia.org"},
    "number": 1,
    "float": 1.5,
    "text": "oolala",
    "yes": True,
    "nothing": None,
    "list": [2, "1", "3", "4", 5, {"a": 1, "b": 2}],
    "zeros": [0, "", False],
    "empty": [],
}


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ({"number": 1, "text": "oolala"}, True),
        ({"number": 2, "text": "oolala"}, False),
        ({"number": "1"}, False),
        ({"number": 1.0}, True),
        ({"number": True}, False),
        ({"yes": True}, True),
        ({"yes": 1}, False),
        ({"float": 1.5}, True),
        ({}, False),
        ({"text": "/(?:la)+/"}, True),
        ({"text": "/lah/"}, False),
        ({"text": "/OOLA/i"}, True),
        ({"number": "/1/"}, False),
        ({"missing": "/undefined/"}, False),
        ({"missing": "undefined"}, True),
        ({"nothing": "undefined"}, False),
        ({"text": "undefined"}, False),
        ({"meta": {"missing": "undefined"}}, True),
        ({"missing": {"missing": "undefined"}}, False),
        ({"meta": {"domain": "en.wikipedia.org"}}, True),
        ({"text": {"length": 6}}, False),
        ({"list": ["1", 2, r"/(\d)/"]}, True),
        ({"list": ["1", 2, 3]}, False),
        ({"list": [{"a": 1}]}, True),
        ({"list": [{"a": 2}]}, False),
        ({"list": []}, True),
        ({"empty": []}, True),
        ({"text": []}, False),
        ({"zeros": [0]}, False),
        ({"zeros": [""]}, False),
        ({"zeros": [False]}, False),
        ({"text": "/oolala$/"}, True),
    ],
)
def test_a_pattern_matches_as_change_propagation_does(
    pattern: dict[str, Any], matches: bool
) -> None:
    assert compile_pattern(pattern).matches(EVENT) is matches


def test_names_that_upstream_cannot_compile_work() -> None:
    pattern = compile_pattern({"a-b": "it's"})
    assert pattern.matches({"a-b": "it's"})
    assert not pattern.matches({"a-b": "its"})


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ({"a": {"b": {}}}, ("a", "b")),
        ({"a": None}, ("a",)),
        ({"a": [1, "/(/"]}, ("a", 1)),
        ({"a": "/x/y/"}, ("a",)),
        ({"a": "/(?<n>x)(y)/"}, ("a",)),
        ("text", ()),
        ([], ()),
    ],
)
def test_an_invalid_pattern_is_refused_with_its_path(
    pattern: Any, path: tuple[str | int, ...]
) -> None:
    with pytest.raises(PatternError) as caught:
        compile_pattern(pattern)
    assert caught.value.path == path


def test_unnamed_groups_are_captured_as_a_list() -> None:
    pattern = compile_pattern({"meta": {"uri": r"/\/fake\/([^\/]+)/"}, "number": 1})
    assert pattern.captures(EVENT) == {"meta": {"uri": ["/fake/uri", "uri"]}, "number": 1}


def test_named_groups_are_captured_by_name() -> None:
    pattern = compile_pattern({"meta": {"uri": r"/(?<first>\w+)\/(?<second>\w+)(?<third>!)?/"}})
    assert pattern.captures(EVENT) == {"meta": {"uri": {"first": "a", "second": "fake"}}}


def test_mixed_groups_are_refused_in_the_words_of_upstream() -> None:
    with pytest.raises(ValueError, match="Mixing named and unnamed capture groups"):
        compile_literal("/(?<a>x)(y)/")
    assert compile_literal("/(?<a>x)(?:y)/") is not None


@pytest.mark.parametrize(
    ("literal", "text", "found"),
    [
        ("/a$/", "a\n", False),
        ("/a$/m", "a\nb", True),
        (r"/^\d+$/", "٣", False),
        (r"/^\w$/", "é", False),
        (r"/^\s$/", "\u00a0", True),
        (r"/^\S$/", "\u00a0", False),
        (r"/^[\s]$/", "\u2003", True),
        (r"/^[/]$/", "/", True),
        (r"/(?<=a)b/", "ab", True),
        ("/./s", "\n", True),
        ("/^a{,2}$/", "a{,2}", True),
        ("/^a{e}$/", "a{e}", True),
        ("/^a{2}$/", "aa", True),
        (r"/^\{a\}$/", "{a}", True),
        ("/^[[a]$/", "[", True),
        ("/^[a&&b]$/", "&", True),
        ("/^[a||b~~]$/", "~", True),
    ],
)
def test_regular_expressions_behave_as_in_javascript(literal: str, text: str, found: bool) -> None:
    expression = compile_literal(literal)
    assert expression is not None
    assert expression.matches(text) is found


@pytest.mark.parametrize("text", ["plain", "/path/to", "//", "/", "/sys/queue", "a/b/"])
def test_plain_text_is_compared(text: str) -> None:
    assert compile_literal(text) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab/", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=1), inner),
    max_leaves=8,
)


@given(JSON, JSON)
def test_no_event_makes_a_pattern_raise(pattern: Any, event: Any) -> None:
    try:
        compiled = compile_pattern({"a": pattern})
    except PatternError:
        return
    assert compiled.matches({"a": event}) in (True, False)
    compiled.captures({"a": event})
    assert compiled.matches(MISSING) is False


def test_stable_values_distinguish_booleans_from_numbers() -> None:
    assert stable({"a": 1, "b": [True]}) == stable({"b": [True], "a": 1})
    assert stable([True]) != stable([1])


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        ("/^(a|a)+$/", "a" * 60 + "!"),
        ("/^(a|b|ab)+$/", "ab" * 60 + "!"),
        (r"/^(\w+\s?)+$/", "a" * 60 + "!"),
        ("/^(?:.*a){20}$/", "a" * 60 + "!"),
        (r"/^(a+)+\1$/", "a" * 60 + "!"),
        ("/.*foo/", "x" * 1_000_000),
        ("/(x+x+)+y/", "x" * 1_000),
    ],
)
def test_no_text_keeps_a_search_busy_for_ever(literal: str, text: str) -> None:
    pattern = compile_pattern({"a": literal})
    with contextlib.suppress(SearchTooLong):
        assert not pattern.matches({"a": text})


def test_a_search_that_takes_too_long_is_an_error() -> None:
    pattern = compile_pattern({"a": "/^(a|a)+$/"})
    assert pattern.matches({"a": "aaa"})
    with pytest.raises(SearchTooLong):
        pattern.matches({"a": "a" * 60 + "!"})
    with pytest.raises(SearchTooLong):
        pattern.captures({"a": "a" * 60 + "!"})
