"""Integers of about one size as few bits: what a token's values are made of.

A column says its centre, near the median, and a width from its middle half; each value follows as a
Rice code of its distance from the centre, so it costs about as many bits as it is uncertain. One
that lies far outside costs itself more, but not the others. A column of few values has no use for
that: it says the first, and each further one as what it is apart from the one before it.

Bits are one long integer: to change one code in its midst is a few shifts at C's speed.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

_LENGTH_BITS = 7  # differences of 64-bit integers, with a sign, have up to 65
_ESCAPE = 8
"""A Rice code of this many ones is none: the length of the value and its bits follow."""
_FEW = 4
_BLOCK = 64
"""Codes are joined by so many first: shifting a very long integer for each would be slow."""
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class Fault(Exception):
    """What is wrong with a token; it becomes an InvalidAssignment where the token is known."""


class Code(NamedTuple):
    """The `length` bits of `bits`, zeros in front included."""

    bits: int
    length: int


class Column:
    """Values that move, one at a time; `code` says them all."""

    __slots__ = ("_lengths", "_model", "_ordered", "_values", "code")

    def __init__(self, values: Sequence[int]) -> None:
        self._values = list(values)
        self._ordered = sorted(values)
        self._model = _model(self._ordered)
        self._lengths: list[int] = []
        self.code = self._encode()

    def value(self, index: int) -> int:
        return self._values[index]

    def move(self, index: int, value: int) -> Code:
        """Changes one value. Returns the code then."""
        before = self._values[index]
        if before == value:
            return self.code
        self._values[index] = value
        del self._ordered[bisect_left(self._ordered, before)]
        insort(self._ordered, value)
        model = _model(self._ordered)
        if len(self._values) < _FEW or model != self._model:
            self._model = model
            self.code = self._encode()
        else:
            self.code = self._replace(index, _rice(zigzag(value - model[0]), model[1]))
        return self.code

    def _replace(self, index: int, new: Code) -> Code:
        bits, length = self.code
        old_length = self._lengths[index]
        after = sum(self._lengths[index + 1 :])
        self._lengths[index] = new.length
        before = bits >> (after + old_length)
        bits = (before << new.length | new.bits) << after | (bits & ((1 << after) - 1))
        return Code(bits, length + new.length - old_length)

    def _encode(self) -> Code:
        if len(self._values) < _FEW:
            earlier = [0, *self._values]
            deltas = (v - e for v, e in zip(self._values, earlier, strict=False))
            return joined(_plain(zigzag(delta)) for delta in deltas)
        centre, width = self._model
        codes = [_rice(zigzag(value - centre), width) for value in self._values]
        self._lengths = [code.length for code in codes]
        blocks = (codes[i : i + _BLOCK] for i in range(0, len(codes), _BLOCK))
        first = Code(width, _LENGTH_BITS), _plain(zigzag(centre >> _shift(width)))
        return joined([*first, *map(joined, blocks)])


def joined(codes: Iterable[Code]) -> Code:
    bits = length = 0
    for more, more_length in codes:
        bits = bits << more_length | more
        length += more_length
    return Code(bits, length)


def _model(ordered: Sequence[int]) -> tuple[int, int]:
    """(centre, width in bits). The centre is round, so that it seldom moves and is short."""
    n = len(ordered)
    width = max(0, (ordered[3 * n // 4] - ordered[n // 4]).bit_length() - 1)
    shift = _shift(width)
    return (ordered[n // 2] + (1 << shift >> 1)) >> shift << shift, width


def _shift(width: int) -> int:
    """How many bits of a column's centre are 0."""
    return max(0, width - 3)


def zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    return -((value + 1) >> 1) if value & 1 else value >> 1


def _rice(value: int, width: int) -> Code:
    ones = value >> width
    if ones >= _ESCAPE:
        return joined((Code((1 << _ESCAPE) - 1, _ESCAPE), _plain(value)))
    # The number of ones and a 0, then the low bits.
    return Code(((1 << ones) - 1) << (width + 1) | value & ((1 << width) - 1), ones + 1 + width)


def _plain(value: int) -> Code:
    """The length, and the bits after the first 1."""
    length = value.bit_length()
    if not length:
        return Code(0, _LENGTH_BITS)
    return Code(length << (length - 1) | value ^ 1 << (length - 1), _LENGTH_BITS + length - 1)


class Bits:
    def __init__(self, values: bytes) -> None:
        if not values or not values[0]:
            raise Fault("its values do not begin where they should")
        self._text = bin(int.from_bytes(values, "big"))[3:]  # without 0b and the first 1
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._text)

    def column(self, size: int) -> list[int]:
        if size < _FEW:
            deltas = (unzigzag(self._plain()) for _ in range(size))
            return [int64(value) for value in accumulate(deltas)]
        width = self._take(_LENGTH_BITS)
        centre = unzigzag(self._plain()) << _shift(width)
        return [int64(centre + unzigzag(self._rice(width))) for _ in range(size)]

    def _rice(self, width: int) -> int:
        zero = self._text.find("0", self._at, self._at + _ESCAPE)
        if zero < 0:
            self._take(_ESCAPE)
            return self._plain()
        ones = zero - self._at
        self._at = zero + 1
        return ones << width | self._take(width)

    def _plain(self) -> int:
        length = self._take(_LENGTH_BITS)
        return 1 << (length - 1) | self._take(length - 1) if length else 0

    def _take(self, count: int) -> int:
        if not count:
            return 0
        text = self._text[self._at : self._at + count]
        if len(text) < count:
            raise Fault("its values are cut short")
        self._at += count
        return int(text, 2)


def int64(value: int) -> int:
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise Fault("a number does not fit in 64 bits")
    return value
