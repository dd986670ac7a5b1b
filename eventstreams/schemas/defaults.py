"""Fills in missing properties that have a `default`, as AJV 6 does with `useDefaults`.

Defaults apply in properties and items, and in subschemas that always apply or are selected:
`allOf`, `additionalProperties`, `patternProperties`, `then` or `else`, and schemas in
`dependencies`. They do not apply in subschemas that only test a value: anyOf, oneOf, not, if,
contains, propertyNames. A missing parent is not created for the defaults below it. Existing values,
including null, are kept.

The order is AJV's, because it affects the result: an object's own properties, then what is below
each, then `allOf`. A parent that comes from `allOf` is therefore filled in only by the schema in
`allOf`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

from eventstreams.schemas.cost import weight

K = TypeVar("K")
Test = Callable[[Any], bool]
Compile = Callable[[Any], Test]
"""Takes a schema, and returns a test of whether a value is valid under it."""

_STEPS = 200
"""Objects and lists that are processed between two yields."""
_WEIGHT_MAX = 100_000


class Defaults:
    """The defaults of one valid schema without references, compiled once."""

    def __init__(self, schema: dict[str, Any], *, compile_test: Compile) -> None:
        """Compile the schema. `compile_test` makes the tests for `if` and for patterns of names."""
        self._node = _compile(schema, compile_test)

    def __bool__(self) -> bool:
        """Return whether the schema has any defaults."""
        return self._node is not None

    @property
    def is_bounded(self) -> bool:
        """Return whether the schema alone limits the work, so that `fill` takes under a
        millisecond.
        """
        return self._node is None or self._node.objects_max <= _STEPS

    def fill(self, document: Any) -> int:
        """Fill in defaults in place. Returns the number of values filled in."""
        if self._node is not None and self.is_bounded:
            return self._node.fill_all(document)
        return max(self.filling(document))

    def filling(self, document: Any) -> Iterator[int]:
        """Fill in defaults in place, in steps of about a millisecond.

        Each step yields the number of values filled in so far; a default counts as the number of
        values that it contains.
        """
        filled = steps = 0
        waiting: list[Iterator[tuple[_Node, Any]]] = []
        if self._node is not None:
            waiting.append(iter([(self._node, document)]))
        while waiting:
            following = next(waiting[-1], None)
            if following is None:
                waiting.pop()
                continue
            node, value = following
            filled += node.fill(value)
            waiting.append(node.below(value))
            steps += 1
            if steps % _STEPS == 0:
                yield filled
        yield filled


class _Node:
    """The defaults of one subschema."""

    def __init__(self, schema: dict[str, Any], compile_test: Compile) -> None:
        properties = _named(schema.get("properties"))
        self._values = _values(properties.items())
        self._properties = _below(properties.items(), compile_test)
        self._known = properties.keys()
        patterns = _named(schema.get("patternProperties"))
        self._patterns = [
            (compile_test({"pattern": pattern}), node)
            for pattern, node in _below(patterns.items(), compile_test)
        ]
        self._others = _compile(schema.get("additionalProperties"), compile_test)
        self._has_pattern = (
            [compile_test({"pattern": pattern}) for pattern in patterns] if self._others else []
        )
        self._dependencies = _below(_named(schema.get("dependencies")).items(), compile_test)
        items = schema.get("items")
        places = cast("list[Any]", items) if isinstance(items, list) else []
        self._place_values = _values(enumerate(places))
        self._places = _below(enumerate(places), compile_test)
        self._rest = _compile(schema.get("additionalItems") if places else items, compile_test)
        self._rest_from = len(places)
        parts = cast("list[Any]", schema.get("allOf") or [])
        self._all_of = [node for _, node in _below(enumerate(parts), compile_test)]
        self._then = _compile(schema.get("then"), compile_test) if "if" in schema else None
        self._else = _compile(schema.get("else"), compile_test) if "if" in schema else None
        self._if = compile_test(schema["if"]) if self._then or self._else else None
        self._is_flat = not (self._properties or self._all_of)
        self.objects_max = self._objects_max()
        """The number of objects and lists visited in one document; infinite if the document
        determines it.
        """

    def _objects_max(self) -> float:
        if (
            self._patterns or self._others or self._dependencies or self._place_values
            or self._places or self._rest or self._if
        ):  # fmt: skip
            return math.inf
        nodes = [*(node for _, node in self._properties), *self._all_of]
        return 1 + sum(node.objects_max for node in nodes)

    def __bool__(self) -> bool:
        return bool(
            self._values or self._properties or self._patterns or self._others
            or self._dependencies or self._place_values or self._places or self._rest
            or self._all_of or self._if
        )  # fmt: skip

    def fill(self, value: Any) -> int:
        """Fill in the missing properties of `value` itself. Returns the number filled in."""
        filled = 0
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            for name, default, size in self._values:
                if name not in fields:
                    fields[name] = _copied(default)
                    filled += size
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            for place, default, size in self._place_values:
                if place >= len(items):
                    # JSON writes the holes in a JavaScript array as null
                    filled += size + place - len(items)
                    items.extend([None] * (place - len(items)))
                    items.append(_copied(default))
        return filled

    def fill_all(self, value: Any) -> int:
        """Fill in `value` and everything below it. Requires a finite `objects_max`."""
        filled = self.fill(value)
        if self._is_flat:
            return filled
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            for name, node in self._properties:
                if name in fields:
                    filled += node.fill_all(fields[name])
        for node in self._all_of:
            filled += node.fill_all(value)
        return filled

    def below(self, value: Any) -> Iterator[tuple[_Node, Any]]:
        """Yield the values below `value` to fill in next, in order, after `value` itself.

        Each must be filled in before the next is requested.
        """
        if isinstance(value, dict):
            yield from self._below_object(cast("dict[str, Any]", value))
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            for place, node in self._places:
                if place < len(items):
                    yield node, items[place]
            if self._rest is not None:
                for item in items[self._rest_from :]:
                    yield self._rest, item
        for node in self._all_of:
            yield node, value
        if self._if is not None:
            chosen = self._then if self._if(value) else self._else
            if chosen is not None:
                yield chosen, value

    def _below_object(self, fields: dict[str, Any]) -> Iterator[tuple[_Node, Any]]:
        for name, node in self._dependencies:
            if name in fields:
                yield node, fields
        if self._others is not None:
            for name, field in fields.items():
                if name not in self._known and not any(has(name) for has in self._has_pattern):
                    yield self._others, field
        for name, node in self._properties:
            if name in fields:
                yield node, fields[name]
        for has, node in self._patterns:
            for name, field in fields.items():
                if has(name):
                    yield node, field


def _copied(default: Any) -> Any:
    return default if isinstance(default, str | int | float) else copy.deepcopy(default)


def _compile(schema: Any, compile_test: Compile) -> _Node | None:
    """Return the compiled node, or None if the schema has no defaults."""
    if not isinstance(schema, dict):
        return None
    return _Node(cast("dict[str, Any]", schema), compile_test) or None


def _named(schemas: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", schemas) if isinstance(schemas, dict) else {}


def _values(schemas: Iterable[tuple[K, Any]]) -> list[tuple[K, Any, int]]:
    """Return each key with its default and the number of values in the default."""
    return [
        (key, schema["default"], weight(schema["default"], _WEIGHT_MAX))
        for key, schema in schemas
        if isinstance(schema, dict) and "default" in schema
    ]


def _below(schemas: Iterable[tuple[K, Any]], compile_test: Compile) -> list[tuple[K, _Node]]:
    compiled = ((key, _compile(schema, compile_test)) for key, schema in schemas)
    return [(key, node) for key, node in compiled if node is not None]
