"""The cost of filters: accepted ones take no longer than the estimate, and never long."""

from __future__ import annotations

import itertools
import json
import random
import zoneinfo
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from eventstreams.errors import InvalidFilter
from eventstreams.filters.cel import Program, compile_filter
from eventstreams.filters.cel_cost import COST_US_MAX, EVALUATION_US_MAX
from eventstreams.filters.document import VALUES_MAX, Document, Origin
from tests.support.effort import least_quiet_s
from tests.support.thoroughness import LONG

MARGIN = 3.0
"""How far measurements may exceed the estimate, on a machine that is busy with other things."""
OVERHEAD_US = 60.0
TRIES = 12
EVENT_BYTES = 10_000


def program(text: str) -> Program:
    found = compile_filter(text)
    assert found is not None
    return found


def document_of(event: Any) -> Document:
    return Document(Origin("topic", 0, 0, 1_769_860_800_000), json.dumps(event).encode())


def taken_us(filter_: Program, document: Document, enough_us: float) -> float:
    """Return the effort of one evaluation: the least of several, or the first below `enough_us`."""
    filter_.matches(document)  # the first evaluation converts the event
    return 1e6 * least_quiet_s(
        lambda: filter_.matches(document), tries=TRIES, enough_s=enough_us / 1e6
    )


