"""Finds paths that no schema of an event declares, and the names that were probably meant; and
values and uses that the type of a field does not allow.

Schemas are open, so such a field may exist all the same: what is found is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from eventstreams.model.nearest import nearest

_PARTS = ("allOf", "anyOf", "oneOf")
_DEPTH_MAX = 8
"""How deeply combined schemas are followed."""
_INSERTED = frozenset({"topic", "partition", "offset", "key", "stream", "dt", "id", "request_id"})
"""Fields of `meta` that the gateway adds."""

_NAMES = {
    "string": "text",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}
"""What warnings call the types of JSON; "integer" is a number, as in CEL."""
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)

Schema = Mapping[str, Any]


def undeclared(schemas: Sequence[Schema], path: Sequence[str]) -> str | None:
    """Return a warning if none of the schemas declares the path, otherwise None.

    In the names that it shows, `%` and `;` are percent-encoded, so that `; ` only separates.
    """
    level = list(schemas)
    for number, name in enumerate(path):
        if (number, path[0]) == (1, "meta") and name in _INSERTED:
            return None
        parts = [part for schema in level for part in _combined(schema, 0)]
        names = {key: value for part in parts for key, value in _properties(part).items()}
        if name in names:
            level = [
                cast("Schema", below)
                for part in parts
                if isinstance(below := _properties(part).get(name), Mapping)
            ]
            continue
        if not names or any(_is_map(part) for part in parts):
            return None
        return _text(path, number, names)
    return None


def mistyped(
    schemas: Sequence[Schema], path: Sequence[str], value: str | bool | int | float
) -> str | None:
    """Return a warning if by all of the schemas the field can never have a value of this type.

    Returns None if one of them does not declare the field or its type. Whether it may be null makes
    no difference.
    """
    types = _types_by_all(schemas, path)
    kind = _kind(value)
    if not types or kind in types:
        return None
    fact = _fact(path, types)
    if isinstance(value, str):
        is_bare = ("number" in types and _NUMBER.fullmatch(value)) or (
            "boolean" in types and value in ("true", "false")
        )
        return f"{fact}; write {value} without quotes" if is_bare else f"{fact}, not text"
    if types == {"string"}:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return f"{fact}; write '{text}' in quotes"
    return f"{fact}, not {_NAMES[kind]}"


def no_condition(schemas: Sequence[Schema], path: Sequence[str]) -> str | None:
    """Return a warning if by all of the schemas the field can never be true or false.

    Returns None if one of them does not declare the field or its type.
    """
    types = _types_by_all(schemas, path)
    if not types or "boolean" in types:
        return None
    return f"{_fact(path, types)}, not a condition; compare it with a value"


def _types_by_all(schemas: Sequence[Schema], path: Sequence[str]) -> set[str]:
    """Return the types other than null that the schemas allow; none if one of them does not say."""
    types: set[str] = set()
    for schema in schemas:
        declared = _types(schema, path)
        if declared is None:
            return set()
        types |= declared
    return types - {"null"}


def _fact(path: Sequence[str], types: set[str]) -> str:
    names = [name for key, name in _NAMES.items() if key in types]
    return f"{_shown('.'.join(path))} is {' or '.join(names)}"


def _types(schema: Schema, path: Sequence[str]) -> set[str] | None:
    """Return the types that a schema allows at a path; None if it does not say."""
    level: list[Any] = [schema]
    for name in path:
        parts = [part for each in level for part in _combined(each, 0)]
        level = [_properties(part)[name] for part in parts if name in _properties(part)]
        if not level or not all(isinstance(each, Mapping) for each in level):
            return None
    found: set[str] = set()
    for each in cast("list[Schema]", level):
        declared: Any = each.get("type")
        types = cast("list[Any]", declared) if isinstance(declared, list) else [declared]
        found |= {"number" if each == "integer" else str(each) for each in types}
    return found if found and found <= {*_NAMES, "null"} else None


def _kind(value: str | bool | int | float) -> str:
    if isinstance(value, str):
        return "string"
    return "boolean" if isinstance(value, bool) else "number"


def _text(path: Sequence[str], number: int, names: Mapping[str, Any]) -> str:
    above = ".".join(path[:number])
    whole = ".".join(path[: number + 1])
    near = nearest(path[number], names)
    if not near:
        return f"the schema has no field {_shown(whole)}"
    meant = f"{above}.{near[0]}" if above else near[0]
    return f"the schema has no field {_shown(whole)}; did you mean {_shown(meant)}?"


def _shown(name: str) -> str:
    return name.replace("%", "%25").replace(";", "%3B")


def _combined(schema: Schema, depth: int) -> Iterator[Schema]:
    yield schema
    for keyword in _PARTS if depth < _DEPTH_MAX else ():
        parts: Any = schema.get(keyword)
        for part in cast("list[Any]", parts) if isinstance(parts, list) else ():
            if isinstance(part, Mapping):
                yield from _combined(cast("Schema", part), depth + 1)


def _properties(schema: Schema) -> Mapping[str, Any]:
    found: Any = schema.get("properties")
    return cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {}


def _is_map(schema: Schema) -> bool:
    """Return whether the schema describes fields of any name."""
    return isinstance(schema.get("additionalProperties"), Mapping) or bool(
        schema.get("patternProperties")
    )
