"""The error of a rejected filter says what to write instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import InvalidFilter
from eventstreams.filters.cel import LENGTH_MAX, compile_filter
from eventstreams.filters.cel_text import Place
from eventstreams.filters.hints import hint_for

MISTAKES = [
    ("event.wiki = 'enwiki'", "write == to compare", "= "),
    ("event.n === 1", "write == to compare", "==="),
    ("event.n <> 1", "write != for unequal values", "<>"),
    ("event.n => 1", "write >= for at least", "=>"),
    ("event.bot & event.minor", "write && for and", "& "),
    ("event.bot | event.minor", "write || for or", "| "),
    ("event.bot and event.minor", "write && for and", "and"),
    ("event.bot AND event.minor", "write && for and", "AND"),
    ("event.bot or event.minor", "write || for or", "or"),
    ("not event.bot", "write ! for not", "not"),
    ("event.bot and not event.minor", "write && for and", "and"),
    ("event.title like '%x%'", "event.title.contains('text') or event.title.matches(", "like"),
    ("event.title =~ 'x'", "event.title.matches('^A')", "=~"),
    ("event.title is null", "write == null", "is"),
    ("event.wiki IN ['a']", "in small letters", "IN"),
    ("event.wiki in ('a', 'b')", "a list in square brackets", "in ("),
    ("event.n between 1 and 2", "event.n >= 1 && event.n <= 9", "between"),
    ("event.wiki eq 'a'", "write == to compare", "eq"),
    ("event.wiki == \u201cenwiki\u201d", "write straight quotes", "\u201c"),
    ("event.wiki == 'enwiki", "the text that begins here does not end: add '", "'enwiki"),
    ("event->wiki == 'a'", "write a dot", "->"),
    ("event.bot;", "leave out the semicolon", ";"),
    ("event.bot &&", "the expression ends too early", ""),
    ("event.in == 1", "write ['in']", "in =="),
    ("wiki == 'enwiki'", "write event.wiki", "wiki"),
    ("dewiki", "event.title.contains('dewiki') to search text", "dewiki"),
    ("event.bot && !minor", "write event.minor", "minor"),
    ("meta.domain == 'x'", "write event.meta.domain", ".domain"),
    ("evnt.wiki == 'a'", "did you mean event.wiki?", ".wiki"),
    ("event.wiki == enwiki", "write 'enwiki' for text, or event.enwiki for a field", "enwiki"),
    ("event.bot == True", "write true", "True"),
    ("event.title == NULL", "write null", "NULL"),
    ("event.rev-id == 1", "write event['rev-id']", "id"),
    ("event.title.startswith('x')", "event.title.startsWith(", "('x')"),
    ("event.title.contain('x')", "did you mean contains()?", "('x')"),
    ("contains(event.title, 'x')", "write it after the field: event.title.contains(", "(event"),
    ("event.title.lower() == 'x'", "there is no lower()", "()"),
    ("len(event.title) > 3", "write size(event.title)", "(event"),
]


@pytest.mark.parametrize(("text", "advice", "shown"), MISTAKES)
def test_a_common_mistake_is_answered_with_what_to_write(
    text: str, advice: str, shown: str
) -> None:
    with pytest.raises(InvalidFilter) as refused:
        compile_filter(text)
    first, line, caret = str(refused.value).split("\n")
    assert advice in first
    assert line == text
    assert text[caret.index("^") :].startswith(shown), "the caret is below the mistake"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("event.wiki contains 'en'", "write event.wiki.contains('en')"),
        ("event.bot && event.meta.domain like '%x%'", "write event.meta.domain.contains('text')"),
        ("contains(event.user, 'x')", "write it after the field: event.user.contains('x')"),
        ("event.bot && len(event.user) > 3", "write size(event.user)"),
        ("event.user.lower() == 'x'", "write event.user.matches("),
        ("event.len between 1 and 2", "write event.len >= 1 && event.len <= 9"),
        ("event.user in ('a', 'b')", "event.user in ['a', 'b']"),
        ("event.wiki == 'a' && evnt.title == 'b'", "did you mean event.title?"),
        ("x contains 'en'", "write event.title.contains('en')"),
    ],
)
def test_advice_has_the_field_and_the_text_of_the_filter(text: str, advice: str) -> None:
    with pytest.raises(InvalidFilter) as refused:
        compile_filter(text)
    first = str(refused.value).split("\n")[0]
    assert advice in first
    assert "Syntax error" not in first


@pytest.mark.parametrize(
    "text", ["event.and == 1", "event.like", "event.note == 'a and b = c'", "event['is'] == 'or'"]
)
def test_words_that_are_fields_or_text_are_no_mistakes(text: str) -> None:
    assert compile_filter(text) is not None


@given(st.text(max_size=60), st.text(max_size=40), st.integers(1, 3), st.integers(1, 70))
def test_any_hint_points_into_the_text(text: str, message: str, line: int, column: int) -> None:
    hint = hint_for(text, message, Place(line, column))
    assert hint is None or hint.place.line <= text.count("\n") + 1


def test_the_longest_text_is_searched_once() -> None:
    for text in ("=" * LENGTH_MAX, "'" * LENGTH_MAX, "a " * (LENGTH_MAX // 2), "(" * LENGTH_MAX):
        with pytest.raises(InvalidFilter):
            compile_filter(text)
