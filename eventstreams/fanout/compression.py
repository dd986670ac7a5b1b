"""Content encodings whose work is shared: bytes for many clients are compressed once.

A response consists of pieces. Two kinds of pieces can be shared:

- A piece made by `apart` does not refer to earlier bytes. It can be cached and sent to any client
  at any time.
- A batch of a `SharedStream` refers to the stream's earlier batches, so it is valid only for
  clients that received the previous batch and nothing since. The first batch after a client joined
  is a keyframe, which does not refer to earlier bytes.

At any time a response is therefore either independent, and takes pieces made by `apart`, or joined
to a stream, and takes exactly that stream's batches; `EncodedResponse` asserts this. A batch goes
to the clients that were joined when its compression began: list them and begin compressing without
an `await` in between.

Every piece ends on a byte boundary, can be decoded completely, and can be followed by any other:

- gzip (RFC 1952) is one member: a header, deflate blocks, and at the end an empty last block, the
  CRC and the length. A client's CRC is derived from the stream's when the client leaves the stream.
- zstd (RFC 8878) is a sequence of frames. A response always has an open frame, and a piece that
  does not refer to earlier bytes begins by ending that frame. The frames state neither their
  content's size nor its checksum, so an empty last block can end each of them at any place.
"""

from __future__ import annotations

import functools
import math
import struct
import time
import zlib
from collections import OrderedDict
from collections.abc import Generator
from enum import Enum
from typing import NamedTuple, Protocol

import cramjam

from eventstreams.fanout.timing import Timing
from eventstreams.model.steps import finished

_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31
_X = 1 << 30
_BYTE_LOG2 = 3


class Checksum(NamedTuple):
    """The CRC32 and the number of all bytes so far, before encoding."""

    crc: int
    length: int

    def over(self, body: bytes) -> Checksum:
        """Return the checksum of these bytes followed by `body`."""
        return Checksum(zlib.crc32(body, self.crc), self.length + len(body))

    def extended(self, since: Checksum, until: Checksum) -> Checksum:
        """Return the checksum of these bytes followed by those between `since` and `until`."""
        length = until.length - since.length
        assert length >= 0
        if length == 0:
            return self
        # CRCs are linear: only the difference of the prefixes, shifted by `length`, remains.
        before = _times(self.crc ^ since.crc, _power_of_bytes(length))
        return Checksum(until.crc ^ before, self.length + length)


EMPTY = Checksum(0, 0)


def _times(a: int, b: int) -> int:
    """Return the product of two polynomials modulo the CRC's, in reflected bit order."""
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
    """Return x^(2^n) for every n below 32; x^(2^32) is x again."""
    powers = [_X]
    while len(powers) < 32:
        powers.append(_times(powers[-1], powers[-1]))
    return tuple(powers)


_SQUARES = _squares()


@functools.lru_cache(maxsize=1024)  # many clients take the same batch
def _power_of_bytes(count: int) -> int:
    """Return x^(8 * count)."""
    power = _ONE
    n = _BYTE_LOG2
    while count:
        if count & 1:
            power = _times(power, _SQUARES[n % 32])
        count >>= 1
        n += 1
    return power


_GZIP_LEVEL = 5
"""Produces half a percent more bytes of real events than level 6, for a fifth less work."""
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time, no system
_GZIP_LAST_BLOCK = b"\x03\0"  # fixed codes, and nothing but the end of the block
_ZSTD_LEVEL = 1
"""Compresses these batches as well as level 3; its window is 512 KiB (RFC 9659 allows 8 MiB)."""
_ZSTD_LAST_BLOCK = b"\x01\0\0"  # raw, of no bytes


class Encoding(Enum):
    """The supported content codings, by their names in HTTP."""

    IDENTITY = "identity"
    GZIP = "gzip"
    ZSTD = "zstd"


class Sent(NamedTuple):
    """How much was sent: encoded bytes, without HTTP's framing, and events."""

    bytes: int = 0
    events: int = 0

    def plus(self, other: Sent) -> Sent:
        return Sent(self.bytes + other.bytes, self.events + other.events)

    def minus(self, other: Sent) -> Sent:
        return Sent(self.bytes - other.bytes, self.events - other.events)


class EncodedBody(NamedTuple):
    """One piece of a response, encoded.

    `since` and `until` are the checksums of all bytes before this piece and up to its end, before
    encoding. They stay EMPTY for encodings that do not end with a checksum.
    """

    encoding: Encoding
    content: bytes
    since: Checksum
    until: Checksum
    events: int = 0

    @property
    def sent(self) -> Sent:
        return Sent(len(self.content), self.events)


