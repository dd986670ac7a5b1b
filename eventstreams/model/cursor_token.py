"""An id as a short token, for positions whose JSON would be long: `v1.` or `v2.` and base64url of

    length of the head (varint) | head | values | CRC-32 of everything before it (4 bytes)

The head does not change while a stream runs. It is a raw deflate stream of the number of groups (a
group is a run of partitions of one topic), the size of each group, the number of each partition as
a delta, and the names of the topics, separated by 0xff. So a token is complete.

The values are bits; a leading 1 marks where they begin. They are a column of timestamps and a
column of offsets for each group (see columns.py). A token with the prefix `v2.` has another column:
the leader epochs, -1 where an epoch is not known. If no epoch is known, the prefix is `v1.`.

Equal positions have equal tokens, whichever events led to them.
"""

from __future__ import annotations

import base64
import binascii
import operator
import zlib
from bisect import bisect_right
from collections.abc import Generator, Sequence
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

from eventstreams.errors import InvalidAssignment
from eventstreams.model.columns import Bits, Code, Column, Fault, int64, joined, unzigzag, zigzag
from eventstreams.model.epochs import EPOCH_MAX, NO_EPOCH
from eventstreams.model.event import Partition
from eventstreams.model.steps import finished

PREFIX = "v1."
PREFIX_WITH_EPOCHS = "v2."
PARTITIONS_MAX = 10_000
HEAD_BYTES_MAX = 256 * 1024
"""The largest head after inflation: a short token must not take much memory."""
TOKEN_BYTES_MAX = 512 * 1024
_CRC_BYTES = 4
_VARINT_BITS_MAX = 70
_STEP_TO_WRITE = 1024
"""How many partitions are written in one step."""
_LAYOUTS_MAX = 64
_ONE_BYTE = [bytes([value]) for value in range(128)]
"""The varints of small numbers."""
_STEP = 256
"""How many partitions are read in one step, which takes about half a millisecond."""
_SEPARATOR = b"\xff"  # does not occur in UTF-8


class Entry(NamedTuple):
    """A position's values for one partition."""

    partition: Partition
    offset: int
    timestamp_ms: int
    epoch: int = NO_EPOCH


class _Layout(NamedTuple):
    head: bytes
    """The head, preceded by its length."""
    sizes: tuple[int, ...]
    """How many partitions each group has."""


class TokenEncoder:
    """Makes the tokens of a position that changes, and encodes only what each event changes."""

    __slots__ = ("_codes", "_columns", "_epochs", "_head", "_known_epochs", "_starts", "_times")

    def __init__(self, layout: _Layout) -> None:
        """Create an encoder; `fill` must be run before it is used."""
        self._head, sizes = layout
        self._starts = list(accumulate(sizes, initial=0))
        """The index of the first partition of each group, and the number of partitions."""
        self._columns: list[Column] = []
        self._codes = [Code(1, 1)]

    def fill(
        self, offsets: Sequence[int], timestamps: Sequence[int], epochs: Sequence[int]
    ) -> Generator[None]:
        """Encode all values, in steps."""
        self._known_epochs = sum(epoch != NO_EPOCH for epoch in epochs)
        self._times = yield from self._encoded(timestamps)
        values = 0
        for first, end in pairwise(self._starts):
            column = yield from self._encoded(offsets[first:end])
            self._columns.append(column)
            values += len(column)
            if values >= _STEP:
                values = 0
                yield
        self._epochs = yield from self._encoded(epochs)

    def _encoded(self, values: Sequence[int]) -> Generator[None, None, Column]:
        column = Column(values)
        yield from column.encode()
        self._codes.append(column.code)
        return column

    def move(self, index: int, offset: int, timestamp_ms: int, epoch: int = NO_EPOCH) -> None:
        group = bisect_right(self._starts, index) - 1
        self._codes[1] = self._times.move(index, timestamp_ms)
        self._codes[group + 2] = self._columns[group].move(index - self._starts[group], offset)
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
) -> Generator[None, None, TokenEncoder | None]:
    """Make an encoder in steps; return it, or None if the position does not fit in a token.

    The heads of the last positions are cached.
    """
    layout = yield from _layout(partitions)
    if layout is None:
        return None
    encoder = TokenEncoder(layout)
    yield from encoder.fill(offsets, timestamps, epochs or [NO_EPOCH] * len(partitions))
    return encoder


