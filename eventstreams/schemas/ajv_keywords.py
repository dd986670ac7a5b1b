"""What AJV 6 makes of keywords: their order, those that check nothing, and which bound counts."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import quote

_ORDER = (
    "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "multipleOf", "maxLength",
    "minLength", "pattern", "format", "maxItems", "minItems", "items", "contains", "uniqueItems",
    "maxProperties", "minProperties", "required", "dependencies", "propertyNames", "properties",
    "const", "enum", "not", "anyOf", "oneOf", "allOf", "if",
)  # fmt: skip
"""AJV's order of keywords: those of numbers, texts, lists and objects, then those of any value."""
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
"""With one of these beside it, `type` is checked where they would be; else before everything."""
_ANNOTATIONS = frozenset(
    (
        "$schema", "$id", "id", "title", "description", "default", "definitions", "examples",
        "readOnly", "writeOnly", "contentMediaType", "contentEncoding", "additionalItems", "then",
        "else",
    )
)  # fmt: skip
_UNESCAPED = "!~*'()-_."
"""By encodeURIComponent."""


def rank_of(schema: Any, keyword: str) -> float:
    """Where the errors of a keyword come among those of its schema."""
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
    """Of two bounds AJV looks at the stronger one alone."""
    if kind not in _STRONGER:
        return False
    name, is_stronger = _STRONGER[kind]
    other = get(schema, name)
    return isinstance(other, int | float) and is_stronger(other, limit)


def is_of(kind: str, value: Any) -> bool:
    """Whether a value is of a scalar type."""
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    if isinstance(value, str):
        return kind == "string"
    if isinstance(value, int | float):
        return kind == "number" or (kind == "integer" and float(value).is_integer())
    return False


def says_nothing(schema: Any) -> bool:
    """Whether a schema has nothing to check, so that AJV passes over it."""
    if isinstance(schema, dict):
        return not cast("dict[str, Any]", schema).keys() - _ANNOTATIONS
    return schema is not False


def below(path: str, token: str | int) -> str:
    """A step further in a pointer that is the fragment of a URI, as AJV writes it."""
    escaped = str(token).replace("~", "~0").replace("/", "~1")
    return f"{path}/{quote(escaped, safe=_UNESCAPED)}"


def get(container: Any, key: Any) -> Any:
    """The value at a key or index; None where there is none."""
    if isinstance(container, dict):
        return cast("dict[str, Any]", container).get(str(key))
    if isinstance(container, list):
        items = cast("list[Any]", container)
        return items[int(key)] if int(key) < len(items) else None
    return None
