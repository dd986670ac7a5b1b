"""Converts errors of the jsonschema-rs library to those of AJV 6, in the order of AJV.

AJV checks the keywords of a schema in a fixed order, and reports details about conditions, names
and items that the library does not. Clients of EventGate compare and log AJV's texts.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import quote

from eventstreams.schemas.text import in_order

if TYPE_CHECKING:
    import jsonschema_rs

_ORDER = (
    "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "multipleOf", "maxLength",
    "minLength", "pattern", "format", "maxItems", "minItems", "items", "contains", "uniqueItems",
    "maxProperties", "minProperties", "required", "dependencies", "propertyNames", "properties",
    "const", "enum", "not", "anyOf", "oneOf", "allOf", "if",
)  # fmt: skip
"""AJV's order of keywords: those for numbers, strings, lists and objects, then those for any value.
"""
RANKS: dict[str, int] = {
    **{keyword: rank for rank, keyword in enumerate(_ORDER)},
    "additionalItems": _ORDER.index("items"),
    "prefixItems": _ORDER.index("items"),
    "additionalProperties": _ORDER.index("properties"),
    "patternProperties": _ORDER.index("properties"),
    "then": _ORDER.index("if"),
    "else": _ORDER.index("if"),
}
_OF_TYPE: dict[str, list[str]] = {
    "number": ["maximum", "minimum", "multipleOf", "format"],
    "string": ["maxLength", "minLength", "pattern", "format"],
    "array": ["maxItems", "minItems", "items", "contains", "uniqueItems"],
    "object": [
        "maxProperties", "minProperties", "required", "dependencies", "propertyNames", "properties",
        "additionalProperties", "patternProperties",
    ],
}  # fmt: skip
"""Keywords for each type. Beside one of these, `type` is checked at its place in the order;
otherwise `type` is checked first.
"""
_ANNOTATIONS = frozenset(
    (
        "$schema", "$id", "id", "title", "description", "default", "definitions", "examples",
        "readOnly", "writeOnly", "contentMediaType", "contentEncoding", "additionalItems", "then",
        "else",
    )
)  # fmt: skip
_UNESCAPED = "!~*'()-_."
"""Characters that encodeURIComponent does not escape."""


def rank_of(schema: Any, keyword: str) -> float:
    """Return the rank of a keyword's errors among the errors of its schema."""
    if keyword != "type":
        return RANKS.get(keyword, len(_ORDER))
    kinds = schema["type"]
    listed = cast("list[str]", kinds if isinstance(kinds, list) else [kinds])
    beside = _OF_TYPE.get(listed[0], []) if len(listed) == 1 else []
    return RANKS[beside[0]] - 0.5 if any(name in schema for name in beside) else -1


_STRONGER: Mapping[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": ("exclusiveMinimum", operator.ge),
    "maximum": ("exclusiveMaximum", operator.le),
    "exclusiveMinimum": ("minimum", operator.gt),
    "exclusiveMaximum": ("maximum", operator.lt),
}


def is_weaker(kind: str, limit: Any, schema: Any) -> bool:
    """Return whether AJV ignores a bound because the schema has a stronger one."""
    if kind not in _STRONGER:
        return False
    name, is_stronger = _STRONGER[kind]
    other = get(schema, name)
    return isinstance(other, int | float) and is_stronger(other, limit)


def is_of(kind: str, value: Any) -> bool:
    """Return whether a value has the given scalar type."""
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    if isinstance(value, str):
        return kind == "string"
    if isinstance(value, int | float):
        return kind == "number" or (kind == "integer" and float(value).is_integer())
    return False


def is_unconstrained(schema: Any) -> bool:
    """Return whether a schema has nothing to check, so that AJV skips it."""
    if isinstance(schema, dict):
        return not cast("dict[str, Any]", schema).keys() - _ANNOTATIONS
    return schema is not False


def below(path: str, token: str | int) -> str:
    """Return a JSON pointer in URI fragment form extended by one step, escaped as in AJV."""
    escaped = str(token).replace("~", "~0").replace("/", "~1")
    return f"{path}/{quote(escaped, safe=_UNESCAPED)}"


