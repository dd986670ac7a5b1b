"""Defaults are filled in where AJV 6 fills them in with useDefaults, and nowhere else."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.schemas import defaults
from eventstreams.schemas.validation import Validator


def Defaults(schema: dict[str, Any]) -> defaults.Defaults:  # noqa: N802
    return defaults.Defaults(schema, compile_test=Validator({}, "f").test_of)


A = {"default": "a"}
B = {"default": "b"}
Schema = dict[str, Any]


@pytest.mark.parametrize(
    ("schema", "document", "filled"),
    [
        # what is missing, and only that
        ({"properties": {"x": A}}, {}, {"x": "a"}),
        ({"properties": {"x": A}}, {"x": "mine"}, {"x": "mine"}),
        ({"properties": {"x": A}}, {"x": None}, {"x": None}),
        ({"properties": {"x": A}}, [], []),
        ({"properties": {"x": A}}, "text", "text"),
        ({"properties": {"x": {"default": None}}}, {}, {"x": None}),
        ({"properties": {"x": {"default": False}}}, {}, {"x": False}),
        # a parent is not made, but one that is filled in is filled
        ({"properties": {"x": {"properties": {"y": A}}}}, {}, {}),
        ({"properties": {"x": {"properties": {"y": A}}}}, {"x": {}}, {"x": {"y": "a"}}),
        (
            {"properties": {"x": {"default": {}, "properties": {"y": A}}}},
            {},
            {"x": {"y": "a"}},
        ),
        # other properties
        (
            {"properties": {"x": {}}, "additionalProperties": {"properties": {"y": A}}},
            {"x": {}, "z": {}},
            {"x": {}, "z": {"y": "a"}},
        ),
        ({"additionalProperties": {"default": "a"}}, {}, {}),
        ({"additionalProperties": False, "properties": {"x": A}}, {}, {"x": "a"}),
        (
            {"patternProperties": {"z": {}}, "additionalProperties": {"properties": {"y": A}}},
            {"z": {}},
            {"z": {}},
        ),
        # items
        ({"items": {"properties": {"y": A}}}, [{}, {"y": 1}, 7], [{"y": "a"}, {"y": 1}, 7]),
        ({"items": A}, [], []),
        ({"items": [A, B]}, [], ["a", "b"]),
        ({"items": [A, B]}, ["mine"], ["mine", "b"]),
        ({"items": [{}, B]}, [], [None, "b"]),
        (
            {"items": [{}], "additionalItems": {"properties": {"y": A}}},
            [{}, {}],
            [{}, {"y": "a"}],
        ),
        # parts that always apply, and parts that may not
        ({"allOf": [{"properties": {"x": A}}, {"properties": {"x": B}}]}, {}, {"x": "a"}),
        ({"properties": {"x": B}, "allOf": [{"properties": {"x": A}}]}, {}, {"x": "b"}),
        *(({keyword: [{"properties": {"x": A}}]}, {}, {}) for keyword in ("anyOf", "oneOf")),
        *(({keyword: {"properties": {"x": A}}}, {}, {}) for keyword in ("not", "if", "then")),
        ({"contains": {"properties": {"x": A}}}, [{}], [{}]),
        # parts that apply to this document
        (
            {"if": {"required": ["y"]}, "then": {"properties": {"x": A}}},
            {"y": 1},
            {"y": 1, "x": "a"},
        ),
        ({"if": {"required": ["y"]}, "then": {"properties": {"x": A}}}, {}, {}),
        ({"if": {"required": ["y"]}, "else": {"properties": {"x": A}}}, {}, {"x": "a"}),
        ({"if": {"properties": {"x": A}}, "then": {}}, {}, {}),
        (
            {"if": {"required": ["x"]}, "then": {"properties": {"y": B}}, "properties": {"x": A}},
            {},
            {"x": "a", "y": "b"},
        ),
        ({"dependencies": {"y": {"properties": {"x": A}}}}, {"y": 1}, {"y": 1, "x": "a"}),
        ({"dependencies": {"y": {"properties": {"x": A}}}}, {}, {}),
        ({"dependencies": {"y": ["x"]}}, {"y": 1}, {"y": 1}),
        (
            {"patternProperties": {"y": {"properties": {"x": A}}}},
            {"y": {}, "z": {}},
            {"y": {"x": "a"}, "z": {}},
        ),
        (
            {"patternProperties": {"z": {}}, "additionalProperties": {"properties": {"y": A}}},
            {"z": {}, "q": {}},
            {"z": {}, "q": {"y": "a"}},
        ),
        # order: own, below, allOf
        (
            {
                "properties": {"x": {"properties": {"own": A}}},
                "allOf": [{"properties": {"x": {"properties": {"all": B}}}}],
            },
            {"x": {}},
            {"x": {"own": "a", "all": "b"}},
        ),
        # odd schemas
        ({"properties": {"x": True}}, {}, {}),
        ({"properties": 7, "items": 7, "allOf": []}, {"x": 1}, {"x": 1}),
    ],
)
def test_defaults_go_where_ajv_puts_them(schema: Schema, document: Any, filled: Any) -> None:
    Defaults(schema).fill(document)
    assert json.dumps(document) == json.dumps(filled), "the order shows too"


def test_schemas_without_defaults_need_no_work() -> None:
    assert not Defaults({"properties": {"x": {"type": "string"}}, "items": [{}], "allOf": [{}]})
    assert Defaults({"properties": {"x": {"items": {"properties": {"y": A}}}}})


def test_events_share_no_value_with_the_schema_or_each_other() -> None:
    schema = {"properties": {"x": {"default": {"list": []}}}, "items": [{"default": {"n": []}}]}
    before = copy.deepcopy(schema)
    defaults = Defaults(schema)
    one: Any = {}
    other: Any = {}
    defaults.fill(one)
    defaults.fill(other)
    one["x"]["list"].append(1)
    assert other == {"x": {"list": []}}
    first: Any = []
    defaults.fill(first)
    first[0]["n"].append(1)
    assert schema == before


_names = st.sampled_from(["x", "y", "z"])
_schemas = st.recursive(
    st.just({}) | st.builds(lambda d: {"default": d}, st.integers(0, 3) | st.just({})),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(_names, inner, max_size=3),
            "additionalProperties": inner,
            "items": inner,
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "default": st.just({}) | st.just([]),
        },
    ),
    max_leaves=8,
)
_documents = st.recursive(
    st.none() | st.integers(0, 3),
    lambda inner: st.dictionaries(_names, inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=8,
)


def model(schema: Schema, value: Any) -> None:
    """Word by word what the module says."""
    properties = schema.get("properties", {})
    if isinstance(value, dict):
        for name, inner in properties.items():
            if "default" in inner and name not in value:
                value[name] = copy.deepcopy(inner["default"])
        for name in value:
            model(properties.get(name, schema.get("additionalProperties", {})), value[name])
    if isinstance(value, list):
        for item in value:
            model(schema.get("items", {}), item)
    for part in schema.get("allOf", []):
        model(part, value)


@given(_schemas, _documents)
def test_filling_follows_the_rules_and_is_idempotent(schema: Schema, document: Any) -> None:
    filled, wanted = copy.deepcopy(document), copy.deepcopy(document)
    count = Defaults(schema).fill(filled)
    model(schema, wanted)
    assert filled == wanted
    in_steps = copy.deepcopy(document)
    assert max(Defaults(schema).filling(in_steps)) == count
    assert in_steps == wanted

    def is_kept(before: Any, after: Any) -> bool:
        if isinstance(before, dict):
            return list(after)[: len(before)] == list(before) and all(
                is_kept(before[name], after[name]) for name in before
            )
        if isinstance(before, list):
            return all(map(is_kept, before, after))
        return bool(before == after)

    assert is_kept(document, filled)
    again = copy.deepcopy(filled)
    Defaults(schema).fill(again)
    assert again == filled or "allOf" in json.dumps(schema)


def test_only_schemas_that_bound_the_work_are_filled_at_once() -> None:
    assert Defaults({}).is_bounded
    assert Defaults({"properties": {"x": {"properties": {"y": A}}}, "allOf": [B]}).is_bounded
    for keyword in ("items", "additionalProperties"):
        assert not Defaults({"properties": {"x": {keyword: {"properties": {"y": A}}}}}).is_bounded
    wide = {f"p{n}": {"properties": {"y": A}} for n in range(1000)}
    assert not Defaults({"properties": wide}).is_bounded
