"""Each check finds its problems, and can be disabled by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventstreams.schemas.tools.config import RepositoryConfig
from eventstreams.schemas.tools.robustness import robustness_problems
from tests.support.schema_folders import problems, put, schema

TEXT = {"type": "string"}
BOUNDS = {"minimum": 0, "maximum": 9}
LISTS: dict[str, Any] = {"type": "array", "items": {"type": "object", "properties": {"a": {}}}}


def _object(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "string"}}, **keywords}


def _field(**keywords: Any) -> dict[str, Any]:
    return schema("/a/1.0.0", properties={"x": {"type": "string", **keywords}})


def _found(
    document: dict[str, Any], *, current: bool = False, strict: bool = False, **options: Any
) -> list[str]:
    config = RepositoryConfig(**options)
    found = robustness_problems(document, "f", config, current=current, strict=strict)
    return [str(problem) for problem in found]


CASES = [
    ("schema-is-valid", _field(minLength=-1), "f#/properties/x/minLength: -1 is less than"),
    ("schema-is-valid", _field(type="x"), 'f#/properties/x/type: "x" is not valid'),
    (
        "schema-is-valid",
        _field(pattern="(a)\\1", maxLength=9),
        "f#/properties/x/pattern: cannot be",
    ),
    ("schema-is-secure", _field(pattern="^a"), "f#/properties/x/pattern: pattern needs maxLength"),
    ("schema-is-secure", _field(format="date"), "f#/properties/x/format: format needs maxLength"),
    (
        "schema-is-secure",
        _field(**_object(patternProperties={"^a": {"type": "string"}})),
        "f#/properties/x/patternProperties: needs propertyNames",
    ),
    (
        "schema-is-secure",
        _field(**{**LISTS, "items": _object()}, uniqueItems=True),
        "f#/properties/x/uniqueItems: needs maxItems",
    ),
    (
        "schema-snake-case-properties",
        schema("/a/1.0.0", properties={"userName": {"type": "string"}}),
        "f#/properties/userName: is not in snake_case",
    ),
    (
        "schema-deterministic-types",
        _field(type=["string", "null"]),
        "f#/properties/x/type: is a union",
    ),
    ("schema-deterministic-types", _field(type="array"), "f#/properties/x: is a list whose items"),
    (
        "schema-deterministic-types",
        _field(type="object"),
        "f#/properties/x: is an object with neither",
    ),
    ("schema-deterministic-types", _field(enum=["a", None]), "f#/properties/x/enum: holds null"),
    (
        "schema-deterministic-types",
        schema("/a/1.0.0", properties={"x": {"description": "?"}}),
        "f#/properties/x: has no type",
    ),
    (
        "schema-deterministic-types",
        _field(type="object", additionalProperties={"type": ["string", "null"]}),
        "f#/properties/x/additionalProperties/type: is a union",
    ),
    (
        "schema-deterministic-types",
        _field(type="array", items={"type": "array"}),
        "f#/properties/x/items: is a list whose items",
    ),
    (
        "schema-deterministic-types",
        _field(oneOf=[{"type": "string"}, {"type": "boolean"}]),
        "f#/properties/x/oneOf: has schemas of different types",
    ),
    (
        "schema-deterministic-types",
        _field(type="object", oneOf=[_object(required=["a"]), _object(required=[])]),
        "f#/properties/x/oneOf: has schemas that require different",
    ),
    (
        "schema-required-properties-exist",
        schema("/a/1.0.0", required=["nope"]),
        "f#/required: 'nope' is required, but no property",
    ),
    (
        "schema-required-properties-exist",
        _field(**_object(required=["a", "b"])),
        "f#/properties/x/required: 'b' is required",
    ),
    (
        "schema-examples-$schema-matches-schema-$id",
        schema("/a/1.0.0", examples=[{"$schema": "/a/1.0.0"}, {"$schema": "/a/1.0.1"}]),
        "f#/examples/1/$schema: is '/a/1.0.1', not the schema's $id '/a/1.0.0'",
    ),
    (
        "schema-examples-are-valid",
        schema("/a/1.0.0", examples=[{"$schema": "/a/1.0.0", "name": 1}]),
        "f#/examples/0: '.name' should be string",
    ),
    (
        "schema-enforced-numeric-bounds",
        _field(type="integer", minimum=0),
        "f#/properties/x: needs a maximum",
    ),
    (
        "schema-enforced-numeric-bounds",
        _field(type="number", minimum=-(2**60), maximum=1),
        "f#/properties/x: needs a minimum, which is not below -9007199254740991",
    ),
]


@pytest.mark.parametrize(("check", "document", "said"), CASES)
def test_each_check_detects_its_problem_and_can_be_skipped(
    check: str, document: dict[str, Any], said: str
) -> None:
    [found] = _found(document)
    assert found.startswith(said)
    assert found.endswith(f"[{check}]")
    assert _found(document, skip_schema_test_cases={"^/a/.*": (check,)}) == []
    assert _found(document, skip_schema_test_cases={"^/b/.*": (check,)}) == [found]


@pytest.mark.parametrize(
    "document",
    [
        _field(pattern="^a", maxLength=9),
        _field(format="date-time", maxLength=9),
        _field(type="object", additionalProperties={"type": "string"}),
        _field(type="array", items={"type": "string"}, uniqueItems=True),
        _field(type="array", items=_object(), uniqueItems=True, maxItems=9),
        _field(type="integer", **BOUNDS),
        _field(oneOf=[{"type": "string"}, {"type": "string", "maxLength": 3}]),
        _field(type="object", oneOf=[_object(), _object()]),
        schema("/a/1.0.0", properties={"user_name2": {"type": "string"}, "$x": {"type": "null"}}),
    ],
)
def test_valid_schemas_have_no_problems(document: dict[str, Any]) -> None:
    assert _found(document) == []


_STRICT_ONLY = [
    ("snake_case in items", _field(type="array", items=_object(properties={"aB": TEXT}))),
    (
        "snake_case in a map",
        _field(type="object", additionalProperties=_object(properties={"aB": TEXT})),
    ),
    (
        "snake_case in oneOf",
        _field(type="object", oneOf=[_object(properties={"aB": TEXT}, required=[])]),
    ),
    ("a map of anything", _field(type="object", additionalProperties={})),
    ("an object of no properties", _field(type="object", properties={})),
    (
        "bounds in then",
        schema(
            "/a/1.0.0",
            **{"if": {}, "then": {"properties": {"x": {"type": "integer", "minimum": 0}}}},
        ),
    ),
    (
        "an example with a time that does not exist",
        schema(
            "/a/1.0.0",
            properties={"dt": {"type": "string", "format": "date-time", "maxLength": 40}},
            examples=[{"dt": "2026-02-30T00:00:00Z"}],
        ),
    ),
]


@pytest.mark.parametrize(("what", "document"), _STRICT_ONLY)
def test_strict_checks_find_what_jsonschema_tools_ignores(
    what: str, document: dict[str, Any]
) -> None:
    assert _found(document) == [], what
    assert len(_found(document, strict=True)) == 1, what


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (_field(enum=[]), "f#/properties/x/enum: contains no value"),
        (_field(enum=["a", "a"]), "f#/properties/x/enum: contains a value twice"),
        (
            _field(type="object", additionalProperties=True, required=[]),
            "f#/properties/x/required: has no",
        ),
        (
            schema("/a/1.0.0", allOf=[{"properties": {"aB": TEXT}}]),
            "f#/allOf/0/properties/aB: is not in",
        ),
        (
            schema("/a/1.0.0", properties={"x": False}, required=["x"]),
            "f#/required: 'x' is required",
        ),
    ],
)
def test_default_checks_find_what_jsonschema_tools_refuses(
    document: dict[str, Any], said: str
) -> None:
    found = _found(document)
    assert any(line.startswith(said) for line in found), found


def test_current_files_are_checked_without_references() -> None:
    document = schema("/a/1.0.0", required=["dt"], properties={"aB": {}, "c": {"pattern": "a"}})
    assert [line.rpartition(" ")[2] for line in _found(document, current=True)] == [
        "[schema-is-secure]",
        "[schema-snake-case-properties]",
    ]


def test_a_malformed_current_file_is_a_problem() -> None:
    assert _found({"properties": [1], "allOf": 3, "required": 1}, current=True) == []


def test_old_versions_are_checked_too(tmp_path: Path) -> None:
    put(tmp_path, "a/1.0.0.yaml", schema("/a/1.0.0", properties={"aB": {"type": "string"}}))
    put(tmp_path, "a/current.yaml", schema("/a/2.0.0"))
    assert any("a/1.0.0.yaml#/properties/aB: is not in snake_case" in p for p in problems(tmp_path))
