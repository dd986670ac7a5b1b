"""Estimates what a regular expression costs: the size of its program and the time of a search.

The runtime compiles a pattern for every event again, so compiling may cost as much as searching.
The syntax is RE2's (github.com/google/re2/wiki/Syntax). Only the runtime decides whether a pattern
is valid; what this module does not recognize counts as literal text.

RE2 searches with an automaton that it builds during the search: it makes each state when the text
first leads there, in time proportional to the instructions that are active in it. So a search is
cheap if it can meet few states, however long the text is. `pattern_cost` bounds their number.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_COMPILE_US = 4.0
"""The time to compile a pattern, in addition to that for its instructions."""
_INSTRUCTION_US = 0.3
"""The time to compile an instruction."""
_BYTE_US = 0.003
"""The time to search a byte of the text that leads to a known state of the automaton."""
_THREAD_US = 0.011
"""The time that each active instruction adds to making a state."""
_STATES_MAX = 10_000
_ANY_SIZE = 10
"""The instructions of a class like `.` or `[^x]`, whose characters have up to four bytes."""
_RANGE_SIZE = 24
"""The instructions of a range beyond ASCII."""
_FOLD_SIZE = 8
"""The instructions that `(?i)` adds to a class: two characters beyond ASCII fold to k and s."""
_UNICODE_CLASS_SIZE = 2_000
_OVERHEAD_SIZE = 5
_MANY = 10**6
_DEPTH_MAX = 50
"""How deeply groups may nest. A pattern with deeper groups counts as too large."""

_REPEAT = re.compile(r"\{(\d{1,4})(?:(,)(\d{0,4}))?\}", re.ASCII)
_GROUP = re.compile(r"\(\?(?:P?<[^>]*>|([imsU]*)(?:-[imsU]*)?([:)]))", re.ASCII)
_RANGES = {"d": 1, "w": 4, "s": 3, "D": 2, "W": 5, "S": 4}
_CODE = re.compile(r"x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|[0-7]{1,3}", re.ASCII)


class PatternCost(NamedTuple):
    """The cost of one evaluation, in microseconds."""

    fixed_us: float
    byte_us: float
    """For each byte of the text that is searched."""
    size: int
    """An upper estimate of the instructions of the program."""


class _Part(NamedTuple):
    """A part of a pattern. Loops over any character, like `.*`, divide it into segments."""

    size: int
    """The number of instructions."""
    words: int
    """How many literal texts the pattern expands to, loops over any character left out."""
    longest: int
    """The bytes of the longest of these texts."""
    segments: int = 1
    """One more than the number of loops over any character."""
    loops: bool = False
    """Whether it contains any loop."""
    wild: bool = False
    """Whether it contains a loop over some characters only, so that its states cannot be counted.
    """
    anchored: bool = False
    """Whether it can match at the beginning of a text only."""
    any: bool = False
    """Whether it is a class of nearly all characters."""


_EMPTY = _Part(1, 1, 0)


def pattern_cost(pattern: str, reference_bytes: int) -> PatternCost:
    """Return the lowest of the known bounds, for texts of about `reference_bytes`."""
    part = _Parser(pattern).parse()
    size = part.size + _OVERHEAD_SIZE
    compiled_us = _COMPILE_US + _INSTRUCTION_US * size
    # In the worst case each byte leads to a new state in which all instructions are active.
    bounds = [PatternCost(compiled_us, _BYTE_US + _THREAD_US * size, size)]
    if part.anchored and not part.loops:  # the search ends after the longest match
        searched_us = (part.longest + 1) * (_BYTE_US + _THREAD_US * size)
        bounds.append(PatternCost(compiled_us + searched_us, 0.0, size))
    states = part.segments * part.words * part.longest + 1
    if not part.wild and states <= _STATES_MAX:  # each state is the part of a word read so far
        active = min(size, 2 * part.words + 8)
        made_us = states * _THREAD_US * active
        bounds.append(PatternCost(compiled_us + made_us, _BYTE_US, size))
    return min(bounds, key=lambda cost: cost.fixed_us + reference_bytes * cost.byte_us)


class _Parser:
    """Reads a pattern, one method for each rule of the grammar, and adds up its parts."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._start = 0
        """The index after the backslash of the escape that was read last."""
        self._folds = self._lines = False
        self._depth = 0

    def parse(self) -> _Part:
        part = self._alternatives()
        while self._at < len(self._pattern):  # an unmatched ")": the runtime rejects it
            self._at += 1
            part = _joined(part, self._alternatives())
        return part

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _alternatives(self) -> _Part:
        part = self._sequence()
        while self._peek() == "|":
            self._at += 1
            part = _either(part, self._sequence())
        return part

    def _sequence(self) -> _Part:
        part = _EMPTY
        while self._peek() not in ("", "|", ")"):
            part = _joined(part, self._repeated())
        return part

    def _repeated(self) -> _Part:
        part = self._atom()
        while True:
            sign = self._peek()
            if sign in ("*", "+", "?") and sign:
                self._at += 1
                part = _optional(part) if sign == "?" else _looped(part)
            elif sign == "{" and (match := _REPEAT.match(self._pattern, self._at)):
                self._at = match.end()
                least = int(match[1])
                most = least if match[2] is None else int(match[3]) if match[3] else None
                part = _times(part, least, most)
            else:
                return part

    def _atom(self) -> _Part:  # noqa: PLR0911 - one for each kind
        sign = self._peek()
        self._at += 1
        if sign == "(":
            return self._group()
        if sign == "[":
            return self._class()
        if sign == "\\":
            return self._escape()
        if sign == ".":
            return _Part(_ANY_SIZE, _MANY, 4, any=True)
        if sign == "^":
            return _EMPTY._replace(anchored=not self._lines)
        if sign == "$":
            return _EMPTY
        return self._literal(sign)

    def _group(self) -> _Part:
        match = _GROUP.match(self._pattern, self._at - 1)
        folds, lines = self._folds, self._lines
        if self._depth == _DEPTH_MAX:
            self._at = len(self._pattern)
            return _Part(_MANY, _MANY, 4)
        if match is not None:
            self._at = match.end()
            self._folds = folds or "i" in (match[1] or "")
            self._lines = lines or "m" in (match[1] or "")
            if match[2] == ")":
                # Flags for what follows. Nothing unsets them, which can only raise the cost.
                return _EMPTY
        self._depth += 1
        part = self._alternatives()
        self._depth -= 1
        if self._peek() == ")":
            self._at += 1
        self._folds, self._lines = folds, lines
        captures = match is None or match[2] is None
        return part._replace(size=part.size + 2 * captures)

    def _class(self) -> _Part:
        start = self._at
        negated = self._peek() == "^"
        self._at += negated
        size = characters = 0
        wide_one = self._folds
        while (sign := self._peek()) and (sign != "]" or self._at == start + negated):
            if self._pattern.startswith("[:", self._at) and ":]" in self._pattern[self._at :]:
                self._at = self._pattern.index(":]", self._at) + 2
                size, characters = size + 5, characters + 128
            else:
                low, its_size = self._member()
                high = low
                if self._pattern[self._at : self._at + 1] == "-" != self._pattern[-1:] and (
                    self._pattern[self._at + 1] != "]"
                ):
                    self._at += 1
                    high, its_size = self._member()
                wide = max(low, high) > 127 or min(low, high) < 0
                wide_one = wide_one or wide
                range_size = 1 if not wide else 4 if low == high else _RANGE_SIZE
                size += max(its_size, range_size) * (3 if self._folds else 1)
                characters += max(1, high - low + 1) * (2 if self._folds else 1)
        self._at += 1
        if negated:
            return _Part(size + 2 * _RANGE_SIZE, _MANY, 4, any=True)
        size += _FOLD_SIZE * self._folds
        return _Part(max(1, size), max(1, characters), 4 if wide_one else 1)

    def _member(self) -> tuple[int, int]:
        """Return the code point of a class's next member, -1 for another class, and its size."""
        sign = self._peek()
        self._at += 1
        if sign != "\\":
            return ord(sign) if sign else 0, 1
        part = self._escape()
        if part.words > 1 or part.size > 4:
            return -1, part.size
        match = _CODE.fullmatch(self._pattern, self._start, self._at)
        if match is None:
            return ord(self._pattern[self._at - 1]), 1
        text = match[0].strip("x{}")
        return min(int(text, 16 if match[0][0] == "x" else 8), 0x10FFFF), 1

    def _escape(self) -> _Part:  # noqa: PLR0911 - one for each kind
        self._start = self._at
        sign = self._peek()
        self._at += 1
        if sign in _RANGES:
            if sign.isupper():
                return _Part(2 * _RANGE_SIZE, _MANY, 4, any=True)
            return _Part(_RANGES[sign] + _FOLD_SIZE * self._folds, 63, 1)
        if sign in ("p", "P"):
            if self._peek() == "{":
                self._at = self._pattern.find("}", self._at) + 1 or len(self._pattern)
            else:
                self._at += 1
            return _Part(_UNICODE_CLASS_SIZE, _MANY, 4)
        if sign == "Q":
            end = self._pattern.find("\\E", self._at)
            text = self._pattern[self._at : end if end >= 0 else None]
            self._at = end + 2 if end >= 0 else len(self._pattern)
            part = _EMPTY
            for character in text:
                part = _joined(part, self._literal(character))
            return part
        if sign == "C":
            return _Part(2, 256, 1, any=True)
        if sign in ("b", "B", "A", "z", "E"):
            return _EMPTY._replace(anchored=sign == "A")
        match = _CODE.match(self._pattern, self._start)
        if match is not None and sign:
            self._at = match.end()
            return _Part(4, 1, 4)
        return self._literal(sign)

    def _literal(self, character: str) -> _Part:
        encoded = len(character.encode("utf-8", "replace"))
        if not self._folds or (encoded == 1 and not character.isalpha()):
            return _Part(encoded, 1, encoded)
        if encoded == 1 and character not in "kKsS":
            return _Part(2, 1, 1)
        return _Part(12, 4, 4)


