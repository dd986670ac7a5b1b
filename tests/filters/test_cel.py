"""Filters: their meaning, their canonical text, what is refused, and that none does harm."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstreams.errors import InvalidFilter
from eventstreams.filters import cel
from eventstreams.filters.cel import Program, compile_filter
from eventstreams.filters.cel_text import UnknownToken, canonical, offset_in_text, tokenise
from eventstreams.filters.document import Document, Documents
from eventstreams.model.event import Event, Partition
from eventstreams.model.frame import Frame
from tests.support.strategies import event_documents

EVENT = {
    "n": 3,
    "f": 1.5,
    "t": "text",
    "yes": True,
    "none": None,
    "list": [1, 2, {"q": "x"}],
    "tags": ["a", "b"],
    "in": 1,
    "big": 2**64 - 1,
    "least": -(2**63),
    "huge": 10**30,
    "cut": "a\0b",
    "lone": "\ud800",
    "quoted": 'a"b\\c',
    "meta": {"stream": "s", "dt": "2026-01-31T12:00:00Z"},
}


def frame_of(event: Any, offset: int = 42, timestamp_ms: int = 1_769_860_800_123) -> Frame:
    value = json.dumps(event).encode()
    return Frame(Event(Partition("topic", 7), offset, timestamp_ms, value))


def document_of(event: Any, offset: int = 42, timestamp_ms: int = 1_769_860_800_123) -> Document:
    document = Documents().of(frame_of(event, offset, timestamp_ms))
    assert document is not None
    return document


def program(text: str) -> Program:
    found = compile_filter(text)
    assert found is not None
    return found


def matches(text: str, event: Any = EVENT) -> bool:
    return program(text).matches(document_of(event))


TRUE = [
    "event.n == 3",
    "event.n == 3.0",
    "event.n > 2 && event.f < 2.0",
    "event.n + 1 == 4",
    'event.t + "!" == "text!"',
    "event.yes",
    "!(event.n == 4)",
    "event.none == null",
    "event.zzz == 1 || event.n == 3",
    "has(event.n) && !has(event.zzz)",
    "has(event.meta.dt)",
    '"n" in event',
    "event.n in [1, 2, 3]",
    "event.list[0] == 1",
    'event.list[2].q == "x"',
    "event.list.exists(x, x == 2)",
    'event.tags.all(x, x in ["a", "b"])',
    'event.tags.exists_one(x, x == "a")',
    "event.tags.exists(x, x == event.tags[1])",
    'event.exists(name, name == "tags")',
    'event["in"] == 1',
    "event.`in` == 1",
    'event.t.matches("^te.t$")',
    r"""matches(event.t, r'^\w+$')""",
    'event.t.startsWith("te") && event.t.endsWith("xt") && event.t.contains("ex")',
    "size(event.t) == 4",
    "event.big > 9.0e18",
    "event.least < 0",
    "event.huge > 1.0e29",
    r'event.cut == "a\uFFFDb"',
    r'event.lone == "\uFFFD"',
    r"""event.quoted == 'a"b\\c'""",
    'event.meta.topic == "topic"',
    'stream == "s" && topic == "topic" && partition == 7 && offset == 42',
    'timestamp == timestamp("2026-01-31T12:00:00.123Z")',
    'timestamp - duration("1s") < timestamp(event.meta.dt)',
    "timestamp.getFullYear() == 2026",
    "dyn(event.n) == 3",
]


@pytest.mark.parametrize("text", TRUE)
def test_true_expressions_match(text: str) -> None:
    assert matches(text)
    negation = f"!({text})"
    assert not matches(negation)


@pytest.mark.parametrize(
    "text",
    [
        "event.zzz == 1",
        "event.zzz.y",
        "has(event.zzz.y)",
        "event.meta.zzz.y == 1",
        "event.t.y == 1",
        "event.t > 1",
        "event.t",
        "event.n",
        "event.none",
        "event.list",
        "event.yes ? event.n : false",
        "event.list[9] == 1",
        "event.list.all(x, x > 0)",
        "event.t.exists(x, true)",
        "event.n / 0 == 1",
        "event.n + event.least - 4 < 0",
        "int(event.t) == 1",
        "timestamp(event.t) < timestamp",
        "event.t + event.n == 1",
        'event.cut == "a"',
    ],
)
def test_expressions_that_cannot_be_evaluated_do_not_match(text: str) -> None:
    assert not matches(text)


@pytest.mark.parametrize("text", ["true", "event.n == 3 || true", "!has(event.n)"])
def test_an_array_never_matches(text: str) -> None:
    assert not matches(text, [{"n": 3}])


def test_stream_is_empty_if_the_event_names_none() -> None:
    for meta in (None, {}, {"stream": None}, {"stream": 5}):
        assert matches('stream == ""', {"meta": meta})
    assert matches('stream == ""', {})


@pytest.mark.parametrize("timestamp_ms", [-(2**63), -(10**14), -1, 0, 10**15, 2**63 - 1])
def test_no_timestamp_is_out_of_range(timestamp_ms: int) -> None:
    document = document_of({}, timestamp_ms=timestamp_ms)
    assert program("timestamp.getFullYear() >= 1").matches(document)
    assert program('timestamp >= timestamp("1970-01-01T00:00:00Z")').matches(document) is (
        timestamp_ms >= 0
    )


def test_filters_see_the_event_as_clients_receive_it() -> None:
    assert matches("event.meta.offset == offset && event.meta.partition == partition", {})
    assert matches('event.meta.offset == 42 && event.meta.x == "y"', {"meta": {"x": "y"}})


@pytest.mark.parametrize("text", ["", " ", "\t\r\n"])
def test_blank_text_is_no_filter(text: str) -> None:
    assert compile_filter(text) is None


# (text, message, line, column)
INVALID = [
    ("event.a ==", "the expression ends too early", 1, 11),
    ("true &&\n  event.a &&", "the expression ends too early", 2, 13),
    ("true\n&& foo == 1", "undeclared reference to 'foo'", 2, 4),
    ('"é🎉" + 1 == 2', "found no matching overload for '_+_' applied to '(string, int)'", 1, 6),
    ("event.é == 1", "Syntax error: token recognition error at: 'é'", 1, 7),
    ('event.a == "abc', "the text that begins here does not end", 1, 12),
    ("event.a = 1", "write == to compare", 1, 9),
    ("/* x */ true", "Syntax error: mismatched input '/'", 1, 1),
    ('event.a == "\\ud800"', "Invalid string literal", 1, 12),
    ("event.a > 9223372036854775808", "invalid int literal", 1, 11),
    ("// nothing", "the expression is empty", 1, 1),
    ("  1", "the result must be a bool, but is int", 1, 3),
    ("event", "the result must be a bool, but is map<string, dyn>", 1, 1),
    ("timestamp", "the result must be a bool, but is timestamp", 1, 1),
    ("true\0", "the character U+0000 is not allowed in a filter", 1, 5),
    ("\n'\ud800'", "the character U+D800 is not allowed in a filter", 2, 2),
    ("event.l.map(x, x) == []", "map() is not supported: use all() or exists()", 1, 9),
    ("size(event.l.filter(x, true)) > 0", "filter() is not supported", 1, 14),
    ("bytes(event.t) == b''", "there is no function bytes()", 1, 1),
    ("event.`matches`('a')", "", 1, None),
    ("google.protobuf.Struct{} == {}", "messages are not supported", 1, 1),
    ("event.t.matches(event.p)", "a regular expression must be a literal string", 1, 9),
    ("event.t.matches('a' + 'b')", "a regular expression must be a literal string", 1, 9),
    ("matches('a', event.p ? 'a' : 'b')", "a regular expression must be a literal string", 1, 1),
    ("event.t.matches('(')", "invalid regular expression: missing ): (", 1, 17),
    ("event.t.matches('a{1001}')", "a regular expression of about", 1, 17),
    ("event.t.matches('(a[bc]{9}){9}')", "a regular expression of about", 1, 17),
    (
        "event.t.matches('[a-z]{60}')||event.t.matches('[a-z]{60}')",
        "a regular expression of about",
        1,
        17,
    ),
    ("event.t.matches(r'\\pL\\PN')", "a regular expression of about", 1, 17),
    ("event.l.all(x, x.matches('a'))", "a regular expression of about", 1, 26),
    ("event.l.all(x, x + 1 > 2)", "+ is not supported within all()", 1, 18),
    (
        "event.l.all(x, x in [" + "1," * 40 + "1])",
        "a loop over up to",
        1,
        9,
    ),
    ("+".join(["event.n"] * 10) + " > 1", "+ is used more than 8 times", 1, 72),
    ("event.a in [1, event.b]", "lists and maps may only contain literals", 1, 16),
    ("event.a == {'a': event.b}", "lists and maps may only contain literals", 1, 18),
    ("[[1, [event.a]]].exists(x, x == x)", "lists and maps may only contain literals", 1, 7),
]


@pytest.mark.parametrize(("text", "message", "line", "column"), INVALID, ids=range(len(INVALID)))
def test_an_invalid_filter_is_refused_with_reason_and_place(
    text: str, message: str, line: int, column: int | None
) -> None:
    with pytest.raises(InvalidFilter) as caught:
        compile_filter(text)
    detail = caught.value.detail
    assert message in detail
    detail.encode()  # a lone surrogate would make the answer fail
    first, shown, caret = detail.split("\n")
    assert first.startswith(f"Invalid filter at line {line}, column ")
    assert "expecting" not in first
    if column is not None:
        assert f"column {column}:" in first
    at = int(re.findall(r"column (\d+)", first)[0]) - 1
    its_line = text.split("\n")[line - 1]
    cut = max(0, at - 60)
    assert caret == " " * (at - cut) + "^"
    assert shown[: at - cut] == re.sub("[^ -~é🎉]", " ", its_line[cut:at])
    assert len(shown) <= 120


def test_the_length_of_a_filter_is_limited() -> None:
    longest = "true //" + "x" * (cel.LENGTH_MAX - 7)
    assert program(longest).text == "true"
    with pytest.raises(InvalidFilter, match="has 2049 characters; the limit is 2048"):
        compile_filter(longest + "x")


# Spelling

TOKENS = [
    *("event", "x", "in", "r", "b", "true", "null", "has", "all", "`a b`"),
    *("1", "2u", "0x1F", "1.5", ".5", "1e3", "2E-7"),
    *('"a // b"', "'it''s'", "r'\\d'", 'b"x"', "bR'''a\n'b'''", '"""a"b"""', r'"\"\\"', "''"),
    *("==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":"),
    *(".", ",", "(", ")", "[", "]", "{", "}"),
]
BLANKS = st.sampled_from([" ", "\t", "\n", "\r\n", "  \f ", " // x\n", " //\r'\n", "\t//\n// y\n "])