Steps = Generator[None, None, EncodedBody]
"""Produces a piece; each `yield` is a point at which other work can proceed."""


def apart_in_steps(encoding: Encoding, body: bytes, events: int = 0) -> Steps:
    """Encode `body`, in steps, as a piece that can go anywhere in any response."""
    assert body
    content = yield from _keyframe(encoding, _encoder(encoding), body)
    return EncodedBody(encoding, content, EMPTY, _with(encoding, EMPTY, body), events)


def apart(encoding: Encoding, body: bytes, events: int = 0) -> EncodedBody:
    """Encode `body` like `apart_in_steps`, but at once. Only for short bodies."""
    return finished(apart_in_steps(encoding, body, events))


class SharedStream:
    """The compressed batches that all members of one cohort receive.

    While it keeps a compression window, a stream takes about 300 KiB for gzip and 600 KiB for zstd.
    A cohort keeps one from its first batch of events until its next heartbeat.
    """

    def __init__(self, encoding: Encoding, windows: CompressionWindows) -> None:
        self.encoding = encoding
        self._windows = windows
        self.checksum = EMPTY
        self.checksum_before = EMPTY
        """The checksum before the last batch."""
        self.sent = Sent()
        """Total since the stream's first batch."""
        self.sent_before = Sent()
        self.keyframe_at = -math.inf
        """When the last keyframe was made, by the monotonic clock, in seconds."""
        self._encoder: _Encoder | None = None
        self._is_encoding = False

    @property
    def keyframe_due(self) -> bool:
        """Whether the next batch will be a keyframe."""
        return self._encoder is None

    @property
    def admits(self) -> bool:
        """Whether a client may join now.

        A keyframe is large and goes to all members, so frequent joins must not turn every batch
        into one. A client that joined while a batch is encoded would miss that batch.
        """
        return not self._is_encoding and (
            self._encoder is None
            or self.encoding is Encoding.IDENTITY
            or time.monotonic() - self.keyframe_at >= self._windows.keyframe_every_s
        )

    def expect_member(self) -> None:
        """Make the next batch a keyframe, and release the compression window."""
        self._encoder = None
        self._windows.drop(self)

    def _fresh(self) -> _Encoder:
        return _encoder(self.encoding, self._windows.step_bytes)

    def compress(self, body: bytes, events: int = 0, *, keeps_window: bool = True) -> Steps:
        """Compress the next batch, for the clients that are joined at the first step.

        Without `keeps_window`, the window is released, and this batch does not refer to others.
        """
        assert body
        assert not self._is_encoding
        self._is_encoding = True
        try:
            self.checksum_before, self.sent_before = self.checksum, self.sent
            self.checksum = _with(self.encoding, self.checksum, body)
            if not keeps_window:
                self.expect_member()
                content = yield from _keyframe(self.encoding, self._fresh(), body)
            elif self._encoder is not None:
                content = yield from self._encoder.encode(body)
            else:
                fresh = self._encoder = self._fresh()
                self.keyframe_at = time.monotonic()
                content = yield from _keyframe(self.encoding, fresh, body)
        finally:
            self._is_encoding = False
        if not self.keyframe_due:  # the window was not released meanwhile
            self._windows.use(self)
        piece = EncodedBody(self.encoding, content, self.checksum_before, self.checksum, events)
        self.sent = self.sent_before.plus(piece.sent)
        return piece


class CompressionWindows:
    """Limits how many streams keep a compression window: the most recently used ones do."""

    def __init__(self, count_max: int = 256, *, timing: Timing | None = None) -> None:
        """Let `count_max` streams keep a window."""
        timing = timing or Timing()
        self.keyframe_every_s = timing.keyframe_every_s
        self.step_bytes = timing.encoded_bytes
        self._count_max = count_max
        self._streams: OrderedDict[SharedStream, None] = OrderedDict()

    def use(self, stream: SharedStream) -> None:
        """Record that the stream was used; the least recently used may lose its window."""
        if stream.encoding is Encoding.IDENTITY:
            return
        self._streams[stream] = None
        self._streams.move_to_end(stream)
        if len(self._streams) > self._count_max:
            next(iter(self._streams)).expect_member()

    def drop(self, stream: SharedStream) -> None:
        """Record that the stream has released its window."""
        self._streams.pop(stream, None)


