"""An id as a short token, for positions whose JSON would be long: `v1.` and base64url of

    varint length of the head | head | values | CRC-32 of all before it, 4 bytes

The head is what stays while a stream runs, as a raw deflate stream: the number of groups (a group
is a row of partitions of one topic), the size of each, every partition's number as a delta, and
the names, which 0xff separates. So a token says by itself which topics it means.

The values are bits, behind a first 1 that marks where they begin: a column of timestamps, then one
of offsets for every group (see columns.py).

Equal positions have equal tokens, however they were come by.
"""

from __future__ import annotations

import base64
import binascii
import functools
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from eventstreams.errors import InvalidAssignment
from eventstreams.model.columns import Bits, Code, Column, Fault, int64, joined, unzigzag, zigzag
from eventstreams.model.event import Partition

PREFIX = "v1."
PARTITIONS_MAX = 10_000
HEAD_BYTES_MAX = 256 * 1024
"""Inflated. What is said in a few bytes must not take the memory of many."""
TOKEN_BYTES_MAX = 512 * 1024
_CRC_BYTES = 4
_VARINT_BITS_MAX = 70
_SEPARATOR = b"\xff"  # no byte of UTF-8


class Entry(NamedTuple):
    """What a token says of one partition."""

    partition: Partition
    offset: int
    timestamp_ms: int


class _Layout(NamedTuple):
    head: bytes
    """With its length before it."""
    sizes: tuple[int, ...]


