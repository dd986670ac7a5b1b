"""Encodes columns of integers of similar size in few bits. The values of a token are columns.

A column begins with a centre, near the median, and a width in bits, from the range of the middle
half of the values. Each value follows as a Rice code of its distance from the centre. An outlier
takes more bits itself, and the other values take no more than without it. A column of less than
`_FEW` values has no centre: it holds the first value and the difference of each further value to
the one before it.

The bits are one long integer, so replacing a code within it takes a few shifts in C.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Generator, Iterable, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

from eventstreams.model.steps import finished

_LENGTH_BITS = 7  # differences of 64-bit integers, with a sign, have up to 65
_STEP = 256
"""How many values of a column are read in one step, which takes about half a millisecond."""
_ESCAPE = 8
"""This many ones at the start of a code mean that the length of the value and its bits follow."""
_ONES = ["1" * ones + "0" for ones in range(_ESCAPE)]
_FEW = 4
_BLOCK = 64
"""How many codes are joined before they are joined with those before them. Shifting a very long
integer for each code would be slow."""
_STEP_TO_WRITE = 1024
"""How many values are encoded in one step, which takes about half a millisecond."""
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class Fault(Exception):
    """A token is invalid, for this reason. `read_token` turns it into an InvalidAssignment."""


class Code(NamedTuple):
    """The lowest `length` bits of `bits`, leading zeros included."""

    bits: int
    length: int


class Column:
    """Values that change one at a time, and their encoding, `code`."""

    __slots__ = ("_lengths", "_model", "_ordered", "_values", "code")

    def __init__(self, values: Sequence[int]) -> None:
        self._values = list(values)
        self._ordered = sorted(values)
        self._model = _model(self._ordered)
        self._lengths: list[int] = []
        self.code = Code(0, 0)
        """The encoding; valid only after `encode` has been run."""

    def __len__(self) -> int:
        return len(self._values)

    def value(self, index: int) -> int:
        return self._values[index]

    def move(self, index: int, value: int) -> Code:
        """Change one value and return the new encoding of the column."""
        before = self._values[index]
        if before == value:
            return self.code
        self._values[index] = value
        del self._ordered[bisect_left(self._ordered, before)]
        insort(self._ordered, value)
        model = _model(self._ordered)
        if len(self._values) < _FEW or model != self._model:
            self._model = model
            finished(self.encode())
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

    def encode(self) -> Generator[None]:
        """Encode all values, in steps."""
        if len(self._values) < _FEW:
            earlier = [0, *self._values]
            deltas = (v - e for v, e in zip(self._values, earlier, strict=False))
            self.code = joined(_plain(zigzag(delta)) for delta in deltas)
            return
        centre, width = self._model
        texts: list[str] = []
        for first in range(0, len(self._values), _STEP_TO_WRITE):
            if first:
                yield
            part = self._values[first : first + _STEP_TO_WRITE]
            texts += _rice_texts([value - centre for value in part], width)
        self._lengths = list(map(len, texts))
        text = "".join(texts)
        head = Code(width, _LENGTH_BITS), _plain(zigzag(centre >> _shift(width)))
        self.code = joined((*head, Code(int(text, 2), len(text))))


def joined(codes: Iterable[Code]) -> Code:
    """Return the codes one after another, as one code."""
    bits = length = 0
    rest = iter(codes)
    while block := list(islice(rest, _BLOCK)):
        block_bits = block_length = 0
        for more, more_length in block:
            block_bits = block_bits << more_length | more
            block_length += more_length
        bits = bits << block_length | block_bits
        length += block_length
    return Code(bits, length)


def _model(ordered: Sequence[int]) -> tuple[int, int]:
    """Return the centre and the width in bits of sorted values.

    The centre is rounded, so that it rarely changes and has a short code.
    """
    n = len(ordered)
    width = max(0, (ordered[3 * n // 4] - ordered[n // 4]).bit_length() - 1)
    shift = _shift(width)
    return (ordered[n // 2] + (1 << shift >> 1)) >> shift << shift, width


def _shift(width: int) -> int:
    """Return how many of the lowest bits of a column's centre are 0."""
    return max(0, width - 3)


def zigzag(value: int) -> int:
    """Return 0, 1, 2, 3, 4 for 0, -1, 1, -2, 2 and so on."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    return -((value + 1) >> 1) if value & 1 else value >> 1


def _rice(value: int, width: int) -> Code:
    ones = value >> width
    if ones >= _ESCAPE:
        return joined((Code((1 << _ESCAPE) - 1, _ESCAPE), _plain(value)))
    # As many ones as the high bits say, a 0, then the low bits.
    return Code(((1 << ones) - 1) << (width + 1) | value & ((1 << width) - 1), ones + 1 + width)


def _rice_texts(values: Iterable[int], width: int) -> list[str]:
    """Return `_rice` of the zigzag of each value, as text. Several times faster for many values."""
    top = 1 << width
    texts: list[str] = []
    for value in values:
        number = value << 1 if value >= 0 else ~(value << 1)
        ones = number >> width
        if ones >= _ESCAPE:
            code = _rice(number, width)
            texts.append(f"{code.bits:0{code.length}b}")
        else:
            texts.append(_ONES[ones] + bin(top | number & (top - 1))[3:])  # without 0b1
    return texts


def _plain(value: int) -> Code:
    """Return the length of the value and its bits after the first 1."""
    length = value.bit_length()
    if not length:
        return Code(0, _LENGTH_BITS)
    return Code(length << (length - 1) | value ^ 1 << (length - 1), _LENGTH_BITS + length - 1)


class Bits:
    """Reads the columns of a token. The first 1 marks where the bits begin."""

    def __init__(self, values: bytes) -> None:
        if not values or not values[0]:
            raise Fault("the bit that marks the start of its values is missing")
        self._text = bin(int.from_bytes(values, "big"))[3:]  # without 0b and the first 1
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._text)

    def column(self, size: int) -> Generator[None, None, list[int]]:
        """Read a column of `size` values, in steps of `_STEP` values. Raises Fault."""
        if size < _FEW:
            deltas = (unzigzag(self._plain()) for _ in range(size))
            return [int64(value) for value in accumulate(deltas)]
        width = self._take(_LENGTH_BITS)
        centre = unzigzag(self._plain()) << _shift(width)
        values: list[int] = []
        while len(values) < size:
            if values:
                yield
            step = min(_STEP, size - len(values))
            values += [int64(centre + unzigzag(self._rice(width))) for _ in range(step)]
        return values

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
            raise Fault("its values are truncated")
        self._at += count
        return int(text, 2)


def int64(value: int) -> int:
    """Return the value. Raises Fault if it does not fit in 64 bits."""
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise Fault("a number does not fit in 64 bits")
    return value
