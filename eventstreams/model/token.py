"""An id as a short token, for positions whose JSON would be long: `v1.` or `v2.` and base64url of

    varint length of the head | head | values | CRC-32 of all before it, 4 bytes

The head is what stays while a stream runs, as a raw deflate stream: the number of groups (a group
is a row of partitions of one topic), the size of each, every partition's number as a delta, and
the names, which 0xff separates. So a token says by itself which topics it means.

The values are bits, behind a first 1 that marks where they begin: a column of timestamps, then one
of offsets for every group (see columns.py). A token that begins with `v2.` has a column of leader
epochs behind them, -1 where one is not known; where none is known the token is a `v1.`.

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
from eventstreams.model.epochs import EPOCH_MAX, NO_EPOCH
from eventstreams.model.event import Partition

PREFIX = "v1."
PREFIX_WITH_EPOCHS = "v2."
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
    epoch: int = NO_EPOCH


class _Layout(NamedTuple):
    head: bytes
    """With its length before it."""
    sizes: tuple[int, ...]


class Writer:
    """Makes the tokens of a position on the move, encoding only what an event changes."""

    __slots__ = ("_codes", "_columns", "_epochs", "_head", "_known_epochs", "_places", "_times")

    def __init__(
        self,
        layout: _Layout,
        offsets: Sequence[int],
        timestamps: Sequence[int],
        epochs: Sequence[int],
    ) -> None:
        self._head, sizes = layout
        self._times = Column(timestamps)
        self._columns: list[Column] = []
        self._places = [(group, i) for group, size in enumerate(sizes, 1) for i in range(size)]
        start = 0
        for size in sizes:
            self._columns.append(Column(offsets[start : start + size]))
            start += size
        self._epochs = Column(epochs)
        self._known_epochs = sum(epoch != NO_EPOCH for epoch in epochs)
        self._codes = [
            Code(1, 1),
            self._times.code,
            *(c.code for c in self._columns),
            self._epochs.code,
        ]

    def move(self, index: int, offset: int, timestamp_ms: int, epoch: int = NO_EPOCH) -> None:
        group, i = self._places[index]
        self._codes[1] = self._times.move(index, timestamp_ms)
        self._codes[group + 1] = self._columns[group - 1].move(i, offset)
        before = self._epochs.value(index)
        if epoch != before:
            self._known_epochs += (epoch != NO_EPOCH) - (before != NO_EPOCH)
            self._codes[-1] = self._epochs.move(index, epoch)

    def token(self) -> bytes:
        with_epochs = self._known_epochs > 0
        bits, length = joined(self._codes if with_epochs else self._codes[:-1])
        body = self._head + bits.to_bytes((length + 7) // 8, "big")
        body += zlib.crc32(body).to_bytes(_CRC_BYTES, "big")
        prefix = PREFIX_WITH_EPOCHS if with_epochs else PREFIX
        return prefix.encode() + base64.urlsafe_b64encode(body).rstrip(b"=")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def writer(
    partitions: tuple[Partition, ...],
    offsets: Sequence[int],
    timestamps: Sequence[int],
    epochs: Sequence[int] | None = None,
) -> Writer | None:
    """None where there is more than a token may hold. Remembers what stays, for the next one."""
    layout = _cached_layout(partitions)
    return layout and Writer(layout, offsets, timestamps, epochs or [NO_EPOCH] * len(partitions))


def encode(
    partitions: tuple[Partition, ...],
    offsets: Sequence[int],
    timestamps: Sequence[int],
    epochs: Sequence[int] | None = None,
) -> bytes | None:
    """The token, or None where there is more than one may hold."""
    layout = _layout(partitions)
    known = epochs or [NO_EPOCH] * len(partitions)
    return layout and Writer(layout, offsets, timestamps, known).token()


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


def parse_token(text: str, partitions_max: int = PARTITIONS_MAX) -> list[Entry]:
    """The entries of a token, in its order. Raises InvalidAssignment.

    One of more than `partitions_max` partitions is refused before they are read.
    """
    try:
        body = _body(text.strip())
        with_epochs = text.strip().startswith(PREFIX_WITH_EPOCHS)
        length, start = _read_varint(body, 0)
        if length > len(body) - start:
            raise Fault("its head is cut short")
        groups = _read_head(_inflate(body[start : start + length]), partitions_max)
        return list(_read_values(groups, body[start + length :], with_epochs=with_epochs))
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
    if version + point not in (PREFIX, PREFIX_WITH_EPOCHS):
        raise Fault(f"version {version[:20]} is not known here, only v1 and v2")
    if len(text) > TOKEN_BYTES_MAX:
        raise Fault(f"it is longer than {TOKEN_BYTES_MAX} bytes")
    try:
        body = base64.b64decode(payload + "=" * (-len(payload) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Fault(f"what follows {version}. is not base64url") from None
    if base64.urlsafe_b64encode(body).rstrip(b"=").decode() != payload:
        raise Fault(f"what follows {version}. is not base64url as it is written here")
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


def _read_head(raw: bytes, partitions_max: int) -> list[list[Partition]]:
    count, at = _read_varint(raw, 0)
    if not 0 < count <= partitions_max:
        raise Fault(f"it names no partition, or more than {partitions_max}")
    sizes: list[int] = []
    for _ in range(count):
        size, at = _read_varint(raw, at)
        sizes.append(size)
    if 0 in sizes or sum(sizes) > partitions_max:
        raise Fault(f"it names a topic without partitions, or more than {partitions_max}")
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


def _read_values(
    groups: list[list[Partition]], values: bytes, *, with_epochs: bool
) -> Iterator[Entry]:
    bits = Bits(values)
    partitions = [partition for group in groups for partition in group]
    timestamps = bits.column(len(partitions))
    offsets = [offset for group in groups for offset in bits.column(len(group))]
    if min(offsets) < 0:
        raise Fault("an offset is negative")
    epochs = bits.column(len(partitions)) if with_epochs else [NO_EPOCH] * len(partitions)
    if not NO_EPOCH <= min(epochs) <= max(epochs) <= EPOCH_MAX:
        raise Fault("an epoch is out of range")
    if with_epochs and max(epochs) == NO_EPOCH:
        raise Fault("it has no epochs, and so should be a v1.")
    yield from map(Entry, partitions, offsets, timestamps, epochs)
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
