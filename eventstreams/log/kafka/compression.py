"""Decompresses record batches, in bounded memory.

A batch of a few kilobytes can decompress to gigabytes, and aiokafka decompresses it completely.
Therefore batches are decompressed here first, up to `UNPACKED_BYTES_MAX`. No I/O.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

import cramjam
from aiokafka.codec import snappy_decode

UNPACKED_BYTES_MAX: Final = 64 * 2**20
"""The maximum size of one batch's records, decompressed. A larger batch counts as damaged."""

# https://kafka.apache.org/documentation/#recordbatch
_LENGTH = struct.Struct(">i")
_LENGTH_AT = 8
_COUNTED_FROM = 12
_MAGIC_AT = 16
_ATTRIBUTES = struct.Struct(">h")
_ATTRIBUTES_AT = 21
_HEADER_BYTES = 61
_CODEC = 0x07
_ROOM_BYTES_MIN = 64 * 1024
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16


class BatchTooLarge(Exception):
    """The decompressed records would exceed the limit."""


def is_compressed(data: bytes, begin: int = 0) -> bool:
    """Return whether the batch at `begin` has Kafka's current format and is compressed."""
    return (
        len(data) >= begin + _HEADER_BYTES
        and data[begin + _MAGIC_AT] == 2
        and bool(_codec(data, begin))
    )


def without_compression(batch: bytes, bytes_max: int = UNPACKED_BYTES_MAX) -> bytes:
    """Return the same batch, decompressed. It keeps the checksum of the original.

    Raises BatchTooLarge, and the errors of the decompressors.
    """
    records = _UNPACK[_codec(batch, 0)](batch[_HEADER_BYTES:], bytes_max)
    header = bytearray(batch[:_HEADER_BYTES])
    _LENGTH.pack_into(header, _LENGTH_AT, _HEADER_BYTES - _COUNTED_FROM + len(records))
    (attributes,) = _ATTRIBUTES.unpack_from(header, _ATTRIBUTES_AT)
    _ATTRIBUTES.pack_into(header, _ATTRIBUTES_AT, attributes & ~_CODEC)
    return bytes(header) + records


def _codec(data: bytes, begin: int) -> int:
    return int(_ATTRIBUTES.unpack_from(data, begin + _ATTRIBUTES_AT)[0]) & _CODEC


def _gunzip(packed: bytes, bytes_max: int) -> bytes:
    made = bytearray()
    while packed:  # several members, one after the other
        inflate = zlib.decompressobj(wbits=31)
        made += inflate.decompress(packed, bytes_max - len(made) + 1)
        if len(made) > bytes_max:
            raise BatchTooLarge
        if not inflate.eof:
            raise EOFError("cut short")
        packed = inflate.unused_data
    return bytes(made)


def _unsnap(packed: bytes, bytes_max: int) -> bytes:
    if _unsnapped_bytes(packed) > bytes_max:
        raise BatchTooLarge
    return bytes(snappy_decode(packed))


def _unsnapped_bytes(packed: bytes) -> int:
    """Return the decompressed size. Each block begins with its own; Java clients write several."""
    if not packed.startswith(_XERIAL_MAGIC):
        return _varint(packed, 0)
    total, at = 0, _XERIAL_HEADER_BYTES
    while at + _LENGTH.size < len(packed):
        (size,) = _LENGTH.unpack_from(packed, at)
        if size < 0:
            raise ValueError("a block has a negative length")
        at += _LENGTH.size
        total += _varint(packed, at)
        at += size
    return total


def _varint(data: bytes, at: int) -> int:
    value = shift = 0
    for byte in data[at : at + 5]:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
    raise ValueError("a length is cut short")


def _into(decompress: Callable[[bytes, bytearray], int]) -> Callable[[bytes, int], bytes]:
    def unpack(packed: bytes, bytes_max: int) -> bytes:
        room_bytes = max(_ROOM_BYTES_MIN, 8 * len(packed))
        while True:
            room = bytearray(min(room_bytes, bytes_max))
            try:
                size = decompress(packed, room)
            except cramjam.DecompressionError as error:
                if "whole buffer" not in str(error):
                    raise
                if room_bytes >= bytes_max:
                    raise BatchTooLarge from error
                room_bytes *= 4
            else:
                return bytes(memoryview(room)[:size])

    return unpack


_UNPACK: dict[int, Callable[[bytes, int], bytes]] = {
    1: _gunzip,
    2: _unsnap,
    3: _into(cramjam.lz4.decompress_into),
    4: _into(cramjam.zstd.decompress_into),
}
