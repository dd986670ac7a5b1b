"""Expressions in templates: paths into an event, literals and calls of a few functions.

They are parsed to trees, and never evaluated as source text. A path through a missing parent raises
TemplateError; a missing field is MISSING.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from eventstreams.propagation.functions import FUNCTIONS, TemplateError, as_text
from eventstreams.propagation.matching import MISSING, name_of_type

Context = Mapping[str, Any]
"""The values of `message` and `match`."""

ROOTS = ("message", "match", "globals")
DEPTH_MAX = 32


class TemplateSyntaxError(Exception):
    """A text is not a valid template. `offset` is the index of the offending character."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


class Node(Protocol):
    """An expression."""

    def value(self, context: Context) -> Any:
        """Return the value, or MISSING if it is undefined. Raises TemplateError."""
        ...


@dataclass(frozen=True, slots=True)
class Literal:
    """A text, number, boolean or null."""

    constant: Any

    def value(self, context: Context) -> Any:  # noqa: ARG002 - required by the protocol
        return self.constant


@dataclass(frozen=True, slots=True)
class Lookup:
    """A path into the context."""

    root: str
    steps: tuple[str | int | Node, ...]

    def value(self, context: Context) -> Any:
        found: Any = dict(context) if self.root == "globals" else context.get(self.root, MISSING)
        for step in self.steps:
            if found is None or found is MISSING:
                raise TemplateError(f"{self} has no value: {name_of_type(found)} has no fields")
            found = _member(found, step if isinstance(step, str | int) else step.value(context))
        return found

    def __str__(self) -> str:
        names = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps)
        return self.root + "".join(names)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function."""

    name: str
    arguments: tuple[Node, ...]

    def value(self, context: Context) -> Any:
        function, _, _ = FUNCTIONS[self.name]
        return function(*(argument.value(context) for argument in self.arguments))


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of expressions."""

    items: tuple[Node, ...]

    def value(self, context: Context) -> Any:
        return [item.value(context) for item in self.items]


@dataclass(frozen=True, slots=True)
class Mapped:
    """A mapping of names to expressions."""

    fields: tuple[tuple[str, Node], ...]

    def value(self, context: Context) -> Any:
        pairs = ((key, node.value(context)) for key, node in self.fields)
        return {key: value for key, value in pairs if value is not MISSING}


def _member(found: Any, step: Any) -> Any:
    if isinstance(found, dict):
        return cast("dict[str, Any]", found).get(as_text(step), MISSING)
    if isinstance(found, list | str):
        elements = cast("Sequence[Any]", found)
        if step == "length":
            return len(elements)
        index = int(step) if isinstance(step, str) and step.isascii() and step.isdigit() else step
        if isinstance(index, int) and 0 <= index < len(elements):
            return elements[index]
    return MISSING


_EXPRESSION_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d+(?:\.\d+)?)|(?P<name>[A-Za-z_$][\w$]*)"
    r"|(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(?P<sign>[][.,(){}:]))",
    re.ASCII,
)
_CONSTANTS = {"true": True, "false": False, "null": None, "undefined": MISSING}
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


class Parser:
    """Parses one expression by recursive descent."""

    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self._at = at

    def end(self, closing: str) -> int:
        """Return the index after the closing braces."""
        at = self._at
        while self._text[at : at + 1].isspace():
            at += 1
        if not self._text.startswith(closing, at):
            raise TemplateSyntaxError(f"expected {closing}", at)
        return at + len(closing)

    def expression(self, depth: int = 0) -> Node:
        """Parse one expression. Raises TemplateSyntaxError."""
        if depth > DEPTH_MAX:
            raise TemplateSyntaxError("the expression is nested too deeply", self._at)
        start = self._at
        kind, word = self._next("an expression")
        if kind == "number":
            return Literal(float(word) if "." in word else int(word))
        if kind == "text":
            return Literal(_unquoted(word))
        if kind == "name":
            return self._named(word, start, depth)
        if word == "[":
            return Listed(self._items("]", depth))
        if word == "{":
            return self._object(depth)
        raise TemplateSyntaxError(f"expected an expression, found {word}", start)

    def _named(self, name: str, start: int, depth: int) -> Node:
        if name in _CONSTANTS:
            return Literal(_CONSTANTS[name])
        if self._take("("):
            return self._call(name, start, depth)
        if name not in ROOTS:
            raise TemplateSyntaxError(
                f"unknown name {name}; known: {', '.join(ROOTS)} and the functions "
                f"{', '.join(FUNCTIONS)}",
                start,
            )
        steps: list[str | int | Node] = []
        while True:
            if self._take("."):
                at = self._at
                kind, word = self._next("the name of a field")
                if kind != "name":
                    raise TemplateSyntaxError("expected the name of a field", at)
                steps.append(word)
            elif self._take("["):
                inner = self.expression(depth + 1)
                steps.append(inner.constant if isinstance(inner, Literal) else inner)
                self._expect("]")
            else:
                return Lookup(name, tuple(steps))

    def _call(self, name: str, start: int, depth: int) -> Node:
        if name not in FUNCTIONS:
            raise TemplateSyntaxError(
                f"unknown function {name}; known: {', '.join(FUNCTIONS)}", start
            )
        arguments = self._items(")", depth)
        _, least, most = FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            wanted = str(least) if least == most else f"{least} or {most}"
            raise TemplateSyntaxError(
                f"{name} takes {wanted} arguments, not {len(arguments)}", start
            )
        return Call(name, arguments)

    def _items(self, closing: str, depth: int) -> tuple[Node, ...]:
        items: list[Node] = []
        if self._take(closing):
            return ()
        while True:
            items.append(self.expression(depth + 1))
            if self._take(closing):
                return tuple(items)
            self._expect(",")

    def _object(self, depth: int) -> Node:
        fields: list[tuple[str, Node]] = []
        if self._take("}"):
            return Mapped(())
        while True:
            kind, word = self._next("the name of a field")
            if kind not in ("name", "text"):
                raise TemplateSyntaxError("expected the name of a field", self._at)
            self._expect(":")
            name = word if kind == "name" else _unquoted(word)
            fields.append((name, self.expression(depth + 1)))
            if self._take("}"):
                return Mapped(tuple(fields))
            self._expect(",")

    def _next(self, wanted: str) -> tuple[str, str]:
        found = _EXPRESSION_TOKEN.match(self._text, self._at)
        if found is None or found.lastgroup is None:
            raise TemplateSyntaxError(f"expected {wanted}", self._at)
        self._at = found.end()
        return found.lastgroup, found[found.lastgroup]

    def _take(self, sign: str) -> bool:
        found = _EXPRESSION_TOKEN.match(self._text, self._at)
        if found is None or found["sign"] != sign:
            return False
        self._at = found.end()
        return True

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise TemplateSyntaxError(f"expected {sign}", self._at)


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPED.get(found[1], found[1]), word[1:-1])