class EncodedResponse:
    """The state of one client's response that is needed to continue and to end it."""

    __slots__ = ("_got", "_joined_at", "_sent", "_stream", "encoding")

    def __init__(self, first: EncodedBody, size: int) -> None:
        """Create the state after `first` was sent as `size` bytes; use `begin`."""
        self.encoding = first.encoding
        self._got = first.until
        self._sent = Sent(size, first.events)
        """While joined, this excludes the stream's total, which `sent` adds."""
        self._stream: SharedStream | None = None
        self._joined_at = EMPTY

    @property
    def sent(self) -> Sent:
        """The total so far, including the batch that is being written if this is joined."""
        return self._sent if self._stream is None else self._sent.plus(self._stream.sent)

    def took(self, piece: EncodedBody) -> None:
        """Record that a piece was sent while the response was not joined to a stream.

        The piece comes from `apart`, or is the last batch of the stream that the response left.
        """
        assert self._stream is None
        assert piece.encoding is self.encoding
        self._got = self._got.extended(piece.since, piece.until)
        self._sent = self._sent.plus(piece.sent)

    def join(self, stream: SharedStream) -> None:
        """Join a stream from its next batch on, which will be a keyframe."""
        assert self._stream is None
        assert stream.encoding is self.encoding
        stream.expect_member()
        self._stream = stream
        self._joined_at = stream.checksum
        self._sent = self._sent.minus(stream.sent)

    def leave(self, *, missed_last: bool = False) -> None:
        """Leave the stream after its last batch; before it, if this client has not received it."""
        stream = self._stream
        assert stream is not None
        until = stream.checksum_before if missed_last else stream.checksum
        self._got = self._got.extended(self._joined_at, until)
        self._sent = self._sent.plus(stream.sent_before if missed_last else stream.sent)
        self._stream = None

    def finish(self, last: bytes = b"") -> bytes:
        """Return `last`, encoded, and the end of the encoding. Nothing may be sent after it."""
        content = b""
        if last:
            piece = apart(self.encoding, last)
            self.took(piece)
            content = piece.content
        assert self._stream is None
        if self.encoding is Encoding.GZIP:
            trailer = struct.pack("<II", self._got.crc, self._got.length & 0xFFFFFFFF)
            end = _GZIP_LAST_BLOCK + trailer
        else:
            end = _ZSTD_LAST_BLOCK if self.encoding is Encoding.ZSTD else b""
        self._sent = self._sent.plus(Sent(len(end)))
        return content + end


def begin(encoding: Encoding, first: bytes) -> tuple[EncodedResponse, bytes]:
    """Return a new response and its first encoded bytes, which hold `first`."""
    piece = apart(encoding, first)
    content = piece.content
    if encoding is Encoding.GZIP:
        content = _GZIP_HEADER + content
    elif encoding is Encoding.ZSTD:
        content = content.removeprefix(_ZSTD_LAST_BLOCK)  # no frame is open yet
    return EncodedResponse(piece, len(content)), content


def _with(encoding: Encoding, checksum: Checksum, body: bytes) -> Checksum:
    return checksum.over(body) if encoding is Encoding.GZIP else checksum


def _keyframe(encoding: Encoding, fresh: _Encoder, body: bytes) -> Generator[None, None, bytes]:
    """Encode the first piece of an encoder, so that it can follow any other piece."""
    content = yield from fresh.encode(body)
    return _ZSTD_LAST_BLOCK + content if encoding is Encoding.ZSTD else content


class _Encoder(Protocol):
    def encode(self, body: bytes) -> Generator[None, None, bytes]:
        """Encode `body`, decodable to its end, using the window of earlier calls."""
        ...


class _Identity:
    def encode(self, body: bytes) -> Generator[None, None, bytes]:
        yield from ()
        return body


class _Deflate:
    def __init__(self, step_bytes: int) -> None:
        self._step_bytes = step_bytes
        self._compress = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)

    def encode(self, body: bytes) -> Generator[None, None, bytes]:
        step = self._step_bytes
        parts = [self._compress.compress(body[:step])]
        for start in range(step, len(body), step):
            yield
            parts.append(self._compress.compress(body[start : start + step]))
        parts.append(self._compress.flush(zlib.Z_SYNC_FLUSH))
        return b"".join(parts)


class _Zstd:
    def __init__(self, step_bytes: int) -> None:
        self._step_bytes = step_bytes
        self._compressor = cramjam.zstd.Compressor(_ZSTD_LEVEL)

    def encode(self, body: bytes) -> Generator[None, None, bytes]:
        step = self._step_bytes
        self._compressor.compress(body[:step])
        for start in range(step, len(body), step):
            yield
            self._compressor.compress(body[start : start + step])
        return bytes(self._compressor.flush())


def _encoder(encoding: Encoding, step_bytes: int = Timing.encoded_bytes) -> _Encoder:
    match encoding:
        case Encoding.IDENTITY:
            return _Identity()
        case Encoding.GZIP:
            return _Deflate(step_bytes)
        case Encoding.ZSTD:
            return _Zstd(step_bytes)
