"""The errors of the library that validates, as the errors of AJV 6: the same ones, in its order.

AJV walks a schema in a fixed order of keywords and tells of conditions, names and items what the
library does not. Clients of EventGate compare and log its texts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from eventstreams.schemas.ajv_keywords import (
    RANKS,
    below,
    get,
    is_of,
    is_weaker,
    rank_of,
    says_nothing,
)
from eventstreams.schemas.text import in_order
from eventstreams.schemas.wording import Wording, cut, dynamic_step, static_step, wordings

if TYPE_CHECKING:
    import jsonschema_rs

_LAST = math.inf
Key = tuple[float, ...]
Evaluate = Callable[[Any, Any], Iterable["jsonschema_rs.ValidationError"]]
"""Schema, value -> its errors."""


class Error(NamedTuple):
    """One error of AJV."""

    key: Key
    """Errors are in the order of their keys."""
    data_path: str
    schema_path: str
    wording: Wording


class _Place(NamedTuple):
    """Where an error is, in the schema and in the document."""

    key: Key
    data_path: str
    schema_path: str
    node: Any
    """The schema there, or the value of the keyword."""
    value: Any
    parent: Any
    """The schema that has the keyword."""


class Errors:
    """Of one document under one schema without references."""

    def __init__(self, schema: Any, document: Any, evaluate: Evaluate) -> None:
        """`evaluate` finds what is wrong with an item that `contains` should have found."""
        self._root = _Place((), "", "#", schema, document, None)
        self._evaluate = evaluate
        self._names: dict[tuple[Key, str], int] = {}
        self._found: dict[tuple[Any, ...], Error] = {}

    def of(self, errors: Iterable[jsonschema_rs.ValidationError]) -> list[Error]:
        for error in errors:
            self._add(error, error.schema_path, error.instance_path, self._root)
        return sorted(self._found.values(), key=lambda error: error.key)

    def _add(
        self,
        error: jsonschema_rs.ValidationError,
        schema_path: Sequence[str | int],
        instance_path: Sequence[str | int],
        start: _Place,
    ) -> None:
        """`start` is where the paths begin."""
        place = start
        steps = list(schema_path)
        values = list(instance_path)
        while steps:
            place, steps, values = self._step(place, steps, values)
        details: dict[str, Any] = error.kind.as_dict()
        kind: str = error.kind.name
        if kind == "falseSchema":
            self._false(place, schema_path[-1] if schema_path else None)
        elif kind == "anyOf":
            for each in chain.from_iterable(details["context"]):
                self._add(each, each.schema_path, each.instance_path, self._root)
            self._word(place, kind, details)
        elif kind in ("oneOf", "oneOfMultipleValid", "oneOfNotValid"):
            self._one_of(place, details)
        elif kind == "propertyNames":
            self._name(details["error"])
        elif kind == "required" and schema_path[-1:] == ["dependencies"]:
            self._dependencies(place)
        elif kind == "required":
            self._required(place, details)
        elif kind == "contains":
            self._contains(place, details)
        elif kind == "uniqueItems":
            self._unique(place)
        elif not is_weaker(kind, place.node, place.parent):
            self._word(place, kind, details)

    def _step(
        self, at: _Place, steps: list[Any], values: list[Any]
    ) -> tuple[_Place, list[Any], list[Any]]:
        """One keyword further, with the names or indexes that belong to it."""
        keyword, *rest = steps
        keyword = str(keyword)
        node: Any = get(at.node, keyword) if isinstance(at.node, dict) else None
        key: Key = (*at.key, rank_of(at.node, keyword))
        path = below(at.schema_path, keyword)
        data_path, value = at.data_path, at.value
        if keyword in ("properties", "patternProperties") and rest and values:
            name, field = str(rest.pop(0)), str(values.pop(0))
            order = list(cast("dict[str, Any]", node)).index(name)
            is_declared = keyword == "properties"
            key += (1, order) if is_declared else (2, order, self._nth(key, field))
            data_path += static_step(field) if is_declared else dynamic_step(field)
            path, node, value = below(path, name), get(node, name), get(value, field)
        elif keyword == "additionalProperties" and values and node is not False:
            field = str(values.pop(0))
            key += (0, self._nth(key, field))
            data_path, value = data_path + dynamic_step(field), get(value, field)
        elif keyword in ("items", "additionalItems", "prefixItems") and values:
            index = int(values.pop(0))
            key += (1, index)
            data_path, value = f"{data_path}[{index}]", get(value, index)
            if isinstance(node, list) and rest:
                path, node = below(path, rest[0]), get(node, rest.pop(0))
        elif keyword in ("then", "else"):
            self._condition(at, key, keyword)
            key += (0,)
        elif keyword in ("allOf", "anyOf", "oneOf", "dependencies") and rest:
            step = rest.pop(0)
            is_named = keyword == "dependencies"
            order = list(cast("dict[str, Any]", node)).index(str(step)) if is_named else int(step)
            key += (1, order) if is_named else (order,)
            path, node = below(path, step), get(node, step)
        return _Place(key, data_path, path, node, value, at.node), rest, values

    def _nth(self, key: Key, name: str) -> int:
        """A number for each name at a place, in the order in which they come up."""
        return self._names.setdefault((key, name), len(self._names))

    def _word(self, place: _Place, kind: str, details: Mapping[str, Any]) -> None:
        for n, wording in enumerate(wordings(kind, details, place.node)):
            first = (0, 0, n) if kind in ("additionalProperties", "additionalItems") else (_LAST, n)
            self._put(Error((*place.key, *first), place.data_path, place.schema_path, wording))

    def _put(self, error: Error) -> None:
        identity = (error.key, error.data_path, error.schema_path, error.wording.message)
        self._found.setdefault(identity, error)

    def _false(self, place: _Place, last: Any) -> None:
        if last == "additionalProperties" and isinstance(place.value, dict):
            # that of an object without properties; the library tells only of the first name
            names = list(cast("dict[str, Any]", place.value))
            self._word(place, "additionalProperties", {"unexpected": names})
        elif last == "propertyNames" and isinstance(place.value, dict):
            for name in cast("dict[str, Any]", place.value):
                named = place._replace(key=(*place.key, self._nth(place.key, name)))
                self._false_schema(named)
                self._invalid_name(named, name)
        else:
            self._false_schema(place)

    def _false_schema(self, place: _Place) -> None:
        path = below(place.schema_path, "false schema")
        [wording] = wordings("falseSchema", {}, None)
        self._put(Error((*place.key, 0), place.data_path, path.replace("%20", " "), wording))

    def _one_of(self, place: _Place, details: Mapping[str, Any]) -> None:
        """AJV stops at the second schema that is met."""
        branches: Sequence[Sequence[Any]] = details["context"]
        passing = [n for n, errors in enumerate(branches) if not errors][:2]
        until = passing[1] if len(passing) > 1 else len(branches)
        for each in chain.from_iterable(branches[:until]):
            self._add(each, each.schema_path, each.instance_path, self._root)
        message = "should match exactly one schema in oneOf"
        wording = Wording("oneOf", message, {"passingSchemas": passing or None})
        self._put(Error((*place.key, _LAST), place.data_path, place.schema_path, wording))

    def _name(self, error: jsonschema_rs.ValidationError) -> None:
        """What is wrong with the name of a property, and that this makes it invalid."""
        name = str(error.instance)
        keywords = list(error.schema_path)
        at = self._root
        steps, values = keywords, list(error.instance_path)
        while steps and steps[0] != "propertyNames":
            at, steps, values = self._step(at, steps, values)
        key = (*at.key, RANKS["propertyNames"])
        node = get(at.node, "propertyNames")
        path = below(at.schema_path, "propertyNames")
        inner = _Place((*key, self._nth(key, name)), at.data_path, path, node, name, at.node)
        self._add(error, steps[1:], (), inner)
        self._invalid_name(inner, name)

    def _invalid_name(self, place: _Place, name: str) -> None:
        shown = cut(name)
        message = f"property name '{shown}' is invalid"
        wording = Wording("propertyNames", message, {"propertyName": shown})
        self._put(Error((*place.key, _LAST), place.data_path, place.schema_path, wording))

    def _dependencies(self, place: _Place) -> None:
        """The library says which property is missing, not which one needs it."""
        fields = cast("dict[str, Any]", place.value)
        needs = cast("dict[str, Any]", place.node)
        lists = {name: cast("list[str]", v) for name, v in needs.items() if isinstance(v, list)}
        for order, (name, wanted) in enumerate(lists.items()):
            for n, missing in enumerate(wanted if name in fields else ()):
                if missing in fields:
                    continue
                listed = ", ".join(wanted)
                noun = "property" if len(wanted) == 1 else "properties"
                params = {
                    "property": name,
                    "missingProperty": missing,
                    "depsCount": len(wanted),
                    "deps": listed,
                }
                message = f"should have {noun} {listed} when property {name} is present"
                key = (*place.key, 0, order, n)
                self._put(
                    Error(
                        key,
                        place.data_path,
                        place.schema_path,
                        Wording("dependencies", message, params),
                    )
                )

    def _required(self, place: _Place, details: Mapping[str, Any]) -> None:
        """One that is declared too is looked for where its schema is."""
        name = details["property"]
        properties: dict[str, Any] = get(place.parent, "properties") or {}
        [wording] = wordings("required", details, place.node)
        key = (*place.key, place.node.index(name) if isinstance(place.node, list) else 0)
        if not says_nothing(properties.get(name)):
            key = (*place.key[:-1], RANKS["properties"], 1, list(properties).index(name))
        self._put(Error((*key, 0), place.data_path, place.schema_path, wording))

    def _contains(self, place: _Place, details: Mapping[str, Any]) -> None:
        if not says_nothing(place.node):
            for index, item in enumerate(cast("list[Any]", place.value)):
                inner = _Place(
                    (*place.key, index),
                    f"{place.data_path}[{index}]",
                    place.schema_path,
                    place.node,
                    item,
                    None,
                )
                for error in self._evaluate(place.node, item):
                    self._add_inside(error, inner)
        self._word(place, "contains", details)

    def _unique(self, place: _Place) -> None:
        """AJV compares items of scalar types by another way, which finds another pair, and leaves
        out those of other types, which are invalid anyway."""
        items: Any = get(place.parent, "items")
        kinds: Any = get(items, "type")
        kinds = [kinds] if isinstance(kinds, str) else kinds or []
        is_scalar = kinds and not {"object", "array"} & set(kinds)
        first: dict[str, int] = {}
        pair: tuple[int, int] | None = None
        values = list(enumerate(cast("list[Any]", place.value)))
        for index, item in reversed(values) if is_scalar else values:
            if is_scalar and not any(is_of(kind, item) for kind in kinds):
                continue
            same = json.dumps(in_order(item))
            if same in first and not (is_scalar and pair):
                pair = (index, first[same])
            first[same] = index
        if pair is None:
            return
        i, j = pair
        message = f"should NOT have duplicate items (items ## {j} and {i} are identical)"
        wording = Wording("uniqueItems", message, {"i": i, "j": j})
        self._put(Error((*place.key, _LAST), place.data_path, place.schema_path, wording))

    def _add_inside(self, error: jsonschema_rs.ValidationError, start: _Place) -> None:
        """Of a subschema that was evaluated by itself."""
        root, self._root = self._root, start
        self._add(error, error.schema_path, error.instance_path, start)
        self._root = root

    def _condition(self, at: _Place, key: Key, clause: str) -> None:
        wording = Wording("if", f'should match "{clause}" schema', {"failingKeyword": clause})
        path = below(at.schema_path, "if")
        self._put(Error((*key, _LAST), at.data_path, path, wording))
