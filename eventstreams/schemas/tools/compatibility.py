"""Checks whether a version of a schema is compatible with an older one of the same major version.

Only optional fields may be added; docs/schemas.md has the table of rules. By default the findings
are those of jsonschema-tools 1.3.0, which looks only at the keys of the older schema, whatever they
mean, and so accepts some changes that break producers or consumers. `strict` distinguishes schemas
from names and finds those changes too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from eventstreams.model.problem import below
from eventstreams.schemas.subschemas import NAMED, ONE, SEVERAL
from eventstreams.schemas.tools.merge import equal

Finding = tuple[str, str]
"""A JSON pointer into the newer schema, and a description of the problem there."""
CHECK = "schema-version-compatibility"

_FREE = {"$id", "description", "examples", "maxLength"}
_FREE_STRICT = {"$id", "$comment", "description", "examples"}
_GROWING = {"oneOf", "anyOf"}


def incompatibilities(
    new: dict[str, Any], old: dict[str, Any], *, strict: bool = False
) -> Iterator[Finding]:
    """Yield all incompatibilities. If there are none, producers and consumers of `old` can move to
    `new`."""
    yield from _strict(new, old, "") if strict else _lenient(new, old, "")


def _lenient(new: Any, old: Any, pointer: str) -> Iterator[Finding]:
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        for key, value in before.items():
            where = below(pointer, key)
            if key in _FREE:
                continue
            if key in ("required", "enum"):
                yield from _listed(key, after.get(key), value, where)
            elif key not in after:
                yield where, "was removed"
            else:
                yield from _lenient(after[key], value, where)
    elif isinstance(old, list) and isinstance(new, list):
        earlier, later = cast("list[Any]", old), cast("list[Any]", new)
        for n, value in enumerate(earlier):
            if n < len(later):
                yield from _lenient(later[n], value, below(pointer, n))
            else:
                yield below(pointer, n), "was removed"
    elif not equal(old, new):
        yield pointer, "was changed"


def _listed(key: str, new: Any, old: Any, pointer: str) -> Iterator[Finding]:
    """Yield changes of `required`, whose order does not matter, and values removed from `enum`."""
    if not isinstance(old, list) or not isinstance(new, list | None):
        yield pointer, f"is a property named {key}, which only the strict check can compare"
        return
    if new is None:
        yield pointer, "was removed"
        return
    before, after = cast("list[Any]", old), cast("list[Any]", new)
    lost = [item for item in before if not any(equal(item, other) for other in after)]
    gained = [item for item in after if not any(equal(item, other) for other in before)]
    if lost:
        yield pointer, f"lost {_shown(lost)}"
    if gained and key == "required":
        yield pointer, f"gained {_shown(gained)}"


def _shown(items: list[Any]) -> str:
    return ", ".join(map(repr, items[:5])) + (", ..." if len(items) > 5 else "")


def _strict(new: Any, old: Any, pointer: str) -> Iterator[Finding]:
    """Yield the incompatibilities of two schemas, as opposed to values and names."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        if not equal(old, new):
            yield pointer, "was changed"
        return
    before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
    for key in dict.fromkeys((*before, *after)):
        where = below(pointer, key)
        if key in _FREE_STRICT:
            continue
        if key not in before:
            yield from _added(key, after[key], where)
        elif key not in after:
            if before[key] != {}:
                yield where, "was removed"
        else:
            yield from _keyword(key, after[key], before[key], where)


def _added(key: str, value: Any, pointer: str) -> Iterator[Finding]:
    """Yield an added keyword, unless it is an annotation or its value allows all values."""
    allows_all = key in _ALLOWING_ALL and value in _ALLOWING_ALL[key]
    if key not in _WITHOUT_RULE and not allows_all:
        yield pointer, "was added"


_WITHOUT_RULE = {
    "$defs", "contentEncoding", "contentMediaType", "default", "definitions", "deprecated",
    "properties", "readOnly", "title", "writeOnly",
}  # fmt: skip
_ANY: tuple[Any, ...] = (True, {})
_ALLOWING_ALL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("additionalItems", "additionalProperties", "items", "propertyNames"), _ANY),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties", "if", "then", "else"), _ANY),
    **dict.fromkeys(("minItems", "minLength", "minProperties"), (0,)),
    **dict.fromkeys(("dependencies", "dependentRequired", "patternProperties"), ({},)),
    "required": ([],),
    "uniqueItems": (False,),
}
"""For each keyword, the values that every document satisfies."""


def _keyword(key: str, new: Any, old: Any, pointer: str) -> Iterator[Finding]:
    both_lists = isinstance(new, list) and isinstance(old, list)
    if key in ("required", "enum") and both_lists:
        yield from _listed(key, new, old, pointer)
    elif key == "type" and both_lists:
        if sorted(map(str, cast("Any", new))) != sorted(map(str, cast("Any", old))):
            yield pointer, "was changed"
    elif key in NAMED and isinstance(new, dict) and isinstance(old, dict):
        yield from _named(key, cast("dict[str, Any]", new), cast("dict[str, Any]", old), pointer)
    elif key in SEVERAL and both_lists:
        yield from _several(key, cast("list[Any]", new), cast("list[Any]", old), pointer)
    elif key in ONE:
        yield from _strict(new, old, pointer)
    elif not equal(new, old):
        yield pointer, "was changed"


def _named(key: str, new: dict[str, Any], old: dict[str, Any], pointer: str) -> Iterator[Finding]:
    for name, schema in old.items():
        where = below(pointer, name)
        if name in new:
            yield from _strict(new[name], schema, where)
        else:
            yield where, "was removed"
    if key not in ("properties", "definitions", "$defs"):
        yield from ((below(pointer, name), "was added") for name in new if name not in old)


def _several(key: str, new: list[Any], old: list[Any], pointer: str) -> Iterator[Finding]:
    for n, schema in enumerate(old):
        if n < len(new):
            yield from _strict(new[n], schema, below(pointer, n))
        else:
            yield below(pointer, n), "was removed"
    if len(new) > len(old) and key not in _GROWING:
        yield below(pointer, len(old)), "was added"