def get(container: Any, key: Any) -> Any:
    """Return the value at a key or index, or None if there is none."""
    if isinstance(container, dict):
        return cast("dict[str, Any]", container).get(str(key))
    if isinstance(container, list):
        items = cast("list[Any]", container)
        return items[int(key)] if int(key) < len(items) else None
    return None


_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")

_NAME_MAX = 200
"""Maximum characters that are quoted of a property's name, because clients choose names."""

Details = Mapping[str, Any]


class Wording(NamedTuple):
    keyword: str
    message: str
    params: dict[str, Any]


def static_step(name: str) -> str:
    """Return a data path step to a property that the schema declares: `.dt`, `['user-agent']`."""
    name = cut(name)
    if _IDENTIFIER.fullmatch(name):
        return f".{name}"
    escaped = re.sub(r"(['\\\\])", r"\\\1", name)
    for raw, text in (("\n", "\\n"), ("\r", "\\r"), ("\f", "\\f"), ("\t", "\\t")):
        escaped = escaped.replace(raw, text)
    return f"['{escaped}']"


def dynamic_step(name: str) -> str:
    """Return a data path step to any other property, which AJV writes without escapes: `['dt']`."""
    return f"['{cut(name)}']"


def cut(name: str) -> str:
    return name if len(name) <= _NAME_MAX else name[:_NAME_MAX] + "…"


def wordings(kind: str, details: Details, expected: Any) -> Iterator[Wording]:
    """Yield AJV's message for an error: one for each unexpected property, otherwise exactly one.

    `expected` is the value of the keyword in the schema.
    """
    if kind == "additionalProperties":
        for name in details["unexpected"]:
            yield Wording(
                kind, "should NOT have additional properties", {"additionalProperty": cut(name)}
            )
    elif kind in _BOUNDS:
        yield _bound(kind, details)
    elif kind in _SIZES:
        yield _size(kind, details)
    elif kind in _WORDS:
        yield _WORDS[kind](details, expected)
    else:
        yield Wording(kind, f"should pass {json.dumps(kind)} keyword validation", {})