def encode(
    partitions: tuple[Partition, ...],
    offsets: Sequence[int],
    timestamps: Sequence[int],
    epochs: Sequence[int] | None = None,
) -> bytes | None:
    """Return the token of a position, or None if it does not fit in one."""
    encoder = finished(writer(partitions, offsets, timestamps, epochs))
    return None if encoder is None else encoder.token()


def _layout(partitions: tuple[Partition, ...]) -> Generator[None, None, _Layout | None]:
    if not 0 < len(partitions) <= PARTITIONS_MAX:
        return None
    if partitions in _layouts:
        layout = _layouts[partitions] = _layouts.pop(partitions)  # the newest, again
        return layout
    layout = yield from _new_layout(partitions)
    if len(_layouts) >= _LAYOUTS_MAX:
        del _layouts[next(iter(_layouts))]
    _layouts[partitions] = layout
    return layout


def _new_layout(partitions: tuple[Partition, ...]) -> Generator[None, None, _Layout | None]:
    names: list[bytes] = []
    sizes: list[int] = []
    numbers: list[bytes] = []
    expected = 0
    for first in range(0, len(partitions), _STEP_TO_WRITE):
        if first:
            yield
        for topic, mine in groupby(partitions[first : first + _STEP_TO_WRITE], _topic):
            if not names or names[-1] != topic.encode():  # a step may end within a group
                names.append(topic.encode())
                sizes.append(0)
                expected = 0
            for _, number in mine:
                delta = zigzag(number - expected)
                numbers.append(_ONE_BYTE[delta] if delta < 128 else _varint(delta))
                expected = number + 1
                sizes[-1] += 1
    raw = b"".join([_varint(len(names)), *map(_varint, sizes), *numbers, _SEPARATOR.join(names)])
    if len(raw) > HEAD_BYTES_MAX:
        return None
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    head = deflate.compress(raw) + deflate.flush()
    return _Layout(_varint(len(head)) + head, tuple(sizes))


_topic = operator.attrgetter("topic")
_layouts: dict[tuple[Partition, ...], _Layout | None] = {}
"""The layouts of the last positions that were encoded."""


def is_token(text: str) -> bool:
    """Return whether the text is a token, of any version. No JSON begins with a v."""
    return text.lstrip().startswith("v")