@given(st.lists(st.sampled_from(TOKENS), max_size=12), st.data())
def test_canonical_text_keeps_the_tokens_and_nothing_else(
    texts: list[str], data: st.DataObject
) -> None:
    spaced = "".join(text + data.draw(BLANKS) for text in texts)
    tokens = tokenise(spaced)
    expected = [t.text for t in tokenise(" ".join(texts))]
    assert [t.text for t in tokens] == expected
    same = canonical(tokens)
    assert [t.text for t in tokenise(same)] == expected
    assert canonical(tokenise(same)) == same
    assert all(spaced[t.offset :].startswith(t.text) for t in tokens)


@given(st.lists(st.sampled_from(TOKENS), min_size=1, max_size=12), st.data())
def test_places_in_canonical_text_are_found_in_the_text(
    texts: list[str], data: st.DataObject
) -> None:
    spaced = "".join(text + data.draw(BLANKS) for text in texts)
    tokens = tokenise(spaced)
    same = canonical(tokens)
    for ours, theirs in zip(tokenise(same), tokens, strict=True):
        for within in (0, len(ours.text) - 1):
            assert offset_in_text(tokens, ours.offset + within) == theirs.offset + within
    assert offset_in_text(tokens, len(same)) == tokens[-1].offset + len(tokens[-1].text)


