"""Reads the text of a CEL expression: tokens, the canonical form, and places for errors.

Tokens follow the language definition (github.com/google/cel-spec, "Syntax"). The canonical text is
what is evaluated, so any difference from the runtime's own lexer would show.
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
"""How many characters of a line an error message shows on either side of a place."""


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
    """The text has no token at `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"no token at {offset}")
        self.offset = offset


def tokenise(text: str) -> list[Token]:
    """Return the tokens of an expression. Raises UnknownToken."""
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
    """Return the tokens in one spacing, without comments; literals are unchanged."""
    parts: list[str] = []
    for i, token in enumerate(tokens):
        if i and not _touch(tokens[i - 1], token):
            parts.append(" ")
        parts.append(token.text)
    return "".join(parts)


def offset_in_text(tokens: list[Token], offset: int) -> int:
    """Return where the character at `offset` of the canonical text is in the text that these
    tokens, at least one, were read from. For a space, that is the token after it."""
    begins = 0
    for i, token in enumerate(tokens):
        if i and not _touch(tokens[i - 1], token):
            begins += 1
        if offset < begins + len(token.text):
            return token.offset + max(0, offset - begins)
        begins += len(token.text)
    return tokens[-1].offset + len(tokens[-1].text)


def _touch(left: Token, right: Token) -> bool:
    """Return whether no space goes between two tokens: by custom, and never if they would merge."""
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
    """Return whether a value ends with this token, so a `[` after it is an index."""
    if token.kind == "sign":
        return token.text in ")]}"
    return token.text != "in"


def closing(tokens: list[Token], opening: int) -> int:
    """Return the index of the bracket that closes the one at `opening`, or the number of tokens."""
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


def offset_of(text: str, place: Place) -> int:
    """Return where the place is in the text, in code points."""
    lines = text.split("\n")[: place.line - 1]
    return sum(len(line) + 1 for line in lines) + place.column - 1


def pointed(text: str, place: Place) -> str:
    """Return two lines: the part of the text around `place`, and a caret below it."""
    lines = text.split("\n")
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    start = max(0, place.column - 1 - _SHOWN_MAX)
    part = line[start : place.column - 1 + _SHOWN_MAX]
    shown = "".join(c if c.isprintable() else " " for c in part)
    return f"{shown}\n{' ' * (place.column - 1 - start)}^"
