"""A merged schema has the same meaning as its allOf."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from eventstreams.errors import SchemaError
from eventstreams.schemas.subschemas import subschemas
from eventstreams.schemas.tools.merge import equal, merge_all_of
from eventstreams.schemas.validation import Validator

names = st.sampled_from("ab")
small = st.integers(0, 3)
kinds = st.sampled_from(["string", "integer", "number", "object", "array", "null", "boolean"])


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": kinds | st.lists(kinds, min_size=1, max_size=4, unique=True),
            "minimum": small,
            "maximum": small,
            "exclusiveMinimum": small,
            "multipleOf": st.integers(1, 3),
            "minLength": small,
            "maxLength": small,
            "pattern": st.sampled_from(["^a", "b$"]),
            "required": st.lists(names, unique=True),
            "minProperties": small,
            "properties": st.dictionaries(names, inner, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, max_size=1),
            "propertyNames": inner,
            "items": inner,
            "minItems": small,
            "uniqueItems": st.booleans(),
            "dependencies": st.dictionaries(
                names, inner | st.lists(names, unique=True), max_size=1
            ),
            "enum": st.lists(small | names, min_size=1, unique=True),
            "not": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=3),
        },
    )


schemas = st.recursive(st.booleans() | _schemas(st.booleans()), _schemas, max_leaves=5)
objects = schemas.filter(lambda schema: isinstance(schema, dict))
values = st.recursive(
    st.none() | st.booleans() | small | st.text("abc", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)


def _merged(schema: dict[str, Any]) -> dict[str, Any]:
    """Schemas that cannot be merged are reported, and skipped."""
    merged = None
    with contextlib.suppress(SchemaError):
        merged = merge_all_of(schema, "f")
    return reject() if merged is None else merged


@given(objects, st.lists(values, min_size=1, max_size=8))
def test_merging_preserves_validity(schema: Any, documents: list[Any]) -> None:
    merged = _merged(schema)
    before, after = Validator(schema, "before"), Validator(merged, "after")
    for document in documents:
        assert bool(before.validate(document)) == bool(after.validate(document))


@given(objects)
def test_only_patterns_remain_in_all_of(schema: Any) -> None:
    for _, node in subschemas(_merged(schema)):
        assert all(part.keys() == {"pattern"} for part in node.get("allOf", []))


@given(objects)
def test_merging_does_not_modify_its_input(schema: Any) -> None:
    merged = _merged(schema)
    assert equal(merge_all_of(merged, "f"), merged)


def _all_of(*parts: dict[str, Any], **root: Any) -> dict[str, Any]:
    return merge_all_of({**root, "allOf": list(parts)}, "f")


def test_properties_and_required_are_merged() -> None:
    merged = _all_of(
        {"properties": {"a": {"type": "string"}}, "required": ["b", "a"]},
        {"properties": {"b": {"type": "string"}, "a": {"maxLength": 3}}, "required": ["a", "$c"]},
        required=["z"],
    )
    assert merged == {
        "properties": {"a": {"type": "string", "maxLength": 3}, "b": {"type": "string"}},
        "required": ["$c", "a", "b", "z"],
    }


def test_the_narrowest_bounds_are_kept() -> None:
    merged = _all_of(
        {"minimum": 1, "maximum": 5, "minLength": 2, "maxLength": 9, "multipleOf": 4},
        {"minimum": 2, "maximum": 7, "minLength": 1, "maxLength": 8, "multipleOf": 6},
    )
    assert merged == {
        "minimum": 2, "maximum": 5, "minLength": 2, "maxLength": 8, "multipleOf": 12
    }  # fmt: skip


def test_contradictory_alternatives_are_dropped() -> None:
    text, number, whole = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    merged = _all_of({"oneOf": [text, number]}, {"oneOf": [whole, {"type": "null"}]})
    assert merged == {"oneOf": [whole]}
    with pytest.raises(SchemaError, match="alternatives that exclude each other"):
        _all_of({"anyOf": [text]}, {"anyOf": [number]})


def test_own_annotations_take_precedence_over_fragments() -> None:
    fragment = {"title": "fragment", "$id": "/fragment/1.0.0", "description": "f", "default": 1}
    assert _all_of(fragment, title="mine") == {**fragment, "title": "mine"}


def test_examples_come_from_the_schema_itself() -> None:
    assert "examples" not in _all_of({"examples": [1]})
    assert _all_of({"examples": [1]}, examples=[2]) == {"examples": [2]}


def test_additional_properties_of_fragments_apply_to_the_whole() -> None:
    merged = _all_of(
        {"properties": {"a": {}}, "additionalProperties": False},
        {"properties": {"b": {}, "c": False}},
    )
    assert merged == {"properties": {"a": {}, "b": {}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([{"type": "string"}, {"type": "integer"}], "f#/type: allOf combines types"),
        ([{"enum": [1]}, {"enum": [2]}], "f#/enum: allOf combines enums"),
        ([{"const": 1}, {"const": 2}], "f#/const: allOf combines different values"),
        ([{"format": "date"}, {"format": "uri"}], "f#/format: allOf combines different"),
        ([{"contains": {}}, {"contains": {"type": "null"}}], "f#/contains: allOf combines"),
        ([{"items": [{}]}, {"items": {"type": "null"}}], "f: allOf combines lists"),
        (
            [{"properties": {"a": {"type": "null"}}}, {"properties": {"a": {"type": "array"}}}],
            "f#/properties/a/type: allOf",
        ),
    ],
)
def test_contradictions_are_reported_with_their_place(parts: list[Any], said: str) -> None:
    with pytest.raises(SchemaError) as raised:
        _all_of(*parts)
    assert str(raised.value).startswith(said)