@pytest.mark.parametrize("texts", [(".", "1"), ("1", "."), ("1", ".5"), ("!", "=="), ("r", '"a"')])
def test_canonical_text_does_not_fuse_tokens(texts: tuple[str, str]) -> None:
    tokens = tokenise(" ".join(texts))
    assert [t.text for t in tokenise(canonical(tokens))] == list(texts)


@given(st.text("""ab\"'\\`rR/.0x1e+-!=&|[({})], \n\r\t"""))
def test_canonical_text_is_stable(text: str) -> None:
    try:
        tokens = tokenise(text)
    except UnknownToken as error:
        tokenise(text[: error.offset])  # the part before the error is complete
        return
    same = canonical(tokens)
    assert canonical(tokenise(same)) == same
    assert [t[:2] for t in tokenise(same)] == [t[:2] for t in tokens]


def test_canonical_text_has_conventional_spacing() -> None:
    text = 'has ( event . a )&&!event . b||event.c[ "x" ] in[1,-2]?true:event.d . exists( x,x>=.5 )'
    assert canonical(tokenise(text)) == (
        'has(event.a) && !event.b || event.c["x"] in [1, - 2] ? true : event.d.exists(x, x >= .5)'
    )


names = st.sampled_from(["n", "t", "yes", "list", "zzz", "meta.dt", "meta.stream"])
comparisons = st.builds(
    "event.{}{}{}".format,
    names,
    st.sampled_from(["==", "!=", "<", ">="]),
    st.sampled_from(["3", "-1", "1.5", '"te//xt"', "'s'", "true", "null", "[1,2]", "event.n"]),
)
expressions = st.recursive(
    comparisons | names.map("has(event.{})".format) | names.map("event.{}".format),
    lambda inner: (
        st.builds("({})".format, inner)
        | st.builds("!({})".format, inner)
        | st.builds("{}&&{}".format, inner, inner)
        | st.builds("{}||{}".format, inner, inner)
        | st.builds("({})?({}):({})".format, inner, inner, inner)
        | st.builds("event.list.exists(x,x==2||{})".format, inner)
    ),
    max_leaves=4,
)


