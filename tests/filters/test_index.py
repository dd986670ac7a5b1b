"""The index finds every filter that an event matches, and few others."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstreams.errors import InvalidFilter
from eventstreams.filters.cel import Program, compile_filter, load_runtime
from eventstreams.filters.cel_tree import read_tree
from eventstreams.filters.document import Document, Documents
from eventstreams.filters.index import FilterIndex
from eventstreams.filters.requirements import NEVER, NOTHING_KNOWN, Cover, Key, Match, covers_of
from eventstreams.filters.selector import Selector, parse_selector
from eventstreams.model.event import Event, Partition
from eventstreams.model.frame import Frame

NAMES = ["a", "b", "n", "meta", "x y", "ä"]
TEXTS = ["", "a", "ab", "abc", "ä", "äb", "\0", "\ufffd", "\ud800", "true", "1", "s", "topic"]
VALUES: list[Any] = [
    *(True, False, None, 0, 1, -1, 1.0, 0.5, -0.0, 2**53, 2**53 + 1, 2**63, 2**64 - 1, 10**400),
    *([], ["a"], {}, {"a": 1}, {"b": {"n": "a"}}, [[1]]),
]
CONSTANTS = [
    *("true", "false", "null", "0", "1", "-1", "1.0", "0.5", "-0.0", "1u", "1e400", "0u"),
    *("9007199254740992", "9007199254740993", "9007199254740992.0", "18446744073709551615u"),
    *("9223372036854775808.0", "9223372036854775807", "b'a'", "''", "'a'", "'ab'", "'ä'"),
    *(r"'\x00'", r"'\ufffd'", "'true'", "'s'", "'topic'", "[1]", "{'a': 1}"),
]
FIELDS = [
    *("event.a", "event.b", "event.n", "event['x y']", "event['ä']", "event.a.b", "event.b.n"),
    *("event['a']['b']", "event.meta.stream", "dyn(event.a)", "event", "event.a[0]", "event.`x y`"),
    *("stream", "topic", "partition", "event.a.a"),
]


def any_value(depth: int = 3) -> st.SearchStrategy[Any]:
    simple = st.one_of(st.sampled_from(VALUES), st.sampled_from(TEXTS))
    if depth == 0:
        return simple
    below = any_value(depth - 1)
    maps = st.dictionaries(st.sampled_from(NAMES), below, max_size=3)
    return st.one_of(simple, st.lists(below, max_size=2), maps)


EVENTS = st.dictionaries(st.sampled_from(NAMES), any_value(), max_size=6)


@st.composite
def conditions(draw: st.DrawFn) -> str:
    field, constant = draw(st.sampled_from(FIELDS)), draw(st.sampled_from(CONSTANTS))
    values = ", ".join(draw(st.lists(st.sampled_from(CONSTANTS), max_size=4)))
    return draw(
        st.sampled_from(
            [
                f"{field} == {constant}",
                f"{constant} == {field}",
                f"{field} != {constant}",
                f"{field} in [{values}]",
                f"{constant} in {field}",
                f"{field} in {{{', '.join(f'{n}: 1' for n in ('true', '1', chr(39) * 2))}}}",
                f"{field}.startsWith({constant})",
                f"dyn({constant}).startsWith('a')",
                f"has(event.{draw(st.sampled_from(['a', 'b.n', 'n', 'a.a']))})",
                f"dyn({field})",
                f"dyn({constant})",
                f"has(event.a) == {constant}",
                f"event.a.exists(event, event == {constant})",
                f"[1, 2].all(x, {field} == {constant})",
                f"size({field}) > 0",
                f"type({field}) == string",
            ]
        )
    )


LIKELY = [
    *("event.a == 'a'", "event.a == 'b'", "event.a != 'a'", "event.n == 1"),
    *("event.b", "!event.b", "has(event.b)", "event.a.startsWith('a')"),
]
"""Conditions that many of `LIKELY_EVENTS` meet, so that it matters how they are combined."""
LIKELY_EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "a": st.sampled_from(["a", "b"]),
        "n": st.sampled_from([1, 1.0, True, 2]),
        "b": st.booleans(),
    },
)


DOCUMENTS = st.one_of(EVENTS, LIKELY_EVENTS, LIKELY_EVENTS, st.lists(any_value(1), max_size=2))


def combined(conditions: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.recursive(
        conditions,
        lambda inner: st.one_of(
            inner.map(lambda one: f"!({one})"),
            st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(
                lambda parts: f"({parts[0]}) {parts[1]} ({parts[2]})"
            ),
            st.tuples(inner, inner, inner).map(lambda p: f"(({p[0]}) ? ({p[1]}) : ({p[2]}))"),
            st.tuples(inner, inner).map(lambda p: f"(({p[0]}) == ({p[1]}))"),
        ),
        max_leaves=5,
    )


FILTERS = st.one_of(combined(conditions()), combined(st.sampled_from(LIKELY)))


def parsed(text: str, sample: str | None = None) -> Selector | None:
    """Return the selector; None if the runtime refuses this mixture of types."""
    try:
        return parse_selector(text, None, sample)
    except InvalidFilter:
        return None


def program(text: str) -> Program:
    found = compile_filter(text)
    assert found is not None
    return found


def framed(event: Any, offset: int = 0) -> Frame:
    value = json.dumps(event).encode()
    return Frame(Event(Partition("topic", 1), offset, 1_000, value))


def document_of(event: Any) -> Document:
    document = Documents().of(framed(event))
    assert document is not None
    return document


@given(
    st.lists(st.tuples(FILTERS, st.sampled_from([None, None, "0.1", "0.5"])), max_size=6),
    st.lists(DOCUMENTS, min_size=1, max_size=5),
)
@example([("has(event.a) == true", None)], [{"a": 1}])
@example([("event.n == 1 || event.zzz", None)], [{"n": 1}, {"n": True}, {"n": 1.0}])
@example([("event.n == 9007199254740993", None)], [{"n": 2**53}, {"n": 2**53 + 1}])
@example([("event.big == 18446744073709551615u", None)], [{"big": 2**64 - 1}])
@example([("event.a == '\ufffd'", None)], [{"a": "\0"}, {"a": "\ud800"}])
@example([("event['\ufffd'] == 'a'", None)], [{"\0": "a"}])
@example([("stream == ''", None)], [{}, {"meta": {"stream": 1}}])
def test_candidates_include_all_matching_filters(
    filters: list[tuple[str, str | None]], events: list[Any]
) -> None:
    selectors = [s for text, sample in filters if (s := parsed(text, sample)) is not None]
    index = FilterIndex[int]()
    for n, selector in enumerate(selectors):
        index.add(n, selector.covers)
    documents = Documents()
    for offset, event in enumerate(events):
        frame = framed(event, offset)
        if frame.data is None:
            continue
        found = list(index.candidates(frame, documents))
        plain = [n for n, each in enumerate(selectors) if each.select(frame, documents) is not None]
        indexed = [n for n in found if selectors[n].select(frame, documents) is not None]
        assert sorted(indexed) == plain
        assert len(set(found)) == len(found)
    for n in range(len(selectors)):
        index.remove(n)
    assert vars(index) == vars(FilterIndex[int]()), "removed items leave nothing behind"


def keys(text: str) -> list[set[tuple[str, Match, Any]]]:
    covers = program(text).covers
    return [{(".".join(key.path), key.match, key.value) for key in cover} for cover in covers]


def test_conjunctions_offer_each_condition_and_disjunctions_need_all() -> None:
    wiki = ("event.wiki", Match.EQUALS, "enwiki")
    user = ("event.user", Match.EQUALS, "U")
    assert keys("event.wiki == 'enwiki' && 'U' == event.user") == [{wiki}, {user}]
    assert keys("event.wiki == 'enwiki' || event.user == 'U'") == [{wiki, user}]
    assert keys("event.wiki == 'enwiki' || event.n > 1") == []
    assert keys("!(event.wiki != 'enwiki' || event.user != 'U')") == [{wiki}, {user}]
    assert keys("event.wiki == 'enwiki' && event.title.contains('x')") == [{wiki}]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("event.bot", ("event.bot", Match.EQUALS, b"true")),
        ("!event.bot", ("event.bot", Match.EQUALS, b"false")),
        ("event.n == 3u", ("event.n", Match.EQUALS, 3.0)),
        ("event.none == null", ("event.none", Match.EQUALS, None)),
        ("event.title.startsWith('User:')", ("event.title", Match.STARTS_WITH, "User:")),
        ("has(event.meta.dt)", ("event.meta.dt", Match.EXISTS, None)),
        ("'patrolled' in event", ("event.patrolled", Match.EXISTS, None)),
        ("topic == 't'", ("topic", Match.EQUALS, "t")),
        ("stream.startsWith('s')", ("stream", Match.STARTS_WITH, "s")),
        ("partition == 1", ("partition", Match.EQUALS, 1.0)),
    ],
)
def test_these_conditions_are_indexed(text: str, key: tuple[str, Match, Any]) -> None:
    assert keys(text) == [{key}]


def test_a_list_is_indexed_by_its_values() -> None:
    assert keys("event.a in ['x', 1, 1.0]") == [
        {("event.a", Match.EQUALS, "x"), ("event.a", Match.EQUALS, 1.0)}
    ]
    assert program("event.a in []").covers == NEVER
    assert program("event.a in ['x', [1]]").covers == NOTHING_KNOWN


def lines_run(work: Callable[[], object]) -> int:
    """Return how many lines of Python this runs, as a measure of work."""
    count = 0

    def trace(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def alternatives(count: int, begin: int = 0) -> str:
    return " || ".join(f"event.f{n}" for n in range(begin, begin + count))


def test_paths_that_an_event_does_not_have_take_no_time() -> None:
    document = document_of({"wiki": "w", "meta": {"domain": "d"}, "title": "T"})
    work: list[int] = []
    for filters in (1, 100):
        index = FilterIndex[int]()
        for n in range(filters):
            index.add(n, program(alternatives(32, 32 * n)).covers)
        assert index.find(document) == []
        work.append(lines_run(lambda index=index: index.find(document)))  # type: ignore[misc]
    assert work[1] == work[0]


def test_fields_that_are_not_indexed_take_no_time() -> None:
    index = FilterIndex[int]()
    index.add(1, program("event.a.b == 1").covers)
    work: list[int] = []
    for fields in (2, 2_000):
        below = {**{f"f{n}": n for n in range(fields)}, "b": 1}
        document = document_of({**below, "a": below})
        assert index.find(document) == [1]
        work.append(lines_run(lambda document=document: index.find(document)))  # type: ignore[misc]
    assert work[1] == work[0]


def test_an_index_tries_few_lengths_of_prefixes() -> None:
    index = FilterIndex[int]()
    for n in range(400):
        index.add(n, program(f"event.title.startsWith('{'A' * n}x')").covers)
    document = document_of({"title": "A" * 400})
    assert lines_run(lambda: index.find(document)) < 200, "400 lengths take 1,200"
    assert 7 in index.find(document_of({"title": "A" * 7 + "x"}))
    assert 300 in index.find(document_of({"title": "A" * 300 + "x"}))


def test_filters_with_many_paths_or_keys_are_not_indexed() -> None:
    assert len(program(alternatives(32)).covers[0]) == 32
    assert program(alternatives(33)).covers == NOTHING_KNOWN
    assert program(f"({alternatives(33)}) && event.a").covers == program("event.a").covers
    assert len(program(f"event.a in {list(range(256))}").covers[0]) == 256
    assert program(f"event.a in {list(range(257))}").covers == NOTHING_KNOWN
    deepest = ".".join(["event", *"abcdefgh"])
    assert len(program(deepest).covers[0]) == 1
    assert program(f"{deepest}.i").covers == NOTHING_KNOWN


def work_of_covers(text: str) -> int:
    runtime = load_runtime()
    kinds = runtime.Type
    environment = runtime.NewEnv(variables={"event": kinds.Map(kinds.STRING, kinds.DYN)})
    tree = read_tree(environment.compile(text).serialize())
    return lines_run(lambda: covers_of(tree))


def conditional(depth: int) -> str:
    text = "event.a"
    for _ in range(depth):
        text = f"({text} ? event.b : event.c)"
    return text


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (conditional, 6),
        (alternatives, 30),
        (lambda size: f"event.a in {list(range(size))}", 120),
        (lambda size: f"1 in [{alternatives(size).replace('||', ',')}]", 30),
    ],
)
def test_covers_of_twice_the_text_take_about_twice_the_work(
    make: Callable[[int], str], size: int
) -> None:
    assert work_of_covers(make(2 * size)) < 3 * work_of_covers(make(size))


def test_an_item_is_filed_where_fewest_others_are() -> None:
    index = FilterIndex[int]()
    for n in range(1_000):
        index.add(n, program(f"event.wiki == 'w' && event.user == 'u{n}'").covers)
    found = list(index.find(document_of({"wiki": "w", "user": "u7"})))
    assert 7 in found
    assert len(found) <= 2


def test_a_unique_value_beats_a_common_one_and_any_value_beats_a_flag() -> None:
    index = FilterIndex[str]()

    def add(name: str, text: str) -> Cover | None:
        """Add a filter, and return what the index files it under."""
        covers = program(text).covers
        chosen = index.choose(covers)
        index.add(name, covers)
        return chosen

    wiki = Key(("event", "wiki"), Match.EQUALS, "w")
    user = Key(("event", "user"), Match.EQUALS, "a")
    assert add("first", "event.bot && event.wiki == 'w'") == (wiki,)
    assert add("second", "event.wiki == 'w' && event.user in ['a']") == (user,)
    assert add("third", "event.n > 1") is None
    assert list(index.find(document_of({"wiki": "v", "bot": True}))) == ["third"]


@pytest.mark.parametrize("event", [[1], {}, {"meta": {"id": "x"}}, {"meta": 1.5}])
def test_samples_are_found_by_one_search_for_the_event(event: Any) -> None:
    index = FilterIndex[float]()
    shares = [n / 100 for n in range(1, 100)]
    chosen: dict[float, Selector] = {}
    for share in shares:
        selector = parsed("true", str(share))
        assert selector is not None
        chosen[share] = selector
        index.add(share, ((Key((), Match.SAMPLE, share),),))
    frame, documents = framed(event), Documents()
    if frame.data is None:
        return
    document = documents.of(frame)
    assert isinstance(document, Document)
    found = set(index.find(document))
    if isinstance(event, dict):
        assert found == {s for s, one in chosen.items() if one.select(frame, documents)}
    assert found == {share for share in shares if share >= min(found, default=2.0)}
