"""Schemas that are inferred from sample events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.schemas.infer import DEPTH_MAX, infer, infer_event_schema
from eventstreams.schemas.validation import Validator

TEXTS = st.sampled_from(["2026-01-31T12:00:00Z", "2026-01-31", "https://a.org/x", "x", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
EVENTS = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), VALUES, max_size=4)
META = {"stream": "s", "dt": "2026-01-31T12:00:00Z"}


@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_every_sample_is_valid_by_its_schema(samples: list[dict[str, Any]]) -> None:
    schema = infer_event_schema(samples, title="a/b", description="d")
    validator = Validator(schema, "/a/b/1.0.0")
    for sample in samples:
        event = {"$schema": "/a/b/1.0.0", "meta": META, **sample}
        assert validator.validate(event) == [], schema


@pytest.mark.parametrize(
    ("values", "schema"),
    [
        ([1, 2], {"type": "number"}),
        ([1, 2.5], {"type": "number"}),
        (["a", None], {"type": ["string", "null"]}),
        ([True, "a"], {"type": ["string", "boolean"]}),
        (["2026-01-31T12:00:00Z"], {"type": "string", "format": "date-time", "maxLength": 128}),
        (["2026-01-31T12:00:00Z", "soon"], {"type": "string"}),
        (["https://a.org"], {"type": "string", "format": "uri", "maxLength": 8192}),
        (["mailto:a"], {"type": "string"}),
        ([[1], ["a"]], {"type": "array", "items": {"type": ["string", "number"]}}),
        ([[]], {"type": "array"}),
        (
            [{"a": 1, "b": {"c": 1}}, {"a": 2}],
            {
                "type": "object",
                "properties": {
                    "a": {"type": "number"},
                    "b": {
                        "type": "object",
                        "properties": {"c": {"type": "number"}},
                        "required": ["c"],
                    },
                },
                "required": ["a"],
            },
        ),
        (
            [{str(n): n} for n in range(30)],
            {"type": "object", "additionalProperties": {"type": "number"}},
        ),
    ],
)
def test_a_value_is_described_by_what_all_samples_share(
    values: list[Any], schema: dict[str, Any]
) -> None:
    assert infer(values) == schema


def test_deep_samples_are_described_to_a_depth() -> None:
    value: Any = 1
    for _ in range(500):
        value = {"a": value}
    schema, depth = infer([value]), 0
    while "properties" in schema:
        schema, depth = schema["properties"]["a"], depth + 1
    assert (schema, depth) == ({}, DEPTH_MAX)


def test_the_samples_own_meta_and_schema_give_way() -> None:
    sample = {"$schema": 5, "meta": {"stream": 7, "page": 1}, "a": 1}
    schema = infer_event_schema([sample], title="a", description="d")
    assert schema["required"] == ["$schema", "meta", "a"]
    assert schema["properties"]["$schema"]["type"] == "string"
    meta = schema["properties"]["meta"]["properties"]
    assert meta["stream"]["type"] == "string"
    assert meta["page"] == {"type": "number"}
