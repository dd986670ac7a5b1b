"""The checksum of a record of the embedded log: CRC-32, kept beside the record."""

from __future__ import annotations

from zlib import crc32


def checksum(id_: int, timestamp_ms: int, key: bytes | None, value: bytes | None) -> int:
    """Return the checksum of all that a reader is given of a record, its place included.

    `id_` is the row's. CRC-32 does not see the length of zeros, so lengths are part of what it
    starts from; there a missing key or value differs from an empty one.
    """
    start = id_ ^ timestamp_ms
    if value is not None:
        start ^= len(value) + 1
    if key is not None:
        start ^= len(key) + 1 << 32
    start = (start ^ start >> 32) & 0xFFFFFFFF
    if key is not None:
        start = crc32(key, start)
    return start if value is None else crc32(value, start)
