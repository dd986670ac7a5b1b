"""Compiles templates (texts with expressions in braces) to trees; source text is never evaluated.

The forms are those of change-propagation (swagger-router 0.7):

- `{{expression}}` inserts a value unchanged. A text that is exactly one such expression keeps the
  type of the value, and is omitted if the value is undefined.
- `{expression}` inserts a percent-encoded value, even in bodies. `{+expression}` inserts it raw.
- `{/expression}` inserts a slash and the encoded value, or nothing if it is undefined.

An expression is a path (`message.meta.uri`, `match.meta.uri[1]`, `message['a-b']`), a literal, or a
call of one of the functions in `functions.py`. The roots are `message` (the event), `match` (its
captures) and `globals`, which contains both. A path through a missing parent raises
TemplateError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

from eventstreams.propagation.expression import (
    DEPTH_MAX,
    Context,
    Node,
    Parser,
    TemplateSyntaxError,
)
from eventstreams.propagation.functions import as_text
from eventstreams.propagation.matching import MISSING

_UNRESERVED = "-_.!~*'()"
"""Characters that JavaScript's encodeURIComponent does not encode, besides letters and digits."""


def encode(value: Any) -> str:
    """Percent-encode as JavaScript's encodeURIComponent does."""
    return quote(as_text(value), safe=_UNRESERVED, errors="replace")


Part = str | tuple[str, Node]
"""Plain text, or the opening of an expression (`{{`, `{`, `{+`, `{/`) and the expression."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text with expressions."""

    parts: tuple[Part, ...]

    @property
    def prefix(self) -> str:
        """The text before the first expression."""
        return self.parts[0] if self.parts and isinstance(self.parts[0], str) else ""

    @property
    def is_constant(self) -> bool:
        """Whether it contains no expression."""
        return all(isinstance(part, str) for part in self.parts)

    def render(self, context: Context) -> Any:
        """Return the value, or MISSING if it must be omitted. Raises TemplateError."""
        if len(self.parts) == 1:
            [part] = self.parts
            if not isinstance(part, str) and part[0] == "{{":
                return part[1].value(context)
        return "".join(_rendered(part, context) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, boolean or null of the rule file."""

    constant: Any

    def render(self, context: Context) -> Any:  # noqa: ARG002 - required by the protocol
        """Return the value."""
        return self.constant


@dataclass(frozen=True, slots=True)
class ObjectTemplate:
    """A mapping of the rule file, whose names are no templates. Undefined fields are omitted."""

    fields: tuple[tuple[str, Template], ...]

    def render(self, context: Context) -> Any:
        """Return the object. Raises TemplateError."""
        pairs = ((key, template.render(context)) for key, template in self.fields)
        return {key: value for key, value in pairs if value is not MISSING}


@dataclass(frozen=True, slots=True)
class ListTemplate:
    """A list of the rule file. Undefined items are omitted."""

    items: tuple[Template, ...]

    def render(self, context: Context) -> Any:
        """Return the list. Raises TemplateError."""
        values = [item.render(context) for item in self.items]
        return [value for value in values if value is not MISSING]


Template = Text | Constant | ObjectTemplate | ListTemplate


class BadTemplate(Exception):
    """A value of a rule file is not a valid template. `path` is its path."""

    def __init__(self, path: tuple[str | int, ...], reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


def compile_template(value: Any, path: tuple[str | int, ...] = ()) -> Template:
    """Compile a value of a rule file with all texts in it. Raises BadTemplate."""
    if len(path) > DEPTH_MAX:
        raise BadTemplate(path, f"nested more than {DEPTH_MAX} levels deep")
    if isinstance(value, str):
        try:
            return compile_text(value)
        except TemplateSyntaxError as error:
            raise BadTemplate(path, f"{error.reason}, at character {error.offset + 1}") from error
    if isinstance(value, dict):
        fields = cast("dict[Any, Any]", value)
        return ObjectTemplate(
            tuple((str(k), compile_template(v, (*path, str(k)))) for k, v in fields.items())
        )
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return ListTemplate(tuple(compile_template(v, (*path, n)) for n, v in enumerate(items)))
    if value is None or isinstance(value, bool | int | float):
        return Constant(value)
    raise BadTemplate(
        path, f"{type(value).__name__} cannot be in a template; put the text in quotes"
    )


def text_of(template: Text, context: Context) -> str:
    """Render to text; an undefined value is empty. Raises TemplateError."""
    return as_text(template.render(context))


def _rendered(part: Part, context: Context) -> str:
    if isinstance(part, str):
        return part
    form, node = part
    value = node.value(context)
    if form == "{":
        return encode(value)
    if form == "{/":
        return "" if value is MISSING or value is None else "/" + encode(value)
    return as_text(value)


_OPENING = re.compile(r"\{\{|\{[+/]?(?=[A-Za-z_$])")


def compile_text(text: str) -> Text:
    """Compile a text. Raises TemplateSyntaxError."""
    parts: list[Part] = []
    at = 0
    while (found := _OPENING.search(text, at)) is not None:
        if found.start() > at:
            parts.append(text[at : found.start()])
        parser = Parser(text, found.end())
        node = parser.expression()
        at = parser.end("}}" if found[0] == "{{" else "}")
        parts.append((found[0], node))
    if at < len(text) or not parts:
        parts.append(text[at:])
    return Text(tuple(parts))
