"""Checks that events can be validated and stored safely and uniformly with a schema.

Each check has the name that `skipSchemaTestCases` uses. By default it finds what jsonschema-tools
1.3.0 finds; `strict` also finds what that tool misses. The checks in CURRENT also apply to
current.yaml, whose references are not yet resolved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

from eventstreams.errors import SchemaError
from eventstreams.model.problem import Problem, below
from eventstreams.schemas.subschemas import subschemas
from eventstreams.schemas.tools.config import RepositoryConfig
from eventstreams.schemas.validation import Validator, errors_text, schema_problems

Node = dict[str, Any]
Finding = tuple[str, str]
"""A JSON pointer, and a description of the problem there."""

_SNAKE_CASE = re.compile(r"[$a-z]+[a-z0-9_]*")
_CONDITION = re.compile(r"(?<!/properties)/(?:if|then|else)(?:/|\Z)")


def robustness_problems(
    schema: Node,
    place: str,
    config: RepositoryConfig,
    *,
    current: bool = False,
    strict: bool = False,
) -> Iterator[Problem]:
    schema_id = str(schema.get("$id", ""))
    skipped = {name for name in (*CHECKS, _VALID, _EXAMPLES) if config.skips(schema_id, name)}
    if not current:
        invalid = list(schema_problems(schema, place))
        yield from (p for p in invalid if _VALID not in skipped)
        if invalid:
            return  # without a valid schema there are no properties and no examples
        if _EXAMPLES not in skipped:
            yield from _example_problems(schema, place, strict=strict)
    for name, check in CHECKS.items():
        if name in skipped or (current and name not in CURRENT):
            continue
        try:
            findings = list(check(schema, config, strict))
        except (AttributeError, TypeError):
            if not current:
                raise
            continue  # not a valid schema; materializing reports it
        yield from (Problem(place, pointer, message, name) for pointer, message in findings)


_VALID = "schema-is-valid"
_EXAMPLES = "schema-examples-are-valid"


def _example_problems(schema: Node, place: str, *, strict: bool) -> Iterator[Problem]:
    try:
        validator = Validator(schema, place, lenient_formats=not strict)
    except SchemaError:
        return  # reported by schema-is-valid
    if not isinstance(schema.get("examples", []), list):  # draft 4 does not have the keyword
        yield Problem(place, "/examples", "is not a list", _EXAMPLES)
        return
    for n, example in enumerate(cast("list[Any]", schema.get("examples", []))):
        problems = validator.validate(example)
        if problems:
            yield Problem(place, below("/examples", n), errors_text(problems), _EXAMPLES)


def _secure(schema: Node, _: RepositoryConfig, strict: bool) -> Iterator[Finding]:  # noqa: ARG001
    """Apply the rules of AJV's json-schema-secure, which prevent slow checks of hostile input."""
    for pointer, node in subschemas(schema):
        for keyword in ("pattern", "format"):
            if keyword in node and "maxLength" not in node:
                yield below(pointer, keyword), f"{keyword} needs maxLength beside it"
        names = node.get("propertyNames")
        if "patternProperties" in node and not (isinstance(names, dict) and "maxLength" in names):
            yield (
                below(pointer, "patternProperties"),
                "needs propertyNames with maxLength beside it",
            )
        if node.get("uniqueItems") is True and "maxItems" not in node and not _scalars(node):
            yield (
                below(pointer, "uniqueItems"),
                "needs maxItems, where items may be objects or lists",
            )


def _scalars(node: Node) -> bool:
    """Return whether the items of a list have a type other than object and list."""
    items = node.get("items")
    kinds = cast("dict[str, Any]", items).get("type") if isinstance(items, dict) else None
    listed = cast("list[Any]", kinds) if isinstance(kinds, list) else [kinds]
    return kinds is not None and not {"object", "array"} & set(listed)


def _snake_case(schema: Node, _: RepositoryConfig, strict: bool) -> Iterator[Finding]:
    for pointer, node in subschemas(schema) if strict else _declared(schema, ""):
        for name in node.get("properties", {}):
            if not _SNAKE_CASE.fullmatch(name):
                yield below(pointer, "properties", name), "is not in snake_case"


def _declared(schema: Any, pointer: str) -> Iterator[tuple[str, Node]]:
    """Yield the schemas that jsonschema-tools checks here: properties, and members of allOf."""
    if not isinstance(schema, dict):
        return
    node = cast("Node", schema)
    yield pointer, node
    for n, part in enumerate(node.get("allOf", [])):
        yield from _declared(part, below(pointer, "allOf", n))
    for name, field in node.get("properties", {}).items():
        yield from _declared(field, below(pointer, "properties", name))