_BOUNDS = {"minimum": ">=", "maximum": "<=", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
_SIZES = {
    "maxLength": "should NOT be longer than {} characters",
    "minLength": "should NOT be shorter than {} characters",
    "maxItems": "should NOT have more than {} items",
    "minItems": "should NOT have fewer than {} items",
    "additionalItems": "should NOT have more than {} items",
    "maxProperties": "should NOT have more than {} properties",
    "minProperties": "should NOT have fewer than {} properties",
}


def _bound(kind: str, details: Details) -> Wording:
    sign, limit = _BOUNDS[kind], details["limit"]
    params = {"comparison": sign, "limit": limit, "exclusive": "=" not in sign}
    return Wording(kind, f"should be {sign} {json.dumps(limit)}", params)


def _size(kind: str, details: Details) -> Wording:
    return Wording(kind, _SIZES[kind].format(details["limit"]), {"limit": details["limit"]})


def _type(details: Details, expected: Any) -> Wording:
    types = cast("list[str]", expected if isinstance(expected, list) else details["types"])
    return Wording("type", f"should be {','.join(types)}", {"type": ",".join(types)})


def _required(details: Details, expected: Any) -> Wording:  # noqa: ARG001
    name = details["property"]
    message = f"should have required property '{name}'"
    return Wording("required", message, {"missingProperty": name})


def _fixed(
    keyword: str, message: str, **params: str
) -> Callable[[Details, Any], Wording]:  # params: AJV's name -> the library's name
    def word(details: Details, expected: Any) -> Wording:  # noqa: ARG001
        given = {name: details[key] for name, key in params.items()}
        return Wording(keyword, message.format(*map(str, given.values())), given)

    return word


_WORDS: dict[str, Callable[[Details, Any], Wording]] = {
    "type": _type,
    "required": _required,
    "enum": _fixed("enum", "should be equal to one of the allowed values", allowedValues="options"),
    "const": _fixed("const", "should be equal to constant", allowedValue="expected_value"),
    "pattern": _fixed("pattern", 'should match pattern "{}"', pattern="pattern"),
    "format": _fixed("format", 'should match format "{}"', format="format"),
    "multipleOf": _fixed("multipleOf", "should be multiple of {}", multipleOf="multiple_of"),
    "anyOf": _fixed("anyOf", "should match some schema in anyOf"),
    "not": _fixed("not", "should NOT be valid"),
    "contains": _fixed("contains", "should contain a valid item"),
    "falseSchema": _fixed("false schema", "boolean schema is false"),
}


_LAST = math.inf
Key = tuple[float, ...]
Evaluate = Callable[[Any, Any], Iterable["jsonschema_rs.ValidationError"]]
"""Takes a schema and a value, and returns the errors of the value."""


class Error(NamedTuple):
    """An AJV error."""

    key: Key
    """Errors are sorted by their keys."""
    data_path: str
    schema_path: str
    wording: Wording


class _Place(NamedTuple):
    """The place of an error in the schema and in the document."""

    key: Key
    data_path: str
    schema_path: str
    node: Any
    """The schema at this place, or the value of the keyword."""
    value: Any
    parent: Any
    """The schema that contains the keyword."""


class Errors:
    """Converts the errors of one document under one schema without references."""

    def __init__(self, schema: Any, document: Any, evaluate: Evaluate) -> None:
        """Set the schema and document. `evaluate` finds the errors of items that `contains` does
        not match.
        """
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
        """Add an error of the library. `start` is the place that its paths are relative to."""
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
        """Return the place one keyword deeper, and the path elements of that keyword."""
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
        """Return a number for each name at a place, in order of first appearance."""
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
            # that of an object without properties; the library reports only the first name
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
        """Add a `oneOf` error. AJV stops at the second schema that matches."""
        branches: Sequence[Sequence[Any]] = details["context"]
        passing = [n for n, errors in enumerate(branches) if not errors][:2]
        until = passing[1] if len(passing) > 1 else len(branches)
        for each in chain.from_iterable(branches[:until]):
            self._add(each, each.schema_path, each.instance_path, self._root)
        message = "should match exactly one schema in oneOf"
        wording = Wording("oneOf", message, {"passingSchemas": passing or None})
        self._put(Error((*place.key, _LAST), place.data_path, place.schema_path, wording))

    def _name(self, error: jsonschema_rs.ValidationError) -> None:
        """Add the errors of a property's name, and the error that the name is invalid."""
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
        """Add `dependencies` errors. The library does not report which property requires the
        missing one.
        """
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
        """Add a `required` error. AJV reports a declared property at the place of its schema."""
        name = details["property"]
        properties: dict[str, Any] = get(place.parent, "properties") or {}
        [wording] = wordings("required", details, place.node)
        key = (*place.key, place.node.index(name) if isinstance(place.node, list) else 0)
        if not is_unconstrained(properties.get(name)):
            key = (*place.key[:-1], RANKS["properties"], 1, list(properties).index(name))
        self._put(Error((*key, 0), place.data_path, place.schema_path, wording))

    def _contains(self, place: _Place, details: Mapping[str, Any]) -> None:
        if not is_unconstrained(place.node):
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
        """Add a `uniqueItems` error.

        AJV compares items of scalar types with another algorithm, which finds a different pair, and
        ignores items of other types, which are invalid anyway.
        """
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
        """Add an error of a subschema that was evaluated separately."""
        root, self._root = self._root, start
        self._add(error, error.schema_path, error.instance_path, start)
        self._root = root

    def _condition(self, at: _Place, key: Key, clause: str) -> None:
        wording = Wording("if", f'should match "{clause}" schema', {"failingKeyword": clause})
        path = below(at.schema_path, "if")
        self._put(Error((*key, _LAST), at.data_path, path, wording))