@given(expressions, st.data())
def test_filters_that_differ_in_spacing_are_the_same(text: str, data: st.DataObject) -> None:
    spaced = "".join(token.text + data.draw(BLANKS) for token in tokenise(text))
    try:
        one = compile_filter(text)
    except InvalidFilter:
        with pytest.raises(InvalidFilter):
            compile_filter(spaced)
        return
    assert one is not None
    assert program(spaced) is one
    assert program(one.text) is one
    document = document_of(EVENT)
    raw = cel._environment().compile(spaced).eval(cel._activate(document))
    as_written = raw.type() == cel.load_runtime().Type.BOOL and raw.value() is True
    assert one.matches(document) == as_written


def test_the_cache_of_programs_is_bounded() -> None:
    first = program("offset == 0")
    assert program("offset==0 // again") is first
    for i in range(1, cel._PROGRAMS_MAX + 1):
        compile_filter(f"offset == {i}")
    assert cel._compiled.cache_info().currsize == cel._PROGRAMS_MAX
    assert program("offset == 0") is not first


@pytest.mark.parametrize(
    "text",
    ["event.a == nope1", "event.a==nope2", "event  .matches( 'a' )", "event.a == 1 &&", "$a"],
)
def test_a_refused_filter_is_compiled_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_ = cel._compile

    def counted(text: str) -> Any:
        compiled.append(text)
        return compile_(text)

    monkeypatch.setattr(cel, "_compile", counted)
    with pytest.raises(InvalidFilter):
        compile_filter(text)
    assert len(compiled) == 1


# Harm

