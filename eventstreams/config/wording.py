"""Says what is wrong with a value in a file of settings, in words for those who write it.

msgspec reports the place and the kind of an error only as text, which is parsed here. A text of an
unknown form is passed on as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from eventstreams.model.nearest import did_you_mean

_TEXT = re.compile(r"(?P<said>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[[^\]]*\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_CHOICE = re.compile(r"Invalid enum value (.*)")
_TYPES = re.compile(r"`([a-z]+(?: \| [a-z]+)*)`")
_NAMES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "date": "a date",
    "datetime": "a time",
}


def problem_of(error: msgspec.ValidationError, place: str, kind: Any) -> str:
    """Return `PLACE: MESSAGE` for a value at `place` that is not of this kind."""
    found = _TEXT.fullmatch(str(error))
    assert found, "the pattern matches any text"
    said, path = found["said"], found["path"] or ""
    place = (place + path).removeprefix(".")
    kinds = _alternatives([kind])
    for step in _STEP.finditer(path):
        name = step[1]
        kinds = _alternatives(_items(kinds) if name is None else _fields(kinds).get(name, ()))
    if unknown := _UNKNOWN.fullmatch(said):
        place = f"{place}.{unknown[1]}".removeprefix(".")
        return f"{place}: {unknown_setting(unknown[1], _fields(kinds))}"
    if missing := _MISSING.fullmatch(said):
        message = f"{missing[1]} is missing"
    elif (choice := _CHOICE.fullmatch(said)) and (choices := _choices(kinds)):
        message = f"{choice[1]} is not one of: {', '.join(choices)}"
    else:
        message = _TYPES.sub(lambda types: _named(types[1]), said)
        message = message[:1].lower() + message[1:]
    return f"{place}: {message}" if place else message


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """Return the message about a setting that does not exist, with the ones that do."""
    names = sorted(known)
    hint = did_you_mean(name, names) or f"expected one of: {', '.join(names)}"
    return f"unknown setting; {hint}"


def _named(types: str) -> str:
    return " or ".join(_NAMES.get(name, name) for name in types.split(" | "))


def _alternatives(kinds: Iterable[Any]) -> list[Any]:
    """Return the kinds without unions and annotations around them."""
    found: list[Any] = []
    for kind in kinds:
        origin = get_origin(kind)
        if origin is Annotated:
            found += _alternatives(get_args(kind)[:1])
        elif origin in (Union, UnionType):
            found += _alternatives(get_args(kind))
        else:
            found.append(kind)
    return found


def _items(kinds: Iterable[Any]) -> list[Any]:
    """Return the kinds of the items of lists and of the values of mappings."""
    return [item for kind in kinds for item in get_args(kind) if item is not ...]


def _fields(kinds: Iterable[Any]) -> dict[str, list[Any]]:
    """Return the fields of all structures among the kinds, and the kinds of each field."""
    found: dict[str, list[Any]] = {}
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for field in msgspec.structs.fields(kind):
                found.setdefault(field.encode_name, []).append(field.type)
    return found


def _choices(kinds: Iterable[Any]) -> list[str]:
    return [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
