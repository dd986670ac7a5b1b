"""Estimates the cost of listing all problems of a document, and limits it.

The jsonschema-rs library finds every problem before it returns the first one, and copies into each
problem the value concerned. A document with 1,000 invalid names takes 400 ms. The functions here
first count the problems, which is cheap; callers list them only if few values would be copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

_WEIGHT_MAX = 1000
"""Maximum weight of a document whose problems are counted at all."""
_COPIED_MAX = 10_000
"""Maximum weight of all copies made of one document's values: about 4 ms."""
_TEXT_CHARACTERS = 256
"""This many characters cost as much to copy as one value."""

_BRANCHES = ("anyOf", "oneOf", "unevaluatedItems", "unevaluatedProperties")
"""Keywords whose problem contains the problems of all their branches, or depends on them."""
_SCHEMA = ("additionalItems", "additionalProperties", "else", "items", "then")
_SCHEMAS = ("allOf", "items", "prefixItems")
_SCHEMAS_BY_NAME = ("dependencies", "dependentSchemas", "patternProperties", "properties")


def is_cheap(document: Any, evaluate: Callable[[], Iterable[Mapping[str, Any]]]) -> bool:
    """Return whether all problems of the document can be listed in a few milliseconds.

    `evaluate` returns the problems without details; each has an `instanceLocation`, a JSON pointer.
    """
    if weight(document, _WEIGHT_MAX) > _WEIGHT_MAX:
        return False
    weights: dict[str, int] = {}
    copied = 0
    for problem in evaluate():
        place: str = problem["instanceLocation"]
        if place not in weights:
            weights[place] = weight(_value_at(document, place), _COPIED_MAX)
        copied += weights[place]
        if copied > _COPIED_MAX:
            return False
    return True


def weight(value: Any, most: int) -> int:
    """Count the values and names in `value`; a long text counts several times.

    Counting stops soon after it exceeds `most`.
    """
    found = 0
    waiting: list[Any] = [value]
    while waiting and found <= most:
        each = waiting.pop()
        found += 1
        if isinstance(each, str):
            found += len(each) // _TEXT_CHARACTERS
        elif isinstance(each, dict):
            fields = cast("dict[str, Any]", each)
            waiting += fields.keys()
            waiting += fields.values()
        elif isinstance(each, list):
            waiting += cast("list[Any]", each)
    return found


def without_branches(schema: Any) -> Any:
    """Return a schema that accepts every valid document, and whose first problem is cheap to find.

    It lacks the keywords whose problem lists the problems of several branches.
    """
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for keyword, value in cast("dict[str, Any]", schema).items():
        if keyword in _BRANCHES:
            continue
        if keyword in _SCHEMA and isinstance(value, dict):
            kept[keyword] = without_branches(value)
        elif keyword in _SCHEMAS and isinstance(value, list):
            kept[keyword] = [without_branches(each) for each in cast("list[Any]", value)]
        elif keyword in _SCHEMAS_BY_NAME and isinstance(value, dict):
            named = cast("dict[str, Any]", value)
            kept[keyword] = {name: without_branches(each) for name, each in named.items()}
        elif keyword != "propertyNames" or without_branches(value) == value:
            kept[keyword] = value
    return kept


def _value_at(document: Any, pointer: str) -> Any:
    """Return the value at a JSON pointer, which must exist."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(document, list):
            document = cast("list[Any]", document)[int(name)]
        else:
            document = cast("dict[str, Any]", document)[name]
    return document
