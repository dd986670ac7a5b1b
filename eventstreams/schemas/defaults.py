"""Missing properties filled in by `default`, as AJV 6 does with `useDefaults`.

In properties and items, and through what applies: `allOf`, `additionalProperties`,
`patternProperties`, `then` or `else`, and schemas in `dependencies`. Not in what only tests:
anyOf, oneOf, not, if, contains, propertyNames. A parent that is missing is not made for the sake of
what is below it. What is there stays, null too.

The order is AJV's, since it shows: an object's own properties, what is below each, then `allOf`.
So a parent that comes from `allOf` is filled in by what `allOf` says of it alone.
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
"""Schema -> whether a value is valid under it."""

_STEPS = 200
"""Objects and lists that are filled in without a pause."""
_WEIGHT_MAX = 100_000


class Defaults:
    """Of one schema without references, which must be valid; compiled once."""

    def __init__(self, schema: dict[str, Any], *, compile_test: Compile) -> None:
        """`compile_test` makes the tests of `if` and of names that have a pattern."""
        self._node = _compile(schema, compile_test)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._node is not None

    @property
    def is_bounded(self) -> bool:
        """Whether the schema alone says how much there is to fill in at most, so that `fill` takes
        less than a millisecond for any document."""
        return self._node is None or self._node.objects_max <= _STEPS

    def fill(self, document: Any) -> int:
        """Fill in, in place; return how many values were filled in."""
        if self._node is not None and self.is_bounded:
            return self._node.fill_all(document)
        return max(self.filling(document))

    def filling(self, document: Any) -> Iterator[int]:
        """Fill in, in place, in steps of about a millisecond. Each yields how many defaults were
        filled in so far; each default counts as the values that it has."""
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
    """What one schema fills in."""

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
        """How many objects and lists are looked at for one document; infinite where the document
        decides that."""

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
        """Fill in what `value` itself lacks; return how many values that are."""
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
                    # what JSON makes of the holes that are left in JavaScript
                    filled += size + place - len(items)
                    items.extend([None] * (place - len(items)))
                    items.append(_copied(default))
        return filled

    def fill_all(self, value: Any) -> int:
        """The same of all that is below `value`, too, where `objects_max` is finite."""
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
        """Yield what else is to be filled in, in order, once `value` itself is. Each must be filled
        in before the next is asked for."""
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
    """None where there is nothing to fill in."""
    if not isinstance(schema, dict):
        return None
    return _Node(cast("dict[str, Any]", schema), compile_test) or None


def _named(schemas: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", schemas) if isinstance(schemas, dict) else {}


def _values(schemas: Iterable[tuple[K, Any]]) -> list[tuple[K, Any, int]]:
    """Key, default, and how many values that has."""
    return [
        (key, schema["default"], weight(schema["default"], _WEIGHT_MAX))
        for key, schema in schemas
        if isinstance(schema, dict) and "default" in schema
    ]


def _below(schemas: Iterable[tuple[K, Any]], compile_test: Compile) -> list[tuple[K, _Node]]:
    compiled = ((key, _compile(schema, compile_test)) for key, schema in schemas)
    return [(key, node) for key, node in compiled if node is not None]