def _joined(first: _Part, second: _Part) -> _Part:
    return _Part(
        size=first.size + second.size,
        words=min(first.words * second.words, _MANY),
        longest=first.longest + second.longest,
        segments=first.segments + second.segments - 1,
        loops=first.loops or second.loops,
        wild=first.wild or second.wild,
        anchored=first.anchored or (first.longest == 0 and not first.loops and second.anchored),
    )


def _either(first: _Part, second: _Part) -> _Part:
    return _Part(
        size=first.size + second.size + 1,
        words=min(first.words + second.words, _MANY),
        longest=max(first.longest, second.longest),
        segments=first.segments + second.segments - 1,
        loops=first.loops or second.loops,
        wild=first.wild or second.wild,
        anchored=first.anchored and second.anchored,
    )


def _optional(part: _Part) -> _Part:
    return part._replace(
        size=part.size + 1, words=min(part.words + 1, _MANY), anchored=False, any=False
    )


def _looped(part: _Part) -> _Part:
    if part.any:
        return _Part(part.size + 2, 1, 0, segments=2, loops=True)
    return part._replace(size=part.size + 3, loops=True, wild=True, anchored=False)


def _times(part: _Part, least: int, most: int | None) -> _Part:
    times = max(least, most or 0)
    optional = 2 * (times - least)
    found = _Part(
        size=part.size * times + optional + 1,
        words=min(part.words ** min(times, 20), _MANY),
        longest=part.longest * times,
        segments=(part.segments - 1) * times + 1,
        loops=part.loops,
        wild=part.wild,
    )
    words = min(found.words * (times - least + 1), _MANY)
    return _looped(found) if most is None else found._replace(words=words)
