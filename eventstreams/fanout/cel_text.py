"""The text of a CEL expression: its tokens, its canonical form, and places in it shown to people.

Tokens follow the lexis of the language definition (github.com/google/cel-spec, "Syntax"). What is
evaluated is the canonical text, so a difference to the runtime's own lexer could not go unnoticed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
      (?P<blank>   [ \t\r\n\f]+ | //[^\n]* )
    | (?P<text>    [bB]? (?: [rR] (?: \"{3}.*?\"{3} | '{3}.*?'{3} | "[^"\r\n]*" | '[^'\r\n]*' )
                       | \"{3}(?:\\.|[^\\])*?\"{3} | '{3}(?:\\.|[^\\])*?'{3}
                       | "(?:\\.|[^\\"\r\n])*" | '(?:\\.|[^\\'\r\n])*' ) )
    | (?P<number>  0x[0-9a-fA-F]+[uU]?
                 | [0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)? | [0-9]+[eE][+-]?[0-9]+ | [0-9]+[uU]? )
    | (?P<name>    [A-Za-z_][A-Za-z0-9_]* | `[A-Za-z0-9_.\-/ ]+` )
    | (?P<sign>    == | != | <= | >= | && | \|\| | [-+*/%<>()\[\]{}.,?:!] )
    """,
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_SHOWN_MAX = 60
"""Characters of a line that are shown on either side of a place."""


class Token(NamedTuple):
    kind: str
    """text, number, name or sign."""
    text: str
    offset: int
    """Where it begins, in code points."""


class Place(NamedTuple):
    line: int
    column: int
    """Both count from 1; columns are code points."""


class UnknownToken(ValueError):
    """There is no token at `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"no token at {offset}")
        self.offset = offset


def tokenise(text: str) -> list[Token]:
    """Raises UnknownToken."""
    tokens: list[Token] = []
    offset = 0
    while offset < len(text):
        match = _TOKEN.match(text, offset)
        if match is None:
            raise UnknownToken(offset)
        kind = match.lastgroup
        assert kind is not None
        if kind != "blank":
            tokens.append(Token(kind, match[0], offset))
        offset = match.end()
    return tokens


def canonical(tokens: list[Token]) -> str:
    """The same tokens however they were spaced; comments are gone, literals as they were."""
    parts: list[str] = []
    for i, token in enumerate(tokens):
        if i and not _touch(tokens[i - 1], token):
            parts.append(" ")
        parts.append(token.text)
    return "".join(parts)


def _touch(left: Token, right: Token) -> bool:
    """Whether two tokens stand side by side: as people write, and never where they would fuse."""
    if "number" in (left.kind, right.kind) and "." in (left.text, right.text):
        return False
    if left.kind == "sign" and left.text in "([.":
        return True
    if right.kind != "sign":
        return left.text == "!" and right.kind == "name"
    if right.text in ")].,":
        return True
    return right.text in "([" and is_operand(left) and left.kind == "name"


def is_operand(token: Token) -> bool:
    """Whether a value ends with it, so that `[` behind it is an index and no list."""
    if token.kind == "sign":
        return token.text in ")]}"
    return token.text != "in"


def closing(tokens: list[Token], opening: int) -> int:
    """The index of the bracket that closes the one at `opening`; the end where there is none."""
    depth = 0
    for i in range(opening, len(tokens)):
        if tokens[i].kind == "sign":
            depth += (tokens[i].text in _CLOSING) - (tokens[i].text in _CLOSING.values())
            if depth == 0:
                return i
    return len(tokens)


def place_of(text: str, offset: int) -> Place:
    before = text[:offset]
    return Place(before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1)


def pointed(text: str, place: Place) -> str:
    """Two lines: the part of the text around `place`, and a caret below it."""
    lines = text.split("\n")
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    start = max(0, place.column - 1 - _SHOWN_MAX)
    part = line[start : place.column - 1 + _SHOWN_MAX]
    shown = "".join(c if c.isprintable() else " " for c in part)
    return f"{shown}\n{' ' * (place.column - 1 - start)}^"
