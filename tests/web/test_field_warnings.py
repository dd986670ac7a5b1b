"""Fields that the schemas of the streams do not declare: a warning, never an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from eventstreams.filters.cel import compile_filter
from eventstreams.filters.field_paths import PATHS_MAX
from eventstreams.schemas.undeclared import mistyped, undeclared
from tests.support.intake import TEST, Place, place

HEADER = "x-eventstreams-warning"
WARNED = {
    "filter=event.tset == 'a'": "the schema has no field tset; did you mean test?",
    "filter=event.meta.steram == 'a'": "no field meta.steram; did you mean meta.stream?",
    "filter=event['tset'] != ''": "the schema has no field tset",
    "fields=tset,meta.dt": "the schema has no field tset; did you mean test?",
    "fields=zzzzzz": "the schema has no field zzzzzz",
    "fields=a,b,c,d,e": "no field a; the schema has no field b; the schema has no field c",
    "fields=t\u00e4st": "the schema has no field t?st; did you mean test?",
    "filter=event['a\\r\\nx: y'] == 1": "no field a??x: y",
}
ACCEPTED = [
    "filter=event.test == 'a' && event.meta.topic == 'x' && event.meta.stream == TEST",
    "filter=event.test_map.anything == 'a'",
    "filter=event.test_map.exists(event, event == 'a')",
    "filter=stream == 'a' && offset > 1",
    "fields=test,meta,test_map.a.b,$schema",
    "limit=1",
]


async def header_of(here: Place, streams: str, query: str) -> str | None:
    name, _, value = query.partition("=")
    value = value.replace("TEST", "'x'")
    target = f"/v2/stream/{streams}?{name}={quote(value, safe='')}"
    async with here.served.opened(target) as stream:
        assert stream.head.status == 200
        return stream.head.get(HEADER)


@pytest.mark.anyio
async def test_an_undeclared_field_is_a_warning_with_the_nearest_name(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        for query, warning in WARNED.items():
            found = await header_of(here, TEST, query)
            assert found is not None, query
            assert warning in found
            assert found.isascii()
            assert found.isprintable()
        for query in ACCEPTED:
            assert await header_of(here, TEST, query) is None, query


@pytest.mark.anyio
async def test_a_comparison_that_no_event_can_meet_is_a_warning(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        query = "filter=event.number > '5'"
        said = "number is a number; write 5 without quotes"
        assert await header_of(here, "test.numbers", query) == said
        target = f"/v2/explain?streams=test.numbers&{quote(query, safe='=')}"
        assert (await here.http.get(target)).json()["warnings"] == [said]
        for fine in ("event.number > 5", "event.any == '5'", "event.number == null"):
            assert await header_of(here, "test.numbers", f"filter={fine}") is None
        assert await header_of(here, f"test.numbers,{TEST}", query) is None, "it may have text"


@pytest.mark.anyio
async def test_a_field_that_is_no_condition_is_a_warning(tmp_path: Path) -> None:
    said = "number is a number, not a condition; compare it with a value"
    async with place(tmp_path) as here:
        for wrong in (
            "event.number",
            "event['number']",
            "!event.number",
            "event.any == 1 && (event.number || event.any)",
            "event.any == 1 ? event.number : true",
        ):
            assert await header_of(here, "test.numbers", f"filter={wrong}") == said, wrong
        for fine in ("event.any", "has(event.number)", "[1].exists(x, x == event.number)"):
            assert await header_of(here, "test.numbers", f"filter={fine}") is None, fine
        assert await header_of(here, f"test.numbers,{TEST}", "filter=event.number") is None


@pytest.mark.anyio
async def test_a_field_of_one_of_several_streams_is_declared(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        both = f"{TEST},test.http"
        assert await header_of(here, both, "fields=test,http.client_ip") is None
        assert "did you mean http" in (await header_of(here, both, "fields=htpp") or "")
        assert await header_of(here, f"{TEST},test.untitled", "fields=tset") is None


@pytest.mark.anyio
async def test_explain_and_scripts_of_other_origins_see_the_warnings(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        explained = await here.http.get(f"/v2/explain?streams={TEST}&fields=tset,test")
        assert explained.json()["warnings"] == ["the schema has no field tset; did you mean test?"]
        assert HEADER in explained.headers["access-control-expose-headers"]
        plain = await here.http.get(f"/v2/explain?streams={TEST}")
        assert plain.json()["warnings"] == []


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("event.a.b == 1 && event['c'].d == event.a.b", [("a", "b"), ("c", "d")]),
        ("event.a[0].b == 1", [("a",)]),
        ("event.l.exists(x, x.y == event.z)", [("l",), ("z",)]),
        ("event.l.exists(event, event.y == 1)", [("l",)]),
        ("'k' in event && stream == 'event.x'", []),
        ("event.a in ['b'] ? has(event.c.d) : !event.e", [("a",), ("c", "d"), ("e",)]),
    ],
)
def test_the_fields_that_a_filter_names(text: str, paths: list[tuple[str, ...]]) -> None:
    program = compile_filter(text)
    assert program is not None
    assert list(program.paths) == paths


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("event.a.b > '5' && 5 == event.c", [(("a", "b"), "5"), (("c",), 5)]),
        ("event.a in ['x', 1] || !(event.b != true)", [(("a",), "x"), (("a",), 1), (("b",), True)]),
        ("event.a == null || event.a == event.b || size(event.c) > 1", []),
        ("event.l.exists(event, event == 'a') && stream == 'b'", []),
    ],
)
def test_the_literals_that_fields_are_compared_with(text: str, found: list[Any]) -> None:
    program = compile_filter(text)
    assert program is not None
    assert list(program.comparisons) == found


@pytest.mark.parametrize(
    ("declared", "value", "warning"),
    [
        ({"type": ["integer", "null"]}, "5", "a.b is a number; write 5 without quotes"),
        ({"type": "number"}, "many", "a.b is a number, not text"),
        ({"type": "number"}, True, "a.b is a number, not true or false"),
        ({"type": "string"}, 5, "a.b is text; write '5' in quotes"),
        ({"type": "string"}, True, "a.b is text; write 'true' in quotes"),
        ({"type": "boolean"}, "true", "a.b is true or false; write true without quotes"),
        ({"type": ["string", "integer"]}, False, "a.b is text or a number, not true or false"),
        ({"type": "array"}, "x", "a.b is a list, not text"),
        ({"type": "integer"}, 5.5, None),
        ({"type": ["string", "integer"]}, "5", None),
        ({"type": "null"}, "5", None),
        ({"enum": [1]}, "5", None),
        ({"type": "any"}, "5", None),
        ({"anyOf": [{"type": "integer"}]}, "5", None),
        (True, "5", None),
    ],
)
def test_only_declared_types_rule_out_a_value(
    declared: Any, value: str | bool | float, warning: str | None
) -> None:
    schema = {"properties": {"a": {"properties": {"b": declared}}}}
    assert mistyped([schema], ["a", "b"], value) == warning
    assert mistyped([schema], ["a", "c"], value) is None
    assert mistyped([schema, {}], ["a", "b"], value) is None


def test_every_part_of_a_combined_schema_may_allow_a_value() -> None:
    parts = [{"properties": {"a": {"type": kind}}} for kind in ("integer", "string")]
    assert mistyped([{"anyOf": parts}], ["a"], "x") is None
    assert mistyped([{"allOf": parts[:1]}], ["a"], "x") == "a is a number, not text"
    assert mistyped(parts, ["a"], True) == "a is text or a number, not true or false"


def test_a_name_cannot_look_like_another_warning() -> None:
    said = undeclared([{"properties": {"title": {}}}], ["x; the schema has 100% of", "y"])
    assert said == "the schema has no field x%3B the schema has 100%25 of"


def test_the_fields_of_a_long_filter_are_bounded() -> None:
    program = compile_filter(" || ".join(f"event.a{n} == 1" for n in range(100)))
    assert program is not None
    assert len(program.paths) == PATHS_MAX


LEAF: dict[str, Any] = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "path", "is_declared"),
    [
        ({"properties": {"a": {"properties": {"b": LEAF}}}}, "a.b", True),
        ({"properties": {"a": {"properties": {"b": LEAF}}}}, "a.c", False),
        ({"properties": {"a": LEAF}}, "a.b", True),
        ({"properties": {"a": {"additionalProperties": LEAF}}}, "a.x", True),
        ({"properties": {"a": LEAF}, "patternProperties": {"^x": LEAF}}, "b", True),
        ({"properties": {"a": LEAF}, "additionalProperties": False}, "b", False),
        ({"allOf": [{"anyOf": [{"properties": {"b": LEAF}}]}]}, "b", True),
        ({"allOf": [{"properties": {"b": LEAF}}], "properties": {"a": LEAF}}, "c", False),
        ({}, "anything", True),
        ({"properties": 5, "allOf": [7]}, "x", True),
    ],
)
def test_open_parts_of_a_schema_declare_any_field(
    schema: dict[str, Any], path: str, is_declared: bool
) -> None:
    assert (undeclared([schema], path.split(".")) is None) == is_declared
