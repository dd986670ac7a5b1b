"""Missing properties filled in by `default`, as AJV 6 does with `useDefaults`.

In properties and items, and through `allOf`; not where a schema may or may not apply (anyOf, oneOf,
not, if, dependencies, patternProperties). A parent that is missing is not made for the sake of what
is below it. What is there stays, null too.

The order is AJV's, since it shows: an object's own properties, what is below each, then `allOf`.
So a parent that comes from `allOf` is filled in by what `allOf` says of it alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar, cast

K = TypeVar("K")


class Defaults:
    """Of one schema without references, which must be valid; compiled once."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._node = _compile(schema)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._node is not None

    def fill(self, document: Any) -> None:
        """In place."""
        if self._node is not None:
            self._node.fill(document)


class _Node:
    """What one schema fills in."""

    def __init__(self, schema: dict[str, Any]) -> None:
        properties = _named(schema.get("properties"))
        self._values = _values(properties.items())
        self._properties = _below(properties.items())
        self._known = properties.keys()
        # Which names are left over is then for patterns to say.
        open_ended = "patternProperties" not in schema
        self._others = _compile(schema.get("additionalProperties")) if open_ended else None
        items = schema.get("items")
        places = cast("list[Any]", items) if isinstance(items, list) else []
        self._place_values = _values(enumerate(places))
        self._places = _below(enumerate(places))
        self._rest = _compile(schema.get("additionalItems") if places else items)
        self._rest_from = len(places)
        parts = cast("list[Any]", schema.get("allOf") or [])
        self._all_of = [node for part in parts if (node := _compile(part)) is not None]

    def __bool__(self) -> bool:
        return bool(
            self._values or self._properties or self._others
            or self._place_values or self._places or self._rest or self._all_of
        )  # fmt: skip

    def fill(self, value: Any) -> None:
        if isinstance(value, dict):
            self._fill_object(cast("dict[str, Any]", value))
        elif isinstance(value, list):
            self._fill_list(cast("list[Any]", value))
        for node in self._all_of:
            node.fill(value)

    def _fill_object(self, fields: dict[str, Any]) -> None:
        for name, default in self._values:
            if name not in fields:
                fields[name] = copy.deepcopy(default)
        if self._others is not None:
            for name, field in fields.items():
                if name not in self._known:
                    self._others.fill(field)
        for name, node in self._properties:
            if name in fields:
                node.fill(fields[name])

    def _fill_list(self, items: list[Any]) -> None:
        for place, default in self._place_values:
            if place >= len(items):
                # what JSON makes of the holes that are left in JavaScript
                items.extend([None] * (place - len(items)))
                items.append(copy.deepcopy(default))
        for place, node in self._places:
            if place < len(items):
                node.fill(items[place])
        if self._rest is not None:
            for item in items[self._rest_from :]:
                self._rest.fill(item)


def _compile(schema: Any) -> _Node | None:
    """None where there is nothing to fill in."""
    return (_Node(cast("dict[str, Any]", schema)) or None) if isinstance(schema, dict) else None


def _named(schemas: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", schemas) if isinstance(schemas, dict) else {}


def _values(schemas: Iterable[tuple[K, Any]]) -> list[tuple[K, Any]]:
    return [
        (key, schema["default"])
        for key, schema in schemas
        if isinstance(schema, dict) and "default" in schema
    ]


def _below(schemas: Iterable[tuple[K, Any]]) -> list[tuple[K, _Node]]:
    return [(key, node) for key, schema in schemas if (node := _compile(schema)) is not None]
