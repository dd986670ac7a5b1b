"""Converts EventLogging's JSON Schemas of draft 3 to schemas of the repository (draft 7).

What draft 7 cannot express is omitted, with a note that names its place. A schema whose meaning
would change by the omission is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from eventstreams.errors import SchemaError
from eventstreams.legacy.conversion import stream_of, title_of, uri_of
from eventstreams.model.problem import Problem, below
from eventstreams.schemas.validation import Validator, schema_problems

CAPSULE_TITLE = "fragment/analytics/legacy/eventcapsule"
"""The title of the fragment that declares the fields of a capsule other than `event`."""
_DRAFT = "https://json-schema.org/draft-07/schema#"
_TEXT_MAX = 8192
"""Maximum characters of a string with a pattern or format if the schema sets no limit.

The repository requires a limit, and no capsule in a URL has longer strings.
"""
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_FORMATS = {
    "date-time": "date-time",
    "date": "date",
    "regex": "regex",
    "uri": "uri",
    "email": "email",
    "ip-address": "ipv4",
    "ipv6": "ipv6",
    "host-name": "hostname",
}
_SAME = frozenset(
    (
        *("title", "description", "default", "enum", "pattern", "minLength", "maxLength"),
        *("minimum", "maximum", "minItems", "maxItems", "uniqueItems"),
    )
)
"""Keywords that have the same meaning in both drafts."""
_TIME = "2026-01-31T12:00:00Z"
_DEPTH_MAX = 60
Fields = dict[str, Any]


class Converted(NamedTuple):
    """A schema for the repository."""

    document: Fields
    """The content of current.yaml."""
    notes: list[Problem]
    """What was omitted or added."""


def convert(
    document: Mapping[str, Any], *, name: str, version: str, capsule_uri: str, place: str
) -> Converted:
    """Convert the draft 3 schema of the field `event` in capsules whose `schema` is `name`.

    `capsule_uri` is the version of the capsule's fragment to refer to. Problems and notes name the
    document `place`. Raises SchemaError listing every reason why it cannot be converted.
    """
    conversion = _Conversion(place)
    event = conversion.schema(dict(document), "")
    if event.setdefault("type", "object") != "object":
        conversion.refuse("/type", "is not object, but the event of a capsule is one")
    if conversion.problems:
        raise SchemaError(conversion.problems)
    event.pop("title", None)
    described = event.pop("description", None)
    event.setdefault("additionalProperties", False)  # EventLogging added this
    if problems := list(schema_problems(event, place)):
        raise SchemaError(problems)
    example: Fields = {
        "$schema": {"$ref": "#/$id"},
        "meta": {"stream": stream_of(name), "dt": _TIME},
        "schema": name,
        "dt": _TIME,
        "client_dt": _TIME,
        "event": example_of(event),
    }
    if Validator(event, place).validate(example["event"]):
        conversion.note("", "got an example that does not fit it; write one by hand")
    whole = {
        "title": title_of(name),
        "description": described or f"The schema {name} of EventLogging",
        "$id": uri_of(name, version),
        "$schema": _DRAFT,
        "type": "object",
        "allOf": [
            {"$ref": f"{capsule_uri}#"},
            {"required": ["event"], "properties": {"event": event}},
        ],
        "examples": [example],
    }
    return Converted(whole, conversion.notes)


def example_of(schema: Mapping[str, Any]) -> Any:
    """Return a short value that is valid under a converted schema without patterns or unions."""
    if "default" in schema:
        return schema["default"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = cast("list[Any]", kind)[0]
    return _EXAMPLES[kind](schema)


def _object_of(schema: Mapping[str, Any]) -> Any:
    properties = schema.get("properties", {})
    return {name: example_of(properties[name]) for name in schema.get("required", ())}


def _array_of(schema: Mapping[str, Any]) -> Any:
    items: Any = schema.get("items", {})
    if not isinstance(items, dict):
        return []
    return [example_of(cast("Fields", items)) for _ in range(schema.get("minItems", 0))]


def _number_of(schema: Mapping[str, Any]) -> Any:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1) - 1)
    return min(max(low, 0), max(high, low))


def _text_of(schema: Mapping[str, Any]) -> str:
    formats = {
        "date-time": _TIME,
        "date": "2026-01-31",
        "uri": "https://example.org/",
        "email": "user@example.org",
        "ipv4": "192.0.2.1",
        "ipv6": "2001:db8::1",
        "hostname": "example.org",
    }
    text = formats.get(schema.get("format", ""), "example")
    return text.ljust(schema.get("minLength", 0), "-")[: schema.get("maxLength", _TEXT_MAX)]


_EXAMPLES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "object": _object_of,
    "array": _array_of,
    "integer": _number_of,
    "number": _number_of,
    "boolean": lambda _: True,
    "null": lambda _: None,
    "string": _text_of,
}


class _Conversion:
    """The conversion of one document, with its notes and problems."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []
        self._keywords: dict[str, Callable[[Fields, Any, str], None]] = {
            "type": self._type,
            "disallow": self._disallow,
            "extends": self._extends,
            "properties": self._properties,
            "patternProperties": self._pattern_properties,
            "additionalProperties": self._boolean_or_schema("additionalProperties"),
            "additionalItems": self._boolean_or_schema("additionalItems"),
            "items": self._items,
            "dependencies": self._dependencies,
            "divisibleBy": self._divisible_by,
            "exclusiveMinimum": self._exclusive("minimum", "exclusiveMinimum"),
            "exclusiveMaximum": self._exclusive("maximum", "exclusiveMaximum"),
            "format": self._format,
            "$ref": self._ref,
            "required": self._required,
            "id": self._ignored,
            "$schema": self._ignored,
        }

    def refuse(self, at: str, message: str) -> None:
        self.problems.append(Problem(self._place, at, message))

    def note(self, at: str, message: str) -> None:
        self.notes.append(Problem(self._place, at, message))

    def schema(self, schema: Any, at: str) -> Fields:
        """Convert one schema. The schema around it takes care of its `required`."""
        if not isinstance(schema, dict):
            self.refuse(at, "is not a schema, which is an object")
            return {}
        if at.count("/") > _DEPTH_MAX:
            self.refuse(at, "is nested too deeply")
            return {}
        result: Fields = {
            key: value for key, value in cast("Fields", schema).items() if key in _SAME
        }
        for key, value in cast("Fields", schema).items():
            where = below(at, key)
            if key in self._keywords:
                self._keywords[key](result, value, where)
            elif key not in _SAME:
                self.note(where, "is left out, because draft 7 does not have this keyword")
        self._limit(result, at)
        return result

    def _limit(self, result: Fields, at: str) -> None:
        """Add the limits that the repository requires of a secure schema."""
        if ("pattern" in result or "format" in result) and "maxLength" not in result:
            result["maxLength"] = _TEXT_MAX
            self.note(at, f"got maxLength {_TEXT_MAX}")
        if "patternProperties" in result:
            result["propertyNames"] = {"maxLength": _TEXT_MAX}
            self.note(at, f"got propertyNames with maxLength {_TEXT_MAX}")
        if result.get("uniqueItems") is True and "maxItems" not in result:
            result["maxItems"] = _TEXT_MAX
            self.note(at, f"got maxItems {_TEXT_MAX}")

    def _type(self, result: Fields, value: Any, at: str) -> None:
        types, schemas = self._types(value, at)
        if schemas:
            result.setdefault("allOf", []).append({"anyOf": [*_of_types(types), *schemas]})
        elif types:
            result["type"] = types[0] if len(types) == 1 else types
        if len(types) + len(schemas) > 1:
            self.note(at, "stays a union of types, which `schemas check` refuses")

    def _types(self, value: Any, at: str) -> tuple[list[str], list[Fields]]:
        """Return the names of types and the schemas in a union; neither if any value is allowed."""
        types: list[str] = []
        schemas: list[Fields] = []
        listed = cast("list[Any]", value) if isinstance(value, list) else [value]
        for number, each in enumerate(listed):
            where = below(at, str(number)) if isinstance(value, list) else at
            if isinstance(each, dict):
                schemas.append(self.schema(each, where))
            elif not isinstance(each, str):
                self.refuse(where, "is neither the name of a type nor a schema")
            elif each in _TYPES:
                types += [each] if each not in types else []
            else:
                is_any = each == "any"
                why = "" if is_any else f"{each!r} is not a type, so "
                self.note(where, f"{why}any type is allowed, which `schemas check` refuses")
                return [], []
        return types, schemas

    def _disallow(self, result: Fields, value: Any, at: str) -> None:
        types, schemas = self._types(value, at)
        if not types and not schemas:
            self.refuse(at, "disallows everything")
            return
        result["not"] = {"anyOf": [*_of_types(types), *schemas]}

    def _extends(self, result: Fields, value: Any, at: str) -> None:
        listed = cast("list[Any]", value) if isinstance(value, list) else [value]
        parts = [self.schema(each, below(at, str(n))) for n, each in enumerate(listed)]
        result.setdefault("allOf", []).extend(parts)

    def _properties(self, result: Fields, value: Any, at: str) -> None:
        named = self._named(value, at)
        result["properties"] = {key: self.schema(each, below(at, key)) for key, each in named}
        if required := [key for key, each in named if _is_required(each)]:
            result["required"] = required

    def _pattern_properties(self, result: Fields, value: Any, at: str) -> None:
        named = self._named(value, at)
        result["patternProperties"] = {
            key: self.schema(each, below(at, key)) for key, each in named
        }

    def _named(self, value: Any, at: str) -> list[tuple[str, Any]]:
        if isinstance(value, dict):
            return list(cast("Fields", value).items())
        self.refuse(at, "is not an object")
        return []

    def _boolean_or_schema(self, keyword: str) -> Callable[[Fields, Any, str], None]:
        def convert(result: Fields, value: Any, at: str) -> None:
            result[keyword] = value if isinstance(value, bool) else self.schema(value, at)

        return convert

    def _items(self, result: Fields, value: Any, at: str) -> None:
        if isinstance(value, list):
            listed = enumerate(cast("list[Any]", value))
            result["items"] = [self.schema(each, below(at, str(n))) for n, each in listed]
            self.note(at, "stays a list of schemas, which `schemas check` refuses")
        else:
            result["items"] = self.schema(value, at)

    def _dependencies(self, result: Fields, value: Any, at: str) -> None:
        converted: Fields = {}
        for key, each in self._named(value, at):
            if isinstance(each, str):
                converted[key] = [each]
            elif isinstance(each, list):
                converted[key] = each
            else:
                converted[key] = self.schema(each, below(at, key))
        result["dependencies"] = converted

    def _divisible_by(self, result: Fields, value: Any, at: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            self.refuse(at, "is not a number above 0")
        result["multipleOf"] = value

    def _exclusive(self, bound: str, keyword: str) -> Callable[[Fields, Any, str], None]:
        def convert(result: Fields, value: Any, at: str) -> None:
            if value is True and bound in result:
                result[keyword] = result.pop(bound)
            elif not isinstance(value, bool):
                self.refuse(at, "is neither true nor false")

        return convert

    def _format(self, result: Fields, value: Any, at: str) -> None:
        if value in _FORMATS:
            result["format"] = _FORMATS[value]
        else:
            self.note(at, f"{value!r} is left out, because draft 7 does not have this format")

    def _ref(self, result: Fields, value: Any, at: str) -> None:  # noqa: ARG002 - one shape for all
        self.refuse(at, "refers to another schema; write that out first")

    def _required(self, result: Fields, value: Any, at: str) -> None:  # noqa: ARG002
        if not isinstance(value, bool):
            self.refuse(at, "is neither true nor false, as it is in draft 3")

    def _ignored(self, result: Fields, value: Any, at: str) -> None:
        """Ignore a keyword that the repository replaces with its own."""


def _is_required(schema: Any) -> bool:
    return isinstance(schema, dict) and cast("Fields", schema).get("required") is True


def _of_types(types: list[str]) -> list[Fields]:
    return [{"type": each} for each in types]