HOSTILE = [
    "(" * 1020 + "true" + ")" * 1020,
    "(" * 2048,
    "[" * 2048,
    "!" * 2044 + "true",
    "- " * 1000 + "1 > 0",
    "&&".join(["true"] * 340),
    "||".join(["false"] * 290),
    "true?true:" * 200 + "true",
    "+".join(["1"] * 1000) + ">0",
    "-".join(["1"] * 1000) + ">0",
    "event" + ".a" * 1020,
    "event" + "[0]" * 600,
    "size(" * 300 + "event" + ")" * 300,
    "[" * 1000 + "]" * 1000 + "==[]",
    '{"a":' * 250 + "1" + "}" * 250 + "=={}",
    "".join(f"[1].all(x{i}," for i in range(100)) + "true" + ")" * 100,
    'event.t.matches("' + "a{0,999}" * 200 + '")',
    'event.t.matches("' + "(" * 900 + ")" * 900 + '")',
    'event.t.matches("((a{100}){100}){100}")',
    '["a"].map(x,x+x)' + ".map(x,x+x)" * 30 + ".size() > 0",
    "".join(f"[{v}+{v}].exists({w}," for v, w in ("1b", "bc", "cd", "de")) + "true" + ")" * 4,
    "".join(f"[[{v},{v}]].exists({w}," for v, w in ("1b", "bc", "cd", "de")) + "e==e" + ")" * 4,
    '"' * 2048,
    "'''" + "\\" * 2000,
    "//" * 1024,
    "." * 2048,
    "\ufeff" * 10,
    "true" + "\u2028" * 10,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_does_no_harm(text: str) -> None:
    try:
        found = compile_filter(text)
    except InvalidFilter:
        return
    assert found is not None
    assert found.matches(document_of(EVENT)) in (True, False)


@given(
    st.lists(st.sampled_from([*TOKENS, "event.l", ".exists(", "y", "matches"]), max_size=10).map(
        " ".join
    )
    | st.text(max_size=30)
)
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        found = compile_filter(text)
    except InvalidFilter as error:
        error.detail.encode()
        return
    if found is not None:
        assert found.matches(document_of(EVENT)) in (True, False)


@example({"\0": "\ud800", "\udfff": [{"\0": -(2**70)}]})
@example({"a": 2**63, "b": [2**63 - 1, -(2**63) - 1], "c": 10**400})
@given(event_documents())
def test_any_event_can_be_evaluated(event: dict[str, Any]) -> None:
    document = document_of(event)
    assert program("event == event && has(event.meta)").matches(document)
    count = len({**event, "meta": None})
    assert document.fields is not None
    assert len(document.fields) == count


@pytest.mark.parametrize("depth", [200, 300, 600, 900, 1_000])
def test_deeply_nested_events_do_no_harm(depth: int) -> None:
    for inner in (b"1", b'"\\ud800"', b"%d" % 2**70):
        value = b'{"a":' * depth + inner + b"}" * depth
        document = Documents().of(Frame(Event(Partition("t", 0), 0, 0, value)))
        if document is not None:
            assert program("event == event || event.a.a == 1").matches(document) in (True, False)


def test_a_shared_activation_is_replaced_before_it_grows_large() -> None:
    document = document_of(EVENT)
    made: list[object] = []

    def make(_: Document) -> object:
        made.append(object())
        return made[-1]

    assert document.shared(make, 6_000) is document.shared(make, 6_000)
    assert len(made) == 1
    document.shared(make, 6_000)
    assert len(made) == 2
    document.shared(make, 10**9)
    assert len(made) == 3


def test_ordinary_filters_share_an_activation_and_heavy_ones_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = document_of(EVENT)
    program("event.n == 3").matches(document)
    made: list[Document] = []
    activate = cel._activate

    def counted(one: Document) -> Any:
        made.append(one)
        return activate(one)

    monkeypatch.setattr(cel, "_activate", counted)
    assert program("event.f == 1.5").matches(document)
    assert made == []
    assert program("event.n + 1 == 4").matches(document)
    assert program("event.tags.exists(x, x == 'b')").matches(document)
    assert len(made) == 2
