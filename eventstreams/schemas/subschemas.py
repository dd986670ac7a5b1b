"""Finds all subschemas of a schema, ignoring values and names that only look like schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from eventstreams.model.problem import below

ONE = (
    "additionalItems", "additionalProperties", "contains", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
"""Keywords whose value is a schema."""
SEVERAL = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
"""Keywords whose value is a list of schemas."""
NAMED = (
    "$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties",
)  # fmt: skip
"""Keywords whose value maps names to schemas."""


def subschemas(schema: Any, pointer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each pointer and subschema, beginning with the schema itself. Omits boolean schemas."""
    if not isinstance(schema, dict):
        return
    node = cast("dict[str, Any]", schema)
    yield pointer, node
    for key in ONE:
        yield from subschemas(node.get(key), below(pointer, key))
    for key in SEVERAL:
        if isinstance(node.get(key), list):
            for n, item in enumerate(node[key]):
                yield from subschemas(item, below(pointer, key, n))
    for key in NAMED:
        if isinstance(node.get(key), dict):
            for name, item in node[key].items():
                yield from subschemas(item, below(pointer, key, name))