def _deterministic(schema: Node, _: RepositoryConfig, strict: bool) -> Iterator[Finding]:
    yield from _types(schema, "", strict)


def _types(node: Any, pointer: str, strict: bool) -> Iterator[Finding]:
    """Check that each field has a single, completely declared type, as typed storage requires."""
    if not isinstance(node, dict):
        return
    schema = cast("Node", node)
    kind = schema.get("type")
    if isinstance(kind, list):
        yield below(pointer, "type"), "is a union of types"
    if kind == "array":
        items = schema.get("items")
        if not isinstance(items, dict) or "type" not in items:
            yield pointer, "is a list whose items have no type"
        yield from _types(items, below(pointer, "items"), strict)
    if kind == "object":
        is_there = bool if strict else _is_truthy
        if not any(is_there(schema.get(keyword)) for keyword in _CONTENTS):
            yield pointer, "is an object with neither properties nor additionalProperties"
        others = schema.get("additionalProperties")
        yield from _types(others, below(pointer, "additionalProperties"), strict)
    if None in schema.get("enum", []):
        yield below(pointer, "enum"), "holds null"
    for name, field in schema.get("properties", {}).items():
        where = below(pointer, "properties", name)
        if not isinstance(field, dict) or "type" not in field:
            yield where, "has no type"
        yield from _types(field, where, strict)
    for keyword in ("allOf", "oneOf"):
        for n, part in enumerate(schema.get(keyword, [])):
            yield from _types(part, below(pointer, keyword, n), strict)
    yield from _alternatives(schema.get("oneOf", []), below(pointer, "oneOf"))


_CONTENTS = ("properties", "oneOf", "allOf", "additionalProperties")


def _is_truthy(value: Any) -> bool:
    """Return whether a value is truthy in JavaScript, where {} and [] are."""
    return isinstance(value, dict | list) or bool(value)


def _alternatives(parts: list[Any], pointer: str) -> Iterator[Finding]:
    nodes = [cast("Node", part) if isinstance(part, dict) else {} for part in parts]
    if len({str(node.get("type")) for node in nodes}) > 1:
        yield pointer, "has schemas of different types"
        return
    required = {frozenset(node.get("required", [])) for node in nodes}
    if nodes and nodes[0].get("type") == "object" and len(required) > 1:
        yield pointer, "has schemas that require different properties"


def _required(
    schema: Node, _: RepositoryConfig, strict: bool, pointer: str = ""
) -> Iterator[Finding]:
    properties = schema.get("properties", {})
    if "required" in schema and "properties" not in schema:
        yield below(pointer, "required"), "has no properties beside it"
    for name in schema.get("required", []):
        if not _is_truthy(properties.get(name)) and properties.get(name) is not True:
            yield below(pointer, "required"), f"{name!r} is required, but no property"
    for name, field in properties.items():
        if isinstance(field, dict):
            where = below(pointer, "properties", name)
            yield from _required(cast("Node", field), _, strict, where)


def _example_ids(schema: Node, _: RepositoryConfig, strict: bool) -> Iterator[Finding]:  # noqa: ARG001
    examples = schema.get("examples")
    if "$schema" not in schema.get("properties", {}) or not isinstance(examples, list):
        return
    for n, example in enumerate(cast("list[Any]", examples)):
        fields = cast("Node", example) if isinstance(example, dict) else {}
        named = fields.get("$schema")
        if named != schema.get("$id"):
            where = below("/examples", n, "$schema")
            yield where, f"is {named!r}, not the schema's $id {schema.get('$id')!r}"


def _bounded(schema: Node, config: RepositoryConfig, strict: bool) -> Iterator[Finding]:
    if not config.enforced_numeric_bounds:
        return
    low, high = config.enforced_numeric_bounds
    for pointer, node in subschemas(schema):
        if node.get("type") not in ("number", "integer"):
            continue
        if not strict and _CONDITION.search(pointer):
            continue  # jsonschema-tools does not check these
        if not isinstance(node.get("minimum"), int | float) or node["minimum"] < low:
            yield pointer, f"needs a minimum, which is not below {low:.0f}"
        if not isinstance(node.get("maximum"), int | float) or node["maximum"] > high:
            yield pointer, f"needs a maximum, which is not above {high:.0f}"


CHECKS: dict[str, Callable[[Node, RepositoryConfig, bool], Iterator[Finding]]] = {
    "schema-is-secure": _secure,
    "schema-snake-case-properties": _snake_case,
    "schema-deterministic-types": _deterministic,
    "schema-required-properties-exist": _required,
    "schema-examples-$schema-matches-schema-$id": _example_ids,
    "schema-enforced-numeric-bounds": _bounded,
}
CURRENT = {"schema-is-secure", "schema-snake-case-properties"}
