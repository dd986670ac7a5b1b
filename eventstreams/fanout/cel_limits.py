"""What a filter may not say, because one event could then cost seconds or gigabytes.

The runtime bounds nesting and iterations, but not what one iteration costs, and gives memory back
only after the evaluation. What is refused, and what it would do:

- `map` and `filter`: each step copies the list, so the memory is the square of its length;
- computed values in list and map literals: through nested loops they double with each level;
- concatenation in loops, and much of it anywhere: every intermediate text stays in memory;
- computed regular expressions, and large ones: they are compiled for every event, and a counted
  repetition costs as much as its text written out;
- functions that are not listed: none of them is needed to choose events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from eventstreams.fanout.cel_text import Token, closing, is_operand

LOOPS = ("all", "exists", "exists_one")
_FUNCTIONS = frozenset(
    {
        *("has", "size", "startsWith", "endsWith", "contains", "matches"),
        *("int", "uint", "double", "string", "bool", "dyn", "type", "timestamp", "duration"),
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    }
)
PLUS_MAX = 8
LOOP_LITERALS_MAX = 64
"""Tokens of list and map literals within loops: these are made anew in every iteration."""
PATTERNS_MAX = 1_000
"""About the states of all regular expressions of a filter: a third of a millisecond an event."""
_REPEAT = re.compile(r"(\)?)\{(\d{1,4})(?:,(\d{0,4}))?\}", re.ASCII)
_UNICODE_CLASS_COST = 600
_PATTERN_COST = 20
_ANY_COST = 10
"""States of a class like `.` or `[^x]` in UTF-8."""


class Refusal(NamedTuple):
    reason: str
    offset: int


class Traits(NamedTuple):
    """What evaluating costs, as far as the text tells."""

    heavy: bool
    """Leaves much in the activation's memory, which is therefore not to be shared."""
    loops_over_event: bool
    """Looks at the whole event in every iteration."""
    scratch_bytes: int
    """About what an evaluation leaves in the activation's memory, where it is not heavy."""


def find_refusal(tokens: list[Token]) -> Refusal | None:
    """The first thing in a well-formed expression that is not allowed."""
    inside = _inside_loops(tokens)
    return next(
        (
            refusal
            for refusals in (
                _calls(tokens, inside),
                _literals(tokens, inside),
                _sums(tokens, inside),
            )
            for refusal in refusals
        ),
        None,
    )


def traits_of(tokens: list[Token]) -> Traits:
    inside = _inside_loops(tokens)
    return Traits(
        heavy=bool(inside) or any(token.text == "+" for token in tokens),
        loops_over_event=any(tokens[i].text == "event" for i in inside),
        scratch_bytes=64 + 40 * len(tokens),
    )


def patterns(tokens: list[Token]) -> Iterator[Token]:
    """The regular expressions of an expression that has no refusal: literals, as written."""
    for i, name in _called(tokens):
        if name.text == "matches":
            yield tokens[closing(tokens, i + 1) - 1]


def pattern_cost(pattern: str) -> int:
    """About how many states it takes, rather more than less."""
    atom = _ANY_COST
    cost = _PATTERN_COST + len(pattern)
    classes = pattern.count("\\p") + pattern.count("\\P")
    if classes:
        atom = _UNICODE_CLASS_COST
        cost += classes * _UNICODE_CLASS_COST
    groups = 1
    for group, least, most in _REPEAT.findall(pattern):
        times = max(int(least), int(most or 0)) + 1
        if group:
            groups *= times
        else:
            cost += times * atom
    return cost * groups


def _called(tokens: list[Token]) -> Iterator[tuple[int, Token]]:
    """Names before an opening bracket, with their index."""
    for i, token in enumerate(tokens[:-1]):
        if token.kind == "name" and token.text != "in" and tokens[i + 1].text == "(":
            yield i, token


def _inside_loops(tokens: list[Token]) -> set[int]:
    """The indexes of the tokens that are looked at once an iteration."""
    inside: set[int] = set()
    for i, name in _called(tokens):
        if name.text in LOOPS:
            inside.update(range(i + 2, closing(tokens, i + 1)))
    return inside


def _calls(tokens: list[Token], inside: set[int]) -> Iterator[Refusal]:
    for i, name in _called(tokens):
        if name.text in ("map", "filter"):
            yield Refusal(f"{name.text}() is not to be had: use all() or exists()", name.offset)
        elif name.text not in _FUNCTIONS and name.text not in LOOPS:
            yield Refusal(f"there is no function {name.text}()", name.offset)
        elif name.text == "matches":
            if i in inside:
                yield Refusal("matches() is not to be had within all() or exists()", name.offset)
            end = closing(tokens, i + 1)
            if tokens[end - 1].kind != "text" or tokens[end - 2].text not in ("(", ","):
                yield Refusal("a regular expression must be a literal text", name.offset)


def _literals(tokens: list[Token], inside: set[int]) -> Iterator[Refusal]:
    within_loops = 0
    i = 0
    while i < len(tokens):
        token = tokens[i]
        operand = i > 0 and is_operand(tokens[i - 1])
        if token.text == "{" and operand:
            yield Refusal("messages can't be made", token.offset)
        if token.text == "{" or (token.text == "[" and not operand):
            end = closing(tokens, i)
            for part in tokens[i:end]:
                if not _is_literal(part):
                    yield Refusal("lists and maps hold literals only", part.offset)
            within_loops += end - i if i in inside else 0
            if within_loops > LOOP_LITERALS_MAX:
                yield Refusal("a list within all() or exists() is too long", token.offset)
            i = end
        i += 1


def _is_literal(token: Token) -> bool:
    if token.kind == "name":
        return token.text in ("true", "false", "null")
    return token.kind != "sign" or token.text in "[]{}:,-"


def _sums(tokens: list[Token], inside: set[int]) -> Iterator[Refusal]:
    signs = [i for i, token in enumerate(tokens) if token.text == "+"]
    for i in signs:
        if i in inside:
            yield Refusal("+ is not to be had within all() or exists()", tokens[i].offset)
    if len(signs) > PLUS_MAX:
        yield Refusal(f"+ stands there more than {PLUS_MAX} times", tokens[signs[PLUS_MAX]].offset)
