"""CRC32 of bytes put together from parts whose CRCs are known, without reading them again.

A CRC32 is a polynomial over GF(2) modulo that of ISO 3309, its bits in reversed order: the top one
of 32 is that of x^0. Bytes that follow multiply what came before by x^8 each.
"""

from __future__ import annotations

import functools
import zlib
from typing import NamedTuple

_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31
_X = 1 << 30
_BYTE_LOG2 = 3


class Checksum(NamedTuple):
    """Of all bytes so far: their CRC32, and how many they are."""

    crc: int
    length: int

    def over(self, body: bytes) -> Checksum:
        """With `body` after it."""
        return Checksum(zlib.crc32(body, self.crc), self.length + len(body))

    def extended(self, since: Checksum, until: Checksum) -> Checksum:
        """With those bytes after it that made `since` into `until`, whoever they were sent to."""
        length = until.length - since.length
        assert length >= 0
        if length == 0:
            return self
        # What both have in common is the bytes in between; what came before differs, shifted.
        before = _times(self.crc ^ since.crc, _power_of_bytes(length))
        return Checksum(until.crc ^ before, self.length + length)


EMPTY = Checksum(0, 0)


def _times(a: int, b: int) -> int:
    product = 0
    bit = _ONE
    while a:
        if a & bit:
            product ^= b
            a ^= bit
        bit >>= 1
        b = b >> 1 ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


def _squares() -> tuple[int, ...]:
    """x^(2^n) for every n below 32; x^(2^32) is x again."""
    powers = [_X]
    while len(powers) < 32:
        powers.append(_times(powers[-1], powers[-1]))
    return tuple(powers)


_SQUARES = _squares()


@functools.lru_cache(maxsize=1024)  # many clients take the same chunk
def _power_of_bytes(count: int) -> int:
    """x^(8 * count)."""
    power = _ONE
    n = _BYTE_LOG2
    while count:
        if count & 1:
            power = _times(power, _SQUARES[n % 32])
        count >>= 1
        n += 1
    return power
