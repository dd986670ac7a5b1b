"""Merges `allOf` into one equivalent schema, so that readers see all fields in one place.

The rules are those of json-schema-merge-allof with `ignoreAdditionalProperties`: the schema itself
comes before the members of its `allOf`; the first annotation and the narrowest bound win,
`required` is the union, and properties are merged one by one. A member's `additionalProperties`
then applies to the whole schema. A combination that one schema cannot express is an error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from eventstreams.errors import SchemaError
from eventstreams.model.problem import Problem, below

Schema = dict[str, Any] | bool

_FIRST = {"$id", "$schema", "$comment", "title", "description", "default", "examples", "$ref"}
_LARGEST = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_SMALLEST = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
_BY_NAME = {"properties", "patternProperties", "definitions"}
_ONE = {"additionalProperties", "additionalItems", "propertyNames"}
_SETS = {"required", "type", "enum"}
"""Lists whose order does not matter."""


class _Conflict(Exception):
    def __init__(self, pointer: str, message: str, *, impossible: bool = False) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.impossible = impossible
        """Whether no value could be valid here."""


def merge_all_of(schema: dict[str, Any], place: str) -> dict[str, Any]:
    """Return a copy without `allOf` at any depth. Raises SchemaError if members contradict each
    other."""
    try:
        merged = _merge([schema], "")
    except _Conflict as conflict:
        raise SchemaError([Problem(place, conflict.pointer, str(conflict))]) from conflict
    if isinstance(merged, bool):
        raise SchemaError(
            [Problem(place, "/allOf", "allOf combines schemas that no value satisfies")]
        )
    if "examples" not in schema:  # those of a fragment are examples of something else
        merged.pop("examples", None)
    return merged


def _merge(schemas: Sequence[Schema], pointer: str) -> Schema:
    flat = [member for schema in schemas for member in _members(schema)]
    if any(schema is False for schema in flat):
        return False
    objects = [schema for schema in flat if isinstance(schema, dict)]
    if not objects:
        return True
    if sum("items" in o or "additionalItems" in o for o in objects) > 1 and any(
        "additionalItems" in o or isinstance(o.get("items"), list) for o in objects
    ):
        raise _Conflict(pointer, "allOf combines lists of items that cannot be merged")
    merged: dict[str, Any] = {}
    for key in _keys(objects):
        values = _distinct(key, [schema[key] for schema in objects if key in schema])
        merged[key] = _keyword(key, values, below(pointer, key))
    patterns = cast("list[str]", merged.pop("pattern", []))
    if len(patterns) == 1:
        merged["pattern"] = patterns[0]
    elif patterns:  # combining patterns would need a look-ahead
        merged["allOf"] = [{"pattern": pattern} for pattern in patterns]
    if merged.get("additionalProperties") is False and "properties" in merged:
        merged["properties"] = {k: v for k, v in merged["properties"].items() if v is not False}
    empty = ("properties", "patternProperties", "additionalProperties", "items")
    return {k: v for k, v in merged.items() if not (k in empty and v == {})}


def _members(schema: Schema) -> list[Schema]:
    """Return the schema without its `allOf`, followed by the members of that `allOf`."""
    if isinstance(schema, bool) or not isinstance(schema.get("allOf"), list):
        return [schema]
    own: Schema = {key: value for key, value in schema.items() if key != "allOf"}
    return [own, *(m for part in cast("list[Schema]", schema["allOf"]) for m in _members(part))]


def _keys(mappings: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _distinct(key: str, values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if not any(_same(key, value, other) for other in found):
            found.append(value)
    return found


def _same(key: str, a: Any, b: Any) -> bool:
    if key in _SETS and isinstance(a, list) and isinstance(b, list):
        x, y = cast("list[Any]", a), cast("list[Any]", b)
        return all(_in(i, y) for i in x) and all(_in(i, x) for i in y)
    return equal(a, b)


def equal(a: Any, b: Any) -> bool:
    """Return whether values are equal in JSON: 1 equals 1.0, but true does not equal 1.

    Numbers beyond 2**53 are compared as doubles.
    """
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        x, y = cast("dict[str, Any]", a), cast("dict[str, Any]", b)
        return x.keys() == y.keys() and all(equal(x[key], y[key]) for key in x)
    if isinstance(a, list) and isinstance(b, list):
        v, w = cast("list[Any]", a), cast("list[Any]", b)
        return len(v) == len(w) and all(map(equal, v, w))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b or (min(abs(a), abs(b)) > 2**53 and _double(a) == _double(b))
    return bool(a == b)


def _double(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.copysign(math.inf, number)


def _in(value: Any, values: Sequence[Any]) -> bool:
    return any(equal(value, other) for other in values)


def _keyword(key: str, values: list[Any], pointer: str) -> Any:
    """Return one value of a keyword that is equivalent to all of `values`, which differ."""
    if key in _BY_NAME and all(isinstance(v, dict) for v in values):
        return {
            name: _merge([v[name] for v in values if name in v], below(pointer, name))
            for name in _keys(values)
        }
    if key in _ONE and all(isinstance(v, dict | bool) for v in values):
        return _merge(values, pointer)
    if key in _HARD:
        return _HARD[key](values, pointer)
    if len(values) == 1 or key in _FIRST:
        return values[0]
    if key in _LARGEST | _SMALLEST:
        return max(values) if key in _LARGEST else min(values)
    raise _Conflict(pointer, f"allOf combines different values of {key}")


def _required(values: list[Any], pointer: str) -> Any:  # noqa: ARG001
    return values[0] if len(values) == 1 else sorted({name for v in values for name in v})


def _type(values: list[Any], pointer: str) -> Any:
    if len(values) == 1:
        return values[0]
    listed = [cast("list[str]", v if isinstance(v, list) else [v]) for v in values]
    common, *others = listed
    for other in others:
        narrower = [t for t in other if t == "integer" and "number" in common]
        common = [t for t in common if t in other or (t == "integer" and "number" in other)]
        common += [t for t in narrower if t not in common]
    if not common:
        message = "allOf combines types that exclude each other"
        raise _Conflict(pointer, message, impossible=True)
    return common if len(common) > 1 else common[0]


def _enum(values: list[Any], pointer: str) -> Any:
    if len(values) == 1:
        return values[0]
    common = [item for item in values[0] if all(_in(item, other) for other in values[1:])]
    if not common:
        message = "allOf combines enums with nothing in common"
        raise _Conflict(pointer, message, impossible=True)
    return sorted(common, key=str)


def _alternatives(values: list[Any], pointer: str) -> Any:
    """Return all combinations of alternatives of anyOf or oneOf, without contradictory ones."""
    if len(values) == 1:
        return [_merge([one], below(pointer, n)) for n, one in enumerate(values[0])]
    found: list[Schema] = []
    for n, chosen in enumerate(itertools.product(*values)):
        here = below(pointer, n)
        try:
            found.append(_merge(chosen, here))
        except _Conflict as conflict:
            if not (conflict.impossible and conflict.pointer.rpartition("/")[0] == here):
                raise
    if not found:
        raise _Conflict(pointer, "allOf combines alternatives that exclude each other")
    return found


def _items(values: list[Any], pointer: str) -> Any:
    if all(isinstance(v, dict | bool) for v in values):
        return _merge(values, pointer)
    assert len(values) == 1, "lists are not merged"
    return [_merge([one], below(pointer, n)) for n, one in enumerate(values[0])]


def _not(values: list[Any], pointer: str) -> Any:
    merged = [_merge([value], pointer) for value in values]
    return merged[0] if len(merged) == 1 else {"anyOf": merged}


def _dependencies(values: list[Any], pointer: str) -> Any:
    merged: dict[str, Any] = {}
    for name in _keys(values):
        mine = [v[name] for v in values if name in v]
        if all(isinstance(m, list) for m in mine):
            merged[name] = mine[0] if len(mine) == 1 else sorted({n for m in mine for n in m})
        else:
            merged[name] = _merge(
                [cast("Schema", {"required": m} if isinstance(m, list) else m) for m in mine],
                below(pointer, name),
            )
    return merged


def _multiple_of(values: list[Any], pointer: str) -> Any:
    if len(values) > 1 and not all(isinstance(v, int) for v in values):
        raise _Conflict(pointer, "allOf combines several fractions as multipleOf")
    return values[0] if len(values) == 1 else math.lcm(*values)


def _unique_items(values: list[Any], pointer: str) -> Any:  # noqa: ARG001
    return any(values)


_HARD: dict[str, Callable[[list[Any], str], Any]] = {
    "pattern": lambda values, _: values,
    "required": _required,
    "type": _type,
    "enum": _enum,
    "anyOf": _alternatives,
    "oneOf": _alternatives,
    "items": _items,
    "not": _not,
    "dependencies": _dependencies,
    "multipleOf": _multiple_of,
    "uniqueItems": _unique_items,
}