def read_token(
    text: str, partitions_max: int = PARTITIONS_MAX
) -> Generator[None, None, list[Entry]]:
    """Read the entries of a token, in its order, in steps of about a millisecond.

    Raises InvalidAssignment; if it has more than `partitions_max` partitions, before reading them.
    """
    try:
        body = _body(text.strip())
        with_epochs = text.strip().startswith(PREFIX_WITH_EPOCHS)
        length, start = _read_varint(body, 0)
        if length > len(body) - start:
            raise Fault("its head is truncated")
        groups = yield from _read_head(_inflate(body[start : start + length]), partitions_max)
        return (yield from _read_values(groups, body[start + length :], with_epochs=with_epochs))
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
        raise Fault(f"version {version[:20]} is not supported, only v1 and v2")
    if len(text) > TOKEN_BYTES_MAX:
        raise Fault(f"it is longer than {TOKEN_BYTES_MAX} bytes")
    not_canonical = Fault(f"what follows {version}. is not in the canonical form of base64url")
    if payload.endswith("="):  # Python 3.13 refuses some padding that other versions accept
        raise not_canonical
    try:
        body = base64.b64decode(payload + "=" * (-len(payload) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Fault(f"what follows {version}. is not base64url") from None
    if base64.urlsafe_b64encode(body).rstrip(b"=").decode() != payload:
        raise not_canonical
    checksum = zlib.crc32(body[:-_CRC_BYTES]).to_bytes(_CRC_BYTES, "big")
    if len(body) <= _CRC_BYTES or body[-_CRC_BYTES:] != checksum:
        raise Fault("it is damaged or truncated: its checksum does not match")
    return body[:-_CRC_BYTES]


def _inflate(head: bytes) -> bytes:
    inflate = zlib.decompressobj(-15)
    try:
        raw = inflate.decompress(head, HEAD_BYTES_MAX + 1)
    except zlib.error:
        raise Fault("its head cannot be inflated") from None
    if len(raw) > HEAD_BYTES_MAX:
        raise Fault(f"its head inflates to more than {HEAD_BYTES_MAX} bytes")
    if not inflate.eof or inflate.unused_data:
        raise Fault("its head is cut or followed by other bytes")
    return raw


def _read_head(raw: bytes, partitions_max: int) -> Generator[None, None, list[list[Partition]]]:
    count, at = _read_varint(raw, 0)
    if not 0 < count <= partitions_max:
        raise Fault(f"it names no partition, or more than {partitions_max}")
    sizes: list[int] = []
    for n in range(count):
        size, at = _read_varint(raw, at)
        sizes.append(size)
        if n % _STEP == _STEP - 1:
            yield
    if 0 in sizes or sum(sizes) > partitions_max:
        raise Fault(f"it names a topic without partitions, or more than {partitions_max}")
    numbers: list[int] = []
    for size in sizes:
        expected = 0
        for _ in range(size):
            delta, at = _read_varint(raw, at)
            numbers.append(int64(unzigzag(delta) + expected))
            expected = numbers[-1] + 1
            if len(numbers) % _STEP == 0:
                yield
    try:
        names = [name.decode() for name in raw[at:].split(_SEPARATOR)]
    except UnicodeDecodeError:
        raise Fault("a topic's name is not UTF-8") from None
    if len(names) != count or not all(names):
        raise Fault("it has more or fewer names than topics, or an empty name")
    groups: list[list[Partition]] = []
    first = steps = 0
    for name, size in zip(names, sizes, strict=True):
        groups.append([])
        while len(groups[-1]) < size:
            step = min(_STEP, size - len(groups[-1]))
            groups[-1] += [Partition(name, number) for number in numbers[first : first + step]]
            first += step
            if first // _STEP > steps:
                steps = first // _STEP
                yield
    return groups


def _read_values(
    groups: list[list[Partition]], values: bytes, *, with_epochs: bool
) -> Generator[None, None, list[Entry]]:
    bits = Bits(values)
    partitions = [partition for group in groups for partition in group]
    timestamps = yield from bits.column(len(partitions))
    offsets: list[int] = []
    for n, group in enumerate(groups):
        offsets += yield from bits.column(len(group))
        if n % _STEP == _STEP - 1:
            yield
    if min(offsets) < 0:
        raise Fault("an offset is negative")
    epochs = [NO_EPOCH] * len(partitions)
    if with_epochs:
        epochs = yield from bits.column(len(partitions))
    if not NO_EPOCH <= min(epochs) <= max(epochs) <= EPOCH_MAX:
        raise Fault("an epoch is out of range")
    if with_epochs and max(epochs) == NO_EPOCH:
        raise Fault("it contains no epochs, so it should be a v1 token")
    if not bits.at_end:
        raise Fault("there are more bytes after its values")
    entries: list[Entry] = []
    for first in range(0, len(partitions), _STEP):
        if first:
            yield
        part = slice(first, first + _STEP)
        entries += map(Entry, partitions[part], offsets[part], timestamps[part], epochs[part])
    return entries


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where the next one begins. Raises Fault."""
    value = shift = 0
    while at < len(data) and shift < _VARINT_BITS_MAX:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Fault("a number in it is truncated")
