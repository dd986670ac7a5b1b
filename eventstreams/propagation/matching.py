"""Compiles the patterns of `match` and `match_not` to values that test an event.

The semantics are those of change-propagation, as observed in version 1.1:

- A mapping matches an object in which every key matches. The pattern `{}` matches nothing.
- A number, a boolean or a text matches an equal value of the same JSON type.
- The text `undefined` matches a missing field of an existing object.
- A text `/expression/flags` is a regular expression and matches only texts.
- A list matches an array that contains every item of the list. The items 0, false and the empty
  text are never found; an empty list matches every array.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import regex

Path = tuple[str | int, ...]

DEPTH_MAX = 32
SEARCH_S = 0.05
"""The most processor time of one search. Events decide what an expression runs over, and some
expressions take exponential time for some texts."""


class _Missing:
    """The type of MISSING."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""The value of a missing field, like JavaScript's `undefined`."""


class SearchTooLong(Exception):
    """A regular expression takes too long for a text, so it is not known whether it is found."""

    def __init__(self, literal: str) -> None:
        super().__init__(f"the search for {literal} took longer than {SEARCH_S * 1000:.0f} ms")


class PatternError(Exception):
    """A pattern cannot be compiled. `path` is the path of the offending part."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


class Matcher(Protocol):
    """A compiled pattern."""

    def matches(self, value: object) -> bool:
        """Return whether the pattern matches a value, which may be MISSING."""
        ...

    def captures(self, value: object) -> object:
        """Return the value of `match` in templates, for a value that the pattern matches."""
        ...


@dataclass(frozen=True, slots=True)
class Scalar:
    """Matches an equal value of the same JSON type."""

    value: str | int | float | bool

    def matches(self, value: object) -> bool:
        return json_type(value) == json_type(self.value) and value == self.value

    def captures(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class Absent:
    """Matches a missing field."""

    def matches(self, value: object) -> bool:
        return value is MISSING

    def captures(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class Expression:
    """Matches a text in which the regular expression is found.

    Its captures are a mapping of named groups, or else the list of the whole match and its groups.
    """

    expression: regex.Pattern[str]
    literal: str
    """As the rule has it."""

    def matches(self, value: object) -> bool:
        """Return whether the expression is found in a text. Raises SearchTooLong."""
        return isinstance(value, str) and self._search(value) is not None

    def captures(self, value: object) -> object:
        """Return what templates see. Raises SearchTooLong."""
        found = self._search(value) if isinstance(value, str) else None
        if found is None:
            return MISSING
        if self.expression.groupindex:
            return {key: text for key, text in found.groupdict().items() if text is not None}
        return [found[0], *(MISSING if text is None else text for text in found.groups())]

    def _search(self, text: str) -> regex.Match[str] | None:
        try:
            return self.expression.search(text, timeout=SEARCH_S)
        except TimeoutError as error:
            raise SearchTooLong(self.literal) from error


@dataclass(frozen=True, slots=True)
class Subset:
    """Matches an array that contains every item."""

    items: tuple[Matcher, ...]

    def matches(self, value: object) -> bool:
        if not isinstance(value, list):
            return False
        elements = cast("list[object]", value)
        return all(any(_is_truthy(e) and item.matches(e) for e in elements) for item in self.items)

    def captures(self, value: object) -> object:
        return value


@dataclass(frozen=True, slots=True)
class Fields:
    """Matches an object in which every field matches."""

    fields: Mapping[str, Matcher]

    def matches(self, value: object) -> bool:
        if not isinstance(value, dict) or not self.fields:
            return False
        document = cast("dict[str, object]", value)
        return all(
            matcher.matches(document.get(key, MISSING)) for key, matcher in self.fields.items()
        )

    def captures(self, value: object) -> object:
        document = cast("dict[str, object]", value) if isinstance(value, dict) else {}
        return {
            key: matcher.captures(document.get(key, MISSING))
            for key, matcher in self.fields.items()
        }


def compile_pattern(pattern: object) -> Fields:
    """Compile the value of `match`, or one item of `match_not`. Raises PatternError."""
    if not isinstance(pattern, dict):
        raise PatternError((), f"must be a mapping of fields, not {name_of_type(pattern)}")
    return _fields(cast("dict[object, object]", pattern), ())


def _fields(pattern: Mapping[object, object], path: Path) -> Fields:
    if len(path) > DEPTH_MAX:
        raise PatternError(path, f"nested more than {DEPTH_MAX} levels deep")
    fields: dict[str, Matcher] = {}
    for key, value in pattern.items():
        if not isinstance(key, str):
            raise PatternError((*path, str(key)), "the name of a field must be text")
        fields[key] = _compile(value, (*path, key))
    return Fields(fields)


def _compile(pattern: object, path: Path) -> Matcher:
    if isinstance(pattern, dict):
        if not pattern:
            raise PatternError(path, "an empty mapping inside a pattern matches nothing")
        return _fields(cast("dict[object, object]", pattern), path)
    if isinstance(pattern, list):
        items = cast("list[object]", pattern)
        return Subset(tuple(_compile(item, (*path, n)) for n, item in enumerate(items)))
    if pattern == "undefined":
        return Absent()
    if isinstance(pattern, str):
        try:
            expression = compile_literal(pattern)
        except ValueError as error:
            raise PatternError(path, str(error)) from error
        return Scalar(pattern) if expression is None else expression
    if isinstance(pattern, bool | int | float):
        return Scalar(pattern)
    raise PatternError(
        path, f"{name_of_type(pattern)} matches nothing; use 'undefined' for a missing field"
    )


def json_type(value: object) -> str:
    """Return the JSON type of a value, `undefined` for MISSING."""
    if value is MISSING:
        return "undefined"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def name_of_type(value: object) -> str:
    """Return the JSON type of a value as words for a message."""
    kind = json_type(value)
    return kind if kind == "null" else f"{'an' if kind[0] in 'ao' else 'a'} {kind}"


def _is_truthy(value: object) -> bool:
    return bool(value) or isinstance(value, dict | list)


# JavaScript regular expressions.

_LITERAL = re.compile(r"/(.+)/([a-z]*)", re.DOTALL)
_TOKEN = re.compile(r"\\.|\(\?<(?![=!])|\(\?<.|\(\?.|\[|\]|[()/$]|[^\\()\[\]/$]+", re.DOTALL)
_FLAGS = "ims"
_IGNORED_FLAGS = "guy"
_SPACES = r"\s\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_ESCAPES = {"\\/": "/", "\\-": "\\-", "\\s": f"[{_SPACES}]", "\\S": f"[^{_SPACES}]"}
_BRACE = re.compile(r"\{(?!\d+(?:,\d*)?\})")
"""Matches a brace that is no quantifier. In JavaScript it is text."""
_SET_OPERATOR = re.compile(r"[&|~\[]")
"""Matches what is text in a class in JavaScript, and may mean operations on sets elsewhere."""


def compile_literal(text: str) -> Expression | None:
    """Compile `/expression/flags`. Returns None for other texts.

    The expression means what it means in JavaScript: `$` is the very end of the text, `\\d` and
    `\\w` are ASCII, and `(?<name>…)` is a named group. Raises ValueError.
    """
    found = _LITERAL.fullmatch(text)
    if found is None or set(found[2]) - {*_FLAGS, *_IGNORED_FLAGS}:
        return None
    flags = "".join(letter for letter in _FLAGS if letter in found[2])
    translated = f"(?a{flags})" + "".join(_translate(found[1], text, multiline="m" in flags))
    try:
        re.compile(translated)  # has none of the other library's extensions
        expression = regex.compile(translated, regex.VERSION0)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}: {text}") from error
    if expression.groupindex and len(expression.groupindex) != expression.groups:
        raise ValueError(
            "Invalid match regex. Mixing named and unnamed capture groups are not supported. "
            f"Regex: {text}"
        )
    return Expression(expression, text)


def _translate(body: str, text: str, *, multiline: bool) -> Iterator[str]:
    in_class = False
    parts: list[str] = _TOKEN.findall(body)
    for part in parts:
        if in_class:
            in_class = part != "]"
            yield _translate_in_class(part)
        elif part == "/":
            raise ValueError(f"not a regular expression: a slash must be escaped as \\/: {text}")
        elif part == "[":
            in_class = True
            yield part
        elif part == "$":
            yield "$" if multiline else r"\Z"
        elif part == "(?<":
            yield "(?P<"
        elif part == "\\k":
            raise ValueError(f"not a regular expression: \\k is not supported: {text}")
        elif part[0] == "\\":
            yield _ESCAPES.get(part, part)
        else:
            yield _BRACE.sub(r"\{", part)


def _translate_in_class(part: str) -> str:
    if part[0] == "\\":
        return _SPACES if part == "\\s" else _ESCAPES.get(part, part)
    return _SET_OPERATOR.sub(r"\\\g<0>", part)


def stable(value: Any) -> Any:
    """Return a hashable value that is equal only for equal JSON, so that true differs from 1."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return ("object", tuple(sorted((key, stable(each)) for key, each in fields.items())))
    if isinstance(value, list):
        return ("array", tuple(stable(each) for each in cast("Sequence[Any]", value)))
    return (json_type(value), value)