class Writer:
    """Makes the tokens of a position on the move, encoding only what an event changes."""

    __slots__ = ("_codes", "_columns", "_head", "_places", "_times")

    def __init__(self, layout: _Layout, offsets: Sequence[int], timestamps: Sequence[int]) -> None:
        self._head, sizes = layout
        self._times = Column(timestamps)
        self._columns: list[Column] = []
        self._places = [(group, i) for group, size in enumerate(sizes, 1) for i in range(size)]
        start = 0
        for size in sizes:
            self._columns.append(Column(offsets[start : start + size]))
            start += size
        self._codes = [Code(1, 1), self._times.code, *(c.code for c in self._columns)]

    def move(self, index: int, offset: int, timestamp_ms: int) -> None:
        group, i = self._places[index]
        self._codes[1] = self._times.move(index, timestamp_ms)
        self._codes[group + 1] = self._columns[group - 1].move(i, offset)

    def token(self) -> bytes:
        bits, length = joined(self._codes)
        body = self._head + bits.to_bytes((length + 7) // 8, "big")
        body += zlib.crc32(body).to_bytes(_CRC_BYTES, "big")
        return PREFIX.encode() + base64.urlsafe_b64encode(body).rstrip(b"=")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def writer(
    partitions: tuple[Partition, ...], offsets: Sequence[int], timestamps: Sequence[int]
) -> Writer | None:
    """None where there is more than a token may hold. Remembers what stays, for the next one."""
    layout = _cached_layout(partitions)
    return layout and Writer(layout, offsets, timestamps)


def encode(
    partitions: tuple[Partition, ...], offsets: Sequence[int], timestamps: Sequence[int]
) -> bytes | None:
    """The token, or None where there is more than one may hold."""
    layout = _layout(partitions)
    return layout and Writer(layout, offsets, timestamps).token()


def _layout(partitions: tuple[Partition, ...]) -> _Layout | None:
    if not 0 < len(partitions) <= PARTITIONS_MAX:
        return None
    groups = [(topic, list(mine)) for topic, mine in groupby(partitions, lambda p: p.topic)]
    sizes = tuple(len(mine) for _, mine in groups)
    parts = [_varint(len(groups)), *map(_varint, sizes)]
    for _, mine in groups:
        expected = 0
        for partition in mine:
            parts.append(_varint(zigzag(partition.number - expected)))
            expected = partition.number + 1
    parts.append(_SEPARATOR.join(topic.encode() for topic, _ in groups))
    raw = b"".join(parts)
    if len(raw) > HEAD_BYTES_MAX:
        return None
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    head = deflate.compress(raw) + deflate.flush()
    return _Layout(_varint(len(head)) + head, sizes)


_cached_layout = functools.lru_cache(maxsize=64)(_layout)


def is_token(text: str) -> bool:
    """Whether this is meant as one, of whatever version: no JSON begins so."""
    return text.lstrip().startswith("v")


def parse_token(text: str) -> list[Entry]:
    """The entries of a token, in its order. Raises InvalidAssignment."""
    try:
        body = _body(text.strip())
        length, start = _read_varint(body, 0)
        if length > len(body) - start:
            raise Fault("its head is cut short")
        groups = _read_head(_inflate(body[start : start + length]))
        return list(_read_values(groups, body[start + length :]))
    except Fault as fault:
        raise InvalidAssignment(
            f"Failed reading Last-Event-ID as a token: {fault}",
            originalName="SyntaxError",
            last_event_id=text,
        ) from None


def _body(text: str) -> bytes:
    version, point, payload = text.partition(".")
    if not point:
        raise Fault("it has no version, like v1., before it")
    if version + point != PREFIX:
        raise Fault(f"version {version[:20]} is not known here, only v1")
    if len(text) > TOKEN_BYTES_MAX:
        raise Fault(f"it is longer than {TOKEN_BYTES_MAX} bytes")
    try:
        body = base64.b64decode(payload + "=" * (-len(payload) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Fault("what follows v1. is not base64url") from None
    if base64.urlsafe_b64encode(body).rstrip(b"=").decode() != payload:
        raise Fault("what follows v1. is not base64url as it is written here")
    checksum = zlib.crc32(body[:-_CRC_BYTES]).to_bytes(_CRC_BYTES, "big")
    if len(body) <= _CRC_BYTES or body[-_CRC_BYTES:] != checksum:
        raise Fault("it is damaged or cut short; its checksum is another")
    return body[:-_CRC_BYTES]


def _inflate(head: bytes) -> bytes:
    inflate = zlib.decompressobj(-15)
    try:
        raw = inflate.decompress(head, HEAD_BYTES_MAX + 1)
    except zlib.error:
        raise Fault("its head can't be inflated") from None
    if len(raw) > HEAD_BYTES_MAX:
        raise Fault(f"its head inflates to more than {HEAD_BYTES_MAX} bytes")
    if not inflate.eof or inflate.unused_data:
        raise Fault("its head does not end where it should")
    return raw


def _read_head(raw: bytes) -> list[list[Partition]]:
    count, at = _read_varint(raw, 0)
    if not 0 < count <= PARTITIONS_MAX:
        raise Fault(f"it names no partition, or more than {PARTITIONS_MAX}")
    sizes: list[int] = []
    for _ in range(count):
        size, at = _read_varint(raw, at)
        sizes.append(size)
    if 0 in sizes or sum(sizes) > PARTITIONS_MAX:
        raise Fault(f"it names a topic without partitions, or more than {PARTITIONS_MAX}")
    numbers: list[list[int]] = []
    for size in sizes:
        mine: list[int] = []
        for _ in range(size):
            delta, at = _read_varint(raw, at)
            mine.append(int64(unzigzag(delta) + (mine[-1] + 1 if mine else 0)))
        numbers.append(mine)
    try:
        names = [name.decode() for name in raw[at:].split(_SEPARATOR)]
    except UnicodeDecodeError:
        raise Fault("a topic's name is not UTF-8") from None
    if len(names) != count or not all(names):
        raise Fault("its topics' names are not as many as its topics")
    return [
        [Partition(name, number) for number in mine]
        for name, mine in zip(names, numbers, strict=True)
    ]


def _read_values(groups: list[list[Partition]], values: bytes) -> Iterator[Entry]:
    bits = Bits(values)
    timestamps = iter(bits.column(sum(map(len, groups))))
    for partitions in groups:
        for partition, offset in zip(partitions, bits.column(len(partitions)), strict=True):
            if offset < 0:
                raise Fault("an offset is negative")
            yield Entry(partition, offset, next(timestamps))
    if not bits.at_end:
        raise Fault("it holds more than its partitions")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where the next begins)."""
    value = shift = 0
    while at < len(data) and shift < _VARINT_BITS_MAX:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Fault("a number in it is cut short")
