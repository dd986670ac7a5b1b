"""The words of a validation problem: those of AJV 6, which clients of EventGate read and log.

The same keyword, message and params as AJV gives; the library that validates has words of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")

_NAME_MAX = 200
"""Characters of a property's name that are repeated: clients choose it, and may choose it long."""

Details = Mapping[str, Any]


class Wording(NamedTuple):
    keyword: str
    message: str
    params: dict[str, Any]


def static_step(name: str) -> str:
    """A step of a data path to a property that the schema declares: `.dt`, `['user-agent']`."""
    name = cut(name)
    if _IDENTIFIER.fullmatch(name):
        return f".{name}"
    escaped = re.sub(r"(['\\\\])", r"\\\1", name)
    for raw, text in (("\n", "\\n"), ("\r", "\\r"), ("\f", "\\f"), ("\t", "\\t")):
        escaped = escaped.replace(raw, text)
    return f"['{escaped}']"


def dynamic_step(name: str) -> str:
    """A step to any other property, which AJV writes without escapes: `['dt']`."""
    return f"['{cut(name)}']"


def cut(name: str) -> str:
    return name if len(name) <= _NAME_MAX else name[:_NAME_MAX] + "…"


def wordings(kind: str, details: Details, told: Any) -> Iterator[Wording]:
    """`told` is what the schema says there: the value of its keyword. One for each property too
    many; else one."""
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
        yield _WORDS[kind](details, told)
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


def _type(details: Details, told: Any) -> Wording:
    types = cast("list[str]", told if isinstance(told, list) else details["types"])
    return Wording("type", f"should be {','.join(types)}", {"type": ",".join(types)})


def _required(details: Details, told: Any) -> Wording:  # noqa: ARG001
    name = details["property"]
    message = f"should have required property '{name}'"
    return Wording("required", message, {"missingProperty": name})


def _fixed(
    keyword: str, message: str, **params: str
) -> Callable[[Details, Any], Wording]:  # params: its name there -> its name here
    def word(details: Details, told: Any) -> Wording:  # noqa: ARG001
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
