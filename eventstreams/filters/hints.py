"""Suggests what to write instead of a common mistake in a filter, such as syntax of SQL.

The text is searched once, in proportion to its length, which is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from eventstreams.filters.cel_text import Place, offset_of, place_of
from eventstreams.model.nearest import nearest

VARIABLES = ("event", "stream", "topic", "partition", "offset", "timestamp")
_FUNCTIONS = (
    *("contains", "startsWith", "endsWith", "matches", "size", "has", "all", "exists"),
    *("exists_one", "int", "uint", "double", "string", "bool", "timestamp", "duration", "type"),
    *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
    *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
)
_METHODS = frozenset({"contains", "startsWith", "endsWith", "matches"})
_PIECE = re.compile(
    r"""
      (?P<blank>  \s+ | //[^\n]* )
    | (?P<text>   "(?:\\.|[^\\"\n])*" | '(?:\\.|[^\\'\n])*' )
    | (?P<name>   [A-Za-z_][A-Za-z0-9_]* )
    | (?P<number> [0-9][0-9A-Za-z.]* )
    | (?P<sign>   -> | [=!<>&|~]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_SIGNS = {
    "=": "write == to compare",
    "===": "write == to compare",
    "!==": "write != for unequal values",
    "=!": "write != for unequal values",
    "<>": "write != for unequal values",
    "=<": "write <= for at most",
    "=>": "write >= for at least",
    "&": "write && for and",
    "|": "write || for or",
    "~": "write event.title.matches('^A') to match a regular expression",
    "=~": "write event.title.matches('^A') to match a regular expression",
    "!~": "write !event.title.matches('^A') to exclude a regular expression",
    "->": "write a dot between a field and its part, such as event.meta.domain",
    ";": "leave out the semicolon: a filter is one expression",
    "$": "write event['$schema'] for a field whose name has other characters than letters",
    "@": "write event['@id'] for a field whose name has other characters than letters",
    **dict.fromkeys(
        "\u2018\u2019\u201c\u201d\u00ab\u00bb`\u00b4", "write straight quotes: ' or \""
    ),
}
_LIKE = "write event.title.contains('text') or event.title.matches('^A') for"
_WORDS = {
    "and": "write && for and",
    "or": "write || for or",
    "xor": "write != for xor",
    "not": "write ! for not, such as !event.bot",
    "like": f"{_LIKE} like",
    "ilike": "write event.title.matches('(?i)text') for ilike",
    "rlike": f"{_LIKE} rlike",
    "regexp": f"{_LIKE} regexp",
    "glob": f"{_LIKE} glob",
    "contains": "write event.title.contains('text')",
    "includes": "write event.title.contains('text')",
    "matches": "write event.title.matches('^A')",
    "startswith": "write event.title.startsWith('A')",
    "endswith": "write event.title.endsWith('A')",
    "is": "write == null for a field that is null, and has(event.title) for one that is there",
    "in": "write in in small letters, with a list in square brackets: event.wiki in ['a', 'b']",
    "between": "write event.size >= 1 && event.size <= 9 for between",
    "where": "write only the condition, such as event.wiki == 'enwiki'",
    "select": "write only the condition, such as event.wiki == 'enwiki'",
    "eq": "write == to compare",
    "ne": "write != for unequal values",
    "lt": "write < for less than",
    "le": "write <= for at most",
    "gt": "write > for greater than",
    "ge": "write >= for at least",
}
_CALLS = {
    "lower": "there is no lower(): write event.title.matches('(?i)^text$') to ignore case",
    "len": "write size(event.title) for the length",
    "length": "write size(event.title) for the length",
    "count": "write size(event.title) for the length",
    "includes": "write event.title.contains('text')",
    "match": "write event.title.matches('^A')",
    "test": "write event.title.matches('^A')",
    "search": "write event.title.matches('^A')",
    "regex": "write event.title.matches('^A')",
    "exist": "write has(event.title) for a field that is there",
    "defined": "write has(event.title) for a field that is there",
    "now": "there is no now(): use the parameter since",
}
_CALLS.update(
    dict.fromkeys(
        ("lowercase", "tolower", "tolowercase", "lowerascii", "upper", "uppercase", "toupper"),
        _CALLS["lower"],
    )
)
_CONSTANTS = {
    "true": "true",
    "false": "false",
    "null": "null",
    "none": "null",
    "nil": "null",
    "undefined": "null",
}
_RESERVED = ("in", "true", "false", "null")
_TYPO_MAX = 2
"""How many characters longer or shorter a misspelt variable may be."""
_SHOWN_MAX = 60
"""The longest field or text of a filter that advice repeats."""
_EXAMPLE_FIELD = re.compile(r"event\.title|event\.size(?= [<>])|event\.wiki(?= in )")
_EXAMPLE_TEXT = re.compile(r"(contains|startsWith|endsWith)\('(?:text|A)'\)\Z")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")


class Hint(NamedTuple):
    text: str
    place: Place
    """Where the mistake is, which may be before the place that the parser reports."""


class _Piece(NamedTuple):
    kind: str
    text: str
    offset: int


def hint_for(text: str, message: str, place: Place) -> Hint | None:
    """Return what to write instead, or None if the mistake is not a known one.

    `message` and `place` are what the CEL parser reports for `text`.
    """
    offset = offset_of(text, place)
    if "mismatched input '<EOF>'" in message:
        return Hint("the expression ends too early", place)
    pieces = [
        _Piece(found.lastgroup or "", found[0], found.start())
        for found in _PIECE.finditer(text)
        if found.lastgroup != "blank"
    ]
    undeclared = _UNDECLARED.search(message)
    if undeclared is not None:
        return _of_reference(pieces, undeclared[1], offset, place)
    for number in _by_distance(pieces, offset):
        found = _of_piece(pieces, number)
        if found is not None:
            return Hint(found, place_of(text, pieces[number].offset))
    return None


def _by_distance(pieces: list[_Piece], offset: int) -> Iterator[int]:
    """Yield the piece at the offset, those before it from the nearest, and then the others."""
    at = sum(piece.offset <= offset for piece in pieces)
    yield from reversed(range(at))
    yield from range(at, len(pieces))


def _of_piece(pieces: list[_Piece], number: int) -> str | None:
    kind, text, _ = pieces[number]
    before = pieces[number - 1].text if number else ""
    after = pieces[number + 1].text if number + 1 < len(pieces) else ""
    if kind == "sign":
        if text in ("'", '"'):
            return f"the text that begins here does not end: add {text}"
        return _applied(_SIGNS.get(text), pieces, number)
    if kind == "name" and before == "." and text in _RESERVED:
        return f"write ['{text}'] for a field with the name of a word of CEL"
    if kind != "name" or before == ".":
        return None
    if text == "in":
        is_list = after == "("
        advice = "write a list in square brackets: event.wiki in ['a', 'b']" if is_list else None
    else:
        advice = _WORDS.get(text.casefold())
    return _applied(advice, pieces, number)


def _applied(advice: str | None, pieces: list[_Piece], number: int) -> str | None:
    """Return the advice about a piece with the field and the text that the filter has around it, in
    place of those of the example."""
    if advice is None:
        return None
    literal = next((piece.text for piece in pieces[number:] if piece.kind == "text"), None)
    if literal is not None and len(literal) <= _SHOWN_MAX:
        advice = _EXAMPLE_TEXT.sub(lambda found: f"{found[1]}({literal})", advice)
    field = _field_around(pieces, number)
    if field is None or len(field) > _SHOWN_MAX:
        return advice
    return _EXAMPLE_FIELD.sub(field, advice)


def _field_around(pieces: list[_Piece], number: int) -> str | None:
    """Return the field that a mistaken word, sign or function is about: the nearest one before it;
    for a function that is called with the field, the nearest one after it."""
    texts = [piece.text for piece in pieces]
    is_function = texts[number + 1 : number + 2] == ["("] and texts[number - 1 : number] != ["."]
    before: str | None = None
    for start, text in enumerate(texts):
        if text != "event" or texts[start - 1 : start] == ["."]:
            continue
        end = start + 1
        while texts[end : end + 1] == ["."] and end + 1 < len(pieces):
            if pieces[end + 1].kind != "name" or texts[end + 2 : end + 3] == ["("]:
                break
            end += 2
        if end == start + 1:
            continue
        field = "".join(texts[start:end])
        if start > number:
            return field if is_function else before or field
        before = field
    return before


def _of_reference(pieces: list[_Piece], name: str, offset: int, place: Place) -> Hint | None:
    """Return the hint for a variable or function that does not exist."""
    last = name.rpartition(".")[2]
    called = (
        number
        for number, (one, two) in enumerate(pairwise(pieces))
        if one.text == last and two.text == "(" and one.offset <= offset <= two.offset
    )
    number = next(called, None)
    if number is None:
        return Hint(_of_name(pieces, name, offset), place)
    found = _applied(_of_call(name), pieces, number)
    return None if found is None else Hint(found, place)


def _of_call(name: str) -> str | None:
    known = _CALLS.get(name.casefold()) or _WORDS.get(name.casefold())
    if name in _METHODS:
        return f"write it after the field: event.title.{name}('text')"
    if known is not None:
        return known
    return f"did you mean {near[0]}()?" if (near := nearest(name, _FUNCTIONS)) else None


def _of_name(pieces: list[_Piece], name: str, offset: int) -> str:
    constant = _CONSTANTS.get(name.casefold())
    if constant is not None:
        return f"write {constant}"
    first = name.partition(".")[0]
    before = [piece.text for piece in pieces if piece.offset < offset]
    if before[-1:] == ["-"] and before[-3:-2] == ["."]:  # as in event.rev-id
        return f"write event['{before[-2]}-{name}'] if the name of the field has a hyphen"
    near = nearest(first, VARIABLES)
    if near and abs(len(near[0]) - len(first)) <= _TYPO_MAX:
        return f"did you mean {near[0]}{name.removeprefix(first)}?"
    if before[-1:] and before[-1] in ("==", "!=") and "." not in name:
        return f"write '{name}' for text, or event.{name} for a field"
    if name == "".join(piece.text for piece in pieces):  # the whole filter is a word
        return f"write event.{name} for a field, or event.title.contains('{name}') to search text"
    return f"write event.{name} for a field of the event"