def _events() -> list[dict[str, Any]]:
    """Return events of about 10 KB, each of which is mostly one field that could be costly."""
    chosen = random.Random(1)
    small: dict[str, Any] = {
        "l": [1, 2],
        "s": ["a", "b"],
        "m": {"a": 1},
        "t": "text",
        "u": "user",
        "o": {"l": [[1], [2]]},
    }
    size = EVENT_BYTES
    large: list[tuple[str, Any]] = [
        ("l", [1] * (size // 3)),
        ("l", [[] for _ in range(size // 4)]),
        ("s", ["a"] * (size // 5)),
        ("s", ["ab" * 200] * (size // 404)),
        ("m", {f"k{i}": i for i in range(size // 14)}),
        ("t", "a" * size),
        ("t", "".join(chosen.choices("ab", k=size))),
        ("t", "".join(chosen.choices("abcxyz019 .-_", k=size))),
        ("t", "".join(chosen.choices("фёяabc", k=size // 4))),
        ("t", "1h" * (size // 2)),
        ("t", "9" * size),
        ("o", {"l": [[1, 2, 3]] * (size // 11)}),
    ]
    both = {**small, "t": "a" * (size // 2), "u": "a" * (size // 2 - 1) + "b"}
    return [small, both, *({**small, name: value} for name, value in large)]


DOCUMENTS = [document_of(event) for event in _events()]

# Filters in the accepted grammar.

ATOMS = [
    *(
        "a",
        "b",
        "x",
        "ab",
        "é",
        r"\d",
        r"\w",
        r"\s",
        r"\W",
        ".",
        "[ab]",
        "[a-z]",
        "[^x]",
        "[\u0430-\u044f]",
    ),
    *(r"\b", "$", "^", "(?i)k", "[[:alpha:]]", r"\x41", r"\.", "user"),
]
REPEATS = ["*", "+", "?", "*?", "{2}", "{3,}", "{0,4}", "{9}", "{20}"]
patterns = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        st.builds("{}{}".format, inner, inner)
        | st.builds("({}|{})".format, inner, inner)
        | st.builds("({}){}".format, inner, st.sampled_from(REPEATS))
        | st.builds("^{}".format, inner)
        | st.builds("(?i:{})".format, inner)
    ),
    max_leaves=8,
)
texts = st.sampled_from(
    ["event.t", "event.u", "event.s[0]", "string(event.t)", "(event.t + event.u)", "stream"]
)
wholes = st.sampled_from(
    ["event", "event.l", "event.s", "event.m", "event.t", "event.o", "event.zz"]
)
literals = st.sampled_from(
    [
        "1",
        "-1",
        "'a'",
        "'zz'",
        "null",
        "true",
        "1.5",
        "['a', 'b']",
        "[1, 2, 3, 4, 5, 6]",
        "{'a': 1}",
    ]
)
needles = st.sampled_from(["'b'", "'" + "a" * 30 + "b'", "'" + "a" * 900 + "b'", "event.u"])


def _tests(loop_variables: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Draw conditions; those within loops may use the variables of these loops."""
    values = st.sampled_from(loop_variables) if loop_variables else wholes
    found = [
        st.builds("{} == {}".format, values, literals),
        st.builds("{} == {}".format, values, wholes),
        st.builds("{} in {}".format, values, st.sampled_from(["[1, 2, 3]", "event.m", "event.l"])),
        st.builds("{} in [{}]".format, values, st.integers(1, 60).map(lambda n: "9, " * n + "8")),
        st.builds("size({}) > 3".format, values),
        st.builds("{}.contains({})".format, values, needles),
        st.builds("{}.startsWith('a')".format, values),
        st.builds("{}({}) != {}(1)".format, CONVERSIONS, values, CONVERSIONS),
        st.just("timestamp.getHours('Europe/Berlin') > 3"),
        st.just("has(event.o.x) || event['m'].a == 1"),
    ]
    if not loop_variables:
        found += [
            st.builds("{}.matches(r'{}')".format, texts, patterns),
            st.builds("{}.contains({})".format, texts, needles),
            st.builds("{} < {}".format, texts, texts),
            st.builds("{}({}) == {}({})".format, CONVERSIONS, texts, CONVERSIONS, texts),
        ]
    return st.one_of(found)


CONVERSIONS = st.sampled_from(["int", "double", "string", "duration", "timestamp", "bool"])


@st.composite
def filters(draw: st.DrawFn, depth: int = 0, variables: tuple[str, ...] = ()) -> str:
    kind = draw(st.sampled_from(["test", "test", "and", "or", "not", "if", "loop"]))
    if depth > 3 or kind == "test":
        return draw(_tests(variables))
    inner = filters(depth + 1, variables)
    if kind == "loop":
        over = draw(
            st.sampled_from([*variables, "event.l", "event.s", "event.m", "event.o.l", "[1, 2]"])
        )
        name = f"v{depth}"
        macro = draw(st.sampled_from(["all", "exists", "exists_one"]))
        return f"{over}.{macro}({name}, {draw(filters(depth + 1, (*variables, name)))})"
    if kind == "not":
        return f"!({draw(inner)})"
    if kind == "if":
        return f"(({draw(inner)}) ? ({draw(inner)}) : ({draw(inner)}))"
    return f"({draw(inner)} {'&&' if kind == 'and' else '||'} {draw(inner)})"


HOSTILE = [
    "event.t.matches('[ab]*a[ab]{5}c')",
    "event.t.matches('(a|b)*b')",
    r"event.t.matches(r'[\w.]+@[\w.]+\.(com|org)')",
    r"event.t.matches(r'\d+-\d+')",
    "event.t.matches('" + "|".join(a + b for a in "abcxyz" for b in "xyz019") + "')",
    "event.l.all(x, x == 1 || x in [1, 2, 3, 4])",
    "event.o.l.all(x, x.all(y, y > 0))",
    "event.l.exists(x, x == 5 || x == 6)",
    "event.s.all(x, x.contains('aab') || x in ['zz', 'z'] || true)",
    "event.m.all(k, event.m[k] != -1)",
    "event == event && event == event",
    "event.t.contains(event.u)",
    "event.t.contains('" + "a" * 1_500 + "b')",
    "duration(event.t) == duration(event.t) || size(event.t) == 3",
    "event.t + event.t + event.t + event.t == event.t",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_shapes_take_no_longer_than_the_model_says(text: str) -> None:
    _check(program(text))


@settings(max_examples=150 if LONG else 40, deadline=None)
@example("event.l.all(a, a == event.t)")
@given(filters())
def test_no_accepted_filter_takes_longer_than_the_model_says(text: str) -> None:
    try:
        found = compile_filter(text)
    except InvalidFilter:
        assume(False)
        raise
    assert found is not None
    assert found.cost.reference_us <= COST_US_MAX
    _check(found)


def _check(found: Program) -> None:
    for number, document in enumerate(DOCUMENTS):
        modelled_us = min(found.cost.most_us(document), EVALUATION_US_MAX)
        most_us = min(OVERHEAD_US + MARGIN * modelled_us, EVALUATION_US_MAX)
        assert taken_us(found, document, most_us) <= most_us, (number, modelled_us)


@settings(max_examples=100 if LONG else 40, deadline=None)
@given(patterns)
def test_compiling_a_pattern_takes_no_longer_than_the_model_says(pattern: str) -> None:
    try:
        found = program(f"event.none.matches(r'{pattern}')")
    except InvalidFilter:
        return
    document = document_of({"none": ""})
    most_us = OVERHEAD_US + MARGIN * found.cost.fixed_us
    assert taken_us(found, document, most_us) <= most_us


# Accepted and refused filters.

ORDINARY = [
    "event.wiki == 'dewiki' && !event.bot",
    "event.type in ['new', 'log'] && event.title.matches('^(User|Talk):')",
    "event.title.matches('(?i)bridge')",
    "event.title.matches('foo.*bar')",
    r"event.user.matches(r'^\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}$')",
    "event.comment.matches('(?i)(vandal|spam|revert|undo|rollback)')",
    "event.comment.contains(event.title)",
    "event.tags.all(t, t in ['a', 'b'])",
    "event.tags.exists(t, t in ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'])",
    "event.items.exists(i, i.tags.exists(t, t == 'x'))",
    "event.tags.all(k, event.meta[k] == 1)",
    "event.title.contains('a') && event.comment.contains('b') && event.user.contains('c')",
    "event.id in [" + ", ".join(map(str, range(300))) + "]",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_filters_are_accepted(text: str) -> None:
    assert program(text).cost.reference_us <= COST_US_MAX


NESTED = "event.all(a, event.all(b, event.meta.all(c, %s)))"
TOO_COSTLY = [
    (NESTED % " && ".join(["event==event"] * 100), "a loop within a loop may only iterate"),
    (NESTED % "event == event", "a loop within a loop may only iterate"),
    ("event.a.all(x, event.b.all(y, x >= 0 && y >= 0))", "a loop within a loop"),
    ("event.l.all(x, x.a.all(y, x.b.all(z, z == y)))", "a loop within a loop"),
    ("event.all(a, event == event)", "only parts of its own variable"),
    ("event.tags.exists(t, t in event.other)", "only parts of its own variable"),
    ("event.l.all(x, x.a.all(y, size(x.b) == y))", "only parts of its own variable"),
    ("event.l.exists(x, size(event.t) == x)", "only parts of its own variable"),
    ("event.tags.exists(t, t.matches('a'))", "a regular expression of about"),
    ("[1, 2].all(x, [1, 2, 3].all(y, event.l.all(z, z > x)))", "shorten its body"),
    ("event.t.matches('[" + "".join(chr(0x400 + 2 * i) for i in range(400)) + "]{55}')", "88,0"),
    ("event.t.matches('((a?){30}){30}b')", "a regular expression of about"),
    ("event.t.matches('(a|b)*a(a|b){50}c')", "a regular expression of about"),
    (r"event.t.matches(r'\p{L}')", "a regular expression of about 2,0"),
    ("||".join(["event.t.matches('^x')"] * 30), "a regular expression of about"),
]


@pytest.mark.parametrize(("text", "message"), TOO_COSTLY, ids=range(len(TOO_COSTLY)))
def test_costly_filters_are_refused_with_place_and_advice(text: str, message: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        compile_filter(text)
    assert message in caught.value.detail
    first, shown, caret = caught.value.detail.split("\n")
    assert shown[caret.index("^")] != " "
    if "µs" in first:
        assert "but the limit is 200 µs" in first


def test_a_filter_is_not_evaluated_if_it_could_take_too_long() -> None:
    loop = program("event.l.all(x, x > 0 && x < 9 && x != 7)")
    pattern = program(r"event.t.matches(r'[\w.]+@[\w.]+\.(com|org)')")
    assert loop.matches(document_of({"l": [1] * 3_000}))
    assert not loop.matches(document_of({"l": [1] * VALUES_MAX}))
    assert pattern.matches(document_of({"t": "a@b.org " * 1_000}))
    assert not pattern.matches(document_of({"t": "a@b.org " * 20_000}))
    for filter_ in (loop, pattern):  # other fields of an event do not matter
        assert filter_.matches(document_of({"l": [1], "t": "a@b.org", "text": "x " * 10**6}))


@pytest.mark.parametrize("part", ["size({}) > 0", "{0} == {0}", "'q' in {}", "{}.contains('q')"])
def test_finding_the_sizes_of_nested_fields_is_bounded_too(part: str) -> None:
    """A large text is in all fields of a path, so their sizes add up to many times the event."""
    event: dict[str, Any] = {"b": "x" * 900_000}
    for _ in range(40):
        event = {"a": event}
    fields = ["event" + ".a" * depth for depth in range(1, 29)]
    while True:
        try:
            filter_ = program(" && ".join(part.format(field) for field in fields))
        except InvalidFilter:
            fields.pop()
        else:
            break
    assert len(fields) > 10
    most_us = EVALUATION_US_MAX * MARGIN
    assert taken_us(filter_, document_of(event), most_us) <= most_us


@pytest.mark.parametrize(
    "event",
    [
        {"t": "x" * 1_000_000},
        {"t": "12345678901234567 " * 55_000},
        {"t": "a\0" * 140_000},
        {"t": "\u2028" * 160_000},
        {"l": [2**63] * 9_000, "t": "x" * 700_000},
        {"l": {f"\0{n}": "\0" for n in range(9_000)}},
    ],
    ids=["text", "digits", "zeros", "escapes", "numbers", "names"],
)
def test_preparing_a_large_event_is_bounded(event: dict[str, Any]) -> None:
    true = program("true")
    documents = iter([document_of(event) for _ in range(TRIES)])  # each is prepared once
    most_s = EVALUATION_US_MAX * 2 / 1e6
    prepare = lambda: true.matches(next(documents))  # noqa: E731
    assert least_quiet_s(prepare, tries=TRIES, enough_s=most_s) <= most_s
    assert true.matches(document_of(event))


def test_an_event_of_very_many_values_is_not_parsed() -> None:
    fits = document_of({"l": [1] * (VALUES_MAX - 10)})
    assert program("has(event.l)").matches(fits)
    large = document_of({"l": [1] * (VALUES_MAX + 10)})
    assert large.fields is None
    assert not program("true").matches(large)
    assert large.writable()[0] == {}


# Time zones.

ZONED = [
    *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
    *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
]
NOT_ZONES = [
    *("/proc/self/fd/2", "/dev/stdin", "/etc/localtime", "file:/dev/stdin", "file:Europe/Berlin"),
    *("Europe/../../../../dev/stdin", "../zoneinfo/UTC", "posix/UTC", "right/UTC", "localtime"),
    *(
        "Factory",
        "Europe/Nowhere",
        "europe/berlin",
        " UTC",
        "UTC ",
        "",
        "UTC+1",
        "Fixed/UTC+01:00:00",
    ),
    *("+25:00", "+24:00", "1", "+1", "+01:60", "+0100", "+01:00:00", "+99999999999999:00", "Z"),
    *("+\u0661\u0662:00", "Europe", "zone.tab", "tzdata.zi", "posixrules"),
]


@pytest.mark.parametrize("name", NOT_ZONES)
def test_unknown_time_zones_are_refused(name: str) -> None:
    for function in ZONED:
        with pytest.raises(InvalidFilter, match="unknown time zone"):
            compile_filter(f"timestamp.{function}({name!r}) >= 0")


@pytest.mark.parametrize(
    "argument", ["event.tz", "stream", "'Europe/' + 'Berlin'", "string(event.tz)", "dyn('UTC')"]
)
def test_a_zone_must_be_a_literal(argument: str) -> None:
    for function, target in itertools.product(ZONED, ("timestamp", "timestamp(event.meta.dt)")):
        with pytest.raises(InvalidFilter, match="a time zone must be a literal string"):
            compile_filter(f"{target}.{function}({argument}) >= 0")


def test_every_accepted_zone_is_known_to_the_runtime() -> None:
    names = sorted(zoneinfo.available_timezones() - {"Factory", "localtime", "posixrules"})
    assert "Europe/Berlin" in names
    document = document_of({})
    for name in [*names, "+05:30", "-11:00", "14:00", "+1:00"]:
        if name not in names or hash(name) % 7 == 0 or name.startswith("E"):
            assert program(f"timestamp.getHours('{name}') >= 0").matches(document), name
    winter = program("timestamp.getHours('Europe/Berlin') == 13 && timestamp.getHours() == 12")
    assert winter.matches(document)
    assert program("timestamp.getMinutes('+05:30') == 30").matches(document)
