"""Compatible changes within a major version follow the table of docs/schemas.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.schemas.tools.compatibility import incompatibilities
from eventstreams.schemas.tools.config import CONFIG_NAME
from tests.support.schema_folders import materialize, problems, put, put_current, schema

TEXT = {"type": "string"}


class Change(NamedTuple):
    what: str
    old: dict[str, Any]
    new: dict[str, Any]
    default: bool
    strict: bool


def _root(what: str, old: Any, new: Any, *, default: bool, strict: bool) -> Change:
    return Change(what, schema("/a/1.0.0", **old), schema("/a/1.1.0", **new), default, strict)


def _field(what: str, old: Any, new: Any, *, default: bool, strict: bool) -> Change:
    before, after = ({"properties": {"x": keywords}} for keywords in (old, new))
    return _root(what, before, after, default=default, strict=strict)


def _named(
    name: str, old: Any, new: Any, what: str, *, default: bool, strict: bool = False
) -> Change:
    """Return a schema with a property of this name."""
    before, after = (
        {"properties": {"b": TEXT, **f}} for f in ({name: old}, {name: new} if new else {})
    )
    return _root(f"{what} a property named {name}", before, after, default=default, strict=strict)


YES: dict[str, Any] = {"default": True, "strict": True}
NO: dict[str, Any] = {"default": False, "strict": False}
HOLE: dict[str, Any] = {"default": True, "strict": False}

TABLE = [
    _root("add an optional field", {"properties": {}}, {"properties": {"b": TEXT}}, **YES),
    _root("remove a field", {}, {"properties": {"$schema": TEXT}}, **NO),
    _field("change a type", TEXT, {"type": "integer"}, **NO),
    _field("grow an enum", {"enum": ["a"]}, {"enum": ["b", "a"]}, **YES),
    _field("shrink an enum", {"enum": ["a", "b"]}, {"enum": ["a"]}, **NO),
    _field("drop an enum", {"enum": ["a"]}, {}, **NO),
    _field("change a description", {"description": "a"}, {"description": "b"}, **YES),
    _field("drop a description", {"description": "a"}, {}, **YES),
    _root("change examples", {"examples": [1]}, {"examples": [2, 3]}, **YES),
    _root("drop examples", {"examples": [1]}, {}, **YES),
    _field("add a default", TEXT, {"type": "string", "default": "a"}, **YES),
    _root("reorder required", {"required": ["a", "b"]}, {"required": ["b", "a"]}, **YES),
    _field("lengthen oneOf", {"oneOf": [TEXT]}, {"oneOf": [TEXT, {"type": "string"}]}, **YES),
    _root("add required where none was", {}, {"required": ["name"]}, **HOLE),
    _root("add to required", {"required": ["a"]}, {"required": ["a", "b"]}, **NO),
    _root("take from required", {"required": ["a", "b"]}, {"required": ["a"]}, **NO),
    _root("drop required", {"required": ["a"]}, {}, **NO),
    _field("add an enum where none was", TEXT, {"type": "string", "enum": ["a"]}, **HOLE),
    _field("add a pattern where none was", TEXT, {"type": "string", "pattern": "a"}, **HOLE),
    _field("add maxLength where none was", TEXT, {"type": "string", "maxLength": 1}, **HOLE),
    _root("close an open object", {}, {"additionalProperties": False}, **HOLE),
    _field("change maxLength", {"maxLength": 9}, {"maxLength": 5}, **HOLE),
    _field("drop maxLength", {"maxLength": 9}, {}, **HOLE),
    _root("change the title", {"title": "a"}, {"title": "b"}, **NO),
    _field("change a default", {"default": "a"}, {"default": "b"}, **NO),
    _field("change a pattern", {"pattern": "a"}, {"pattern": "b"}, **NO),
    _field("widen minimum", {"minimum": 5}, {"minimum": 0}, **NO),
    _root("change $schema", {"$schema": "a"}, {"$schema": "b"}, **NO),
    _named("description", TEXT, None, "remove", default=True),
    _named("description", TEXT, {"type": "integer"}, "change", default=True),
    _named("examples", TEXT, None, "remove", default=True),
    _named("examples", TEXT, {"type": "integer"}, "change", default=True),
    _named("maxLength", TEXT, None, "remove", default=True),
    _named("maxLength", TEXT, {"type": "integer"}, "change", default=True),
    _named("required", TEXT, TEXT, "keep", default=False, strict=True),
    _named("enum", TEXT, TEXT, "keep", default=False, strict=True),
    _named("required", TEXT, {"type": "integer"}, "change", default=False),
    # Consequences of the table.
    _field("add an annotation", {}, {"$comment": "why"}, **YES),
    _field("write a whole number otherwise", {"minimum": 1}, {"minimum": 1.0}, **YES),
    _field("take true for one", {"default": 1}, {"default": True}, **NO),
    _field("lengthen allOf", {"allOf": [{}]}, {"allOf": [{}, {"minLength": 3}]}, **HOLE),
    _field("shorten oneOf", {"oneOf": [TEXT, {}]}, {"oneOf": [TEXT]}, **NO),
    _field("widen a union of types", {"type": ["string"]}, {"type": ["string", "null"]}, **HOLE),
    _field("reorder a union of types", {"type": ["a", "b"]}, {"type": ["b", "a"]},
           default=False, strict=True),
    _field("change the type of items", {"items": TEXT}, {"items": {"type": "null"}}, **NO),
    _field("narrow the values of a map", {"additionalProperties": TEXT},
           {"additionalProperties": {"type": "string", "enum": ["a"]}}, **HOLE),
    _field("say that an object is open", {}, {"additionalProperties": True}, **YES),
    _field("add a pattern property", {"patternProperties": {}},
           {"patternProperties": {"a": TEXT}}, **HOLE),
]  # fmt: skip


@pytest.mark.parametrize("change", TABLE, ids=lambda change: change.what)
def test_default_compatibility_follows_the_table(change: Change) -> None:
    assert (not list(incompatibilities(change.new, change.old))) == change.default


@pytest.mark.parametrize("change", TABLE, ids=lambda change: change.what)
def test_strict_compatibility_follows_the_table(change: Change) -> None:
    assert (not list(incompatibilities(change.new, change.old, strict=True))) == change.strict


NARROWING: dict[str, Any] = {
    "uniqueItems": True, "minItems": 1, "maxItems": 9, "minLength": 1, "maxLength": 9, "minimum": 0,
    "maximum": 9, "exclusiveMinimum": 0, "exclusiveMaximum": 9, "multipleOf": 2, "pattern": "a",
    "format": "date", "enum": ["a"], "const": "a", "type": "string", "items": TEXT,
    "additionalItems": False, "contains": TEXT, "minProperties": 1, "maxProperties": 9,
    "required": ["a"], "additionalProperties": TEXT, "patternProperties": {"a": TEXT},
    "propertyNames": {"maxLength": 9}, "dependencies": {"a": ["b"]}, "not": TEXT, "anyOf": [TEXT],
    "oneOf": [TEXT], "allOf": [TEXT], "then": TEXT, "else": TEXT, "$ref": "#",
}  # fmt: skip


@pytest.mark.parametrize("keyword", NARROWING)
def test_strictly_narrowing_keywords_are_incompatible(keyword: str) -> None:
    old = schema("/a/1.0.0", properties={"x": {"description": "d"}})
    new = schema("/a/1.1.0", properties={"x": {keyword: NARROWING[keyword]}})
    [(pointer, message)] = incompatibilities(new, old, strict=True)
    assert (pointer, message) == (f"/properties/x/{keyword}", "was added")
    assert not list(incompatibilities(new, old))


@pytest.mark.parametrize(
    "keywords",
    [
        {"uniqueItems": False}, {"minItems": 0}, {"minLength": 0}, {"minProperties": 0},
        {"items": {}}, {"additionalProperties": {}}, {"additionalItems": True}, {"required": []},
        {"title": "t"}, {"readOnly": True}, {"default": 1}, {"properties": {"a": TEXT}},
        {"dependencies": {}}, {"propertyNames": True}, {"contentEncoding": "base64"},
    ],
)  # fmt: skip
def test_strictly_void_keywords_are_compatible(
    keywords: dict[str, Any],
) -> None:
    old = schema("/a/1.0.0", properties={"x": {"description": "d"}})
    new = schema("/a/1.1.0", properties={"x": keywords})
    assert not list(incompatibilities(new, old, strict=True))


fields = st.dictionaries(
    st.sampled_from(["a", "b", "required", "enum", "description", "maxLength"]),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer"])},
        optional={"description": st.text(max_size=3), "maxLength": st.integers(1, 3)},
    ),
    max_size=4,
)  # fmt: skip


@given(fields)
def test_a_schema_is_strictly_compatible_with_itself(properties: dict[str, Any]) -> None:
    one = schema("/a/1.0.0", properties=properties)
    assert list(incompatibilities(one, one, strict=True)) == []


@given(fields, fields)
def test_strictly_only_fields_may_be_added(old: dict[str, Any], new: dict[str, Any]) -> None:
    found = incompatibilities(
        schema("/a/1.1.0", properties=new), schema("/a/1.0.0", properties=old), strict=True
    )
    kept = {
        name: {key: value for key, value in field.items() if key != "description"}
        for name, field in old.items()
    }
    for name, field in new.items():
        if name in kept and {k: v for k, v in field.items() if k != "description"} != kept[name]:
            assert list(found)
            return
    assert bool(list(found)) == bool(old.keys() - new.keys())


def _release(base: Path, *versions: str, **last: Any) -> None:
    for n, version in enumerate(versions, start=1):
        put_current(base, schema(f"/a/{version}", **(last if n == len(versions) else {})))
        materialize(base)


def test_each_version_is_compared_with_the_one_before_it_by_number(tmp_path: Path) -> None:
    _release(tmp_path, "1.9.0", "1.10.0", properties={"$schema": TEXT, "name": TEXT, "b": TEXT})
    assert (
        problems(tmp_path) == []
    )  # as text, 1.10.0 would come first, and b would be missing after it


def test_incompatible_versions_are_reported_with_the_reason(tmp_path: Path) -> None:
    _release(tmp_path, "1.0.0", "1.0.1", properties={"$schema": TEXT})
    assert problems(tmp_path) == [
        "a/1.0.1#/properties/name: was removed since 1.0.0 [schema-version-compatibility]"
    ]


def test_major_versions_are_not_compared(tmp_path: Path) -> None:
    _release(tmp_path, "1.0.0", "2.0.0", properties={"$schema": TEXT})
    assert problems(tmp_path) == []


def test_a_version_can_be_exempted(tmp_path: Path) -> None:
    put(
        tmp_path,
        CONFIG_NAME,
        {"skipSchemaTestCases": {"/a/1.0.1": ["schema-version-compatibility"]}},
    )
    _release(tmp_path, "1.0.0", "1.0.1", properties={"$schema": TEXT})
    assert problems(tmp_path) == []


def test_strict_finds_the_holes_in_a_folder(tmp_path: Path) -> None:
    _release(tmp_path, "1.0.0", "1.0.1", required=["name"])
    assert problems(tmp_path) == []
    assert problems(tmp_path, strict=True) == [
        "a/1.0.1#/required: was added since 1.0.0 [schema-version-compatibility]"
    ]
