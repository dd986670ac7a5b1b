"""Missing properties filled in by `default`, as AJV 6 does with `useDefaults`.

In `properties`, in `items` and through `allOf`; not where a schema may or may not apply (anyOf,
oneOf, not, if). A parent that is missing is not made for the sake of what is below it.
"""

from __future__ import annotations

import copy
from typing import Any, cast


class Defaults:
    """Of one schema without references; compiled once."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._node = _compile(schema)

    def __bool__(self) -> bool:
        return self._node is not None

    def fill(self, document: Any) -> None:
        """In place."""
        if self._node is not None:
            self._node.fill(document)


class _Node:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.properties: dict[str, list[_Node]] = {}
        self.items: list[_Node] = []
        """Of every item."""
        self.tuple: list[_Node | None] = []
        """Of the first, the second, ... item."""

    def __bool__(self) -> bool:
        return bool(self.values or self.properties or self.items or any(self.tuple))

    def fill(self, value: Any) -> None:
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            for name, default in self.values.items():
                if name not in fields:
                    fields[name] = copy.deepcopy(default)
            for name, nodes in self.properties.items():
                if name in fields:
                    for node in nodes:
                        node.fill(fields[name])
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            for node in self.items:
                for item in items:
                    node.fill(item)
            for item, of_place in zip(items, self.tuple, strict=False):
                if of_place is not None:
                    of_place.fill(item)


def _compile(schema: Any) -> _Node | None:
    node = _Node()
    _collect(schema, node)
    return node or None


def _collect(schema: Any, node: _Node) -> None:
    if not isinstance(schema, dict):
        return
    fields = cast("dict[str, Any]", schema)
    properties: Any = fields.get("properties")
    if isinstance(properties, dict):
        for name, inner in cast("dict[str, Any]", properties).items():
            if isinstance(inner, dict) and "default" in inner:
                node.values.setdefault(name, inner["default"])
            below = _compile(inner)
            if below is not None:
                node.properties.setdefault(name, []).append(below)
    items: Any = fields.get("items")
    if isinstance(items, dict):
        below = _compile(items)
        if below is not None:
            node.items.append(below)
    elif isinstance(items, list):
        places = cast("list[Any]", items)
        for n, inner in enumerate(places):
            if n == len(node.tuple):
                node.tuple.append(None)
            node.tuple[n] = node.tuple[n] or _compile(inner)
    for part in fields.get("allOf") or ():
        _collect(part, node)
