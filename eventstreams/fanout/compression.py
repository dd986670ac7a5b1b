"""Content encodings whose work is shared: what many clients get is compressed once for all.

A response is made of pieces, and two kinds of pieces can be shared:

- One made by `apart` refers to nothing before it, so anyone may get it at any place: it can be
  cached.
- A `SharedStream` carries its window on from batch to batch, so a batch is right only for those
  that got the one before it, with nothing in between. Its first batch after someone joined is a
  keyframe: that one refers to nothing before it.

So a response is at any time either on its own, where it takes apart pieces, or joined to a stream,
where it gets exactly that stream's batches; `EncodedResponse` asserts it. A batch goes to those who
were joined when it was compressed: compress it and list them without a turn of the loop in between.

Every piece ends at a byte's end with all of it decodable, and goes between any two others:

- gzip (RFC 1952) is one member: a header, deflate blocks, and in the end an empty last block, the
  CRC and length. The CRC of a client is worked out when it leaves a stream, from the stream's own.
- zstd (RFC 8878) is a sequence of frames. A response always stands in an open one, and a piece that
  refers to nothing before it begins with the end of that. The frames name neither their content's
  size nor its checksum, so an empty last block ends each of them anywhere.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections import OrderedDict
from collections.abc import Generator
from enum import Enum
from typing import NamedTuple, Protocol

import cramjam

from eventstreams.fanout.compression_crc import EMPTY, Checksum

_GZIP_LEVEL = 5
"""Half a percent more bytes of real events than level 6, for a fifth less work."""
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time, no system
_GZIP_LAST_BLOCK = b"\x03\0"  # fixed codes, and nothing but the end of the block
_ZSTD_LEVEL = 1
"""As small as at level 3 for these batches; a window of 512 KiB (RFC 9659 allows 8 MiB)."""
_ZSTD_LAST_BLOCK = b"\x01\0\0"  # raw, of no bytes
_KEYFRAME_EVERY_S = 0.25
_SLICE_BYTES = 64 * 2**10
"""What is encoded without a break: gzip takes about 2 ms for it."""


class Encoding(Enum):
    """By the names of HTTP's content codings."""

    IDENTITY = "identity"
    GZIP = "gzip"
    ZSTD = "zstd"


class Sent(NamedTuple):
    """How much a response holds: bytes as encoded, without HTTP's framing."""

    bytes: int = 0
    events: int = 0

    def plus(self, other: Sent) -> Sent:
        return Sent(self.bytes + other.bytes, self.events + other.events)

    def minus(self, other: Sent) -> Sent:
        return Sent(self.bytes - other.bytes, self.events - other.events)


class Piece(NamedTuple):
    """Some bytes, encoded, that hold so many events. `since` and `until` are checksums of the bytes
    before encoding, of all that came before and with these after it; empty where the encoding ends
    without one."""

    encoding: Encoding
    content: bytes
    since: Checksum
    until: Checksum
    events: int = 0

    @property
    def sent(self) -> Sent:
        return Sent(len(self.content), self.events)


Steps = Generator[None, None, Piece]
"""Makes a piece, and yields wherever the event loop may do something else."""


def apart_in_steps(encoding: Encoding, body: bytes, events: int = 0) -> Steps:
    """Encode so that it can go anywhere in anyone's response."""
    assert body
    content = yield from _keyframe(encoding, _encoder(encoding), body)
    return Piece(encoding, content, EMPTY, _with(encoding, EMPTY, body), events)


def apart(encoding: Encoding, body: bytes, events: int = 0) -> Piece:
    """The same at once, for what is short."""
    return finished(apart_in_steps(encoding, body, events))


def finished(steps: Steps) -> Piece:
    """Take all steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            piece: Piece = done.value
            return piece


class SharedStream:
    """What the members of one cohort get, beside what each got before it joined.

    Its window is some 300 KiB of gzip's state, or 600 KiB of zstd's, from its first batch on.
    """

    def __init__(self, encoding: Encoding, windows: Windows) -> None:
        self.encoding = encoding
        self._windows = windows
        self.checksum = EMPTY
        self.checksum_before = EMPTY
        """As it was before the last batch."""
        self.sent = Sent()
        """To one who has been here from its first batch on."""
        self.sent_before = Sent()
        self.keyframe_at = -_KEYFRAME_EVERY_S
        """When the last one was made, by the monotonic clock."""
        self._encoder: _Encoder | None = None
        self._is_encoding = False

    @property
    def keyframe_due(self) -> bool:
        """Whether the next batch refers to nothing before it."""
        return self._encoder is None

    @property
    def admits(self) -> bool:
        """Whether someone may join now. A keyframe is long, and goes to all: many who come and go
        must not make every batch one. Who joined while a batch is encoded would miss it."""
        return not self._is_encoding and (
            self._encoder is None
            or self.encoding is Encoding.IDENTITY
            or time.monotonic() - self.keyframe_at >= _KEYFRAME_EVERY_S
        )

    def expect_member(self) -> None:
        """The next batch has to be one to begin with."""
        self._encoder = None
        self._windows.drop(self)

    def compress(self, body: bytes, events: int = 0) -> Steps:
        """Make the next batch, for all members there are at the first step."""
        assert body
        assert not self._is_encoding
        self._is_encoding = True
        try:
            self.checksum_before, self.sent_before = self.checksum, self.sent
            self.checksum = _with(self.encoding, self.checksum, body)
            if self._encoder is not None:
                content = yield from self._encoder.encode(body)
            else:
                fresh = self._encoder = _encoder(self.encoding)
                self.keyframe_at = time.monotonic()
                content = yield from _keyframe(self.encoding, fresh, body)
        finally:
            self._is_encoding = False
        if not self.keyframe_due:  # its window was not dropped meanwhile
            self._windows.use(self)
        piece = Piece(self.encoding, content, self.checksum_before, self.checksum, events)
        self.sent = self.sent_before.plus(piece.sent)
        return piece


class Windows:
    """Which streams keep their windows: those used last, because many cohorts are of few."""

    def __init__(self, count_max: int = 256) -> None:
        self._count_max = count_max
        self._streams: OrderedDict[SharedStream, None] = OrderedDict()

    def use(self, stream: SharedStream) -> None:
        if stream.encoding is Encoding.IDENTITY:
            return
        self._streams[stream] = None
        self._streams.move_to_end(stream)
        if len(self._streams) > self._count_max:
            next(iter(self._streams)).expect_member()

    def drop(self, stream: SharedStream) -> None:
        self._streams.pop(stream, None)


class EncodedResponse:
    """One client's response: what has to be known of it to go on, and to end it."""

    __slots__ = ("_got", "_joined_at", "_sent", "_stream", "encoding")

    def __init__(self, first: Piece, size: int) -> None:
        """Of a client that gets what `begin` makes of the same, of so many bytes."""
        self.encoding = first.encoding
        self._got = first.until
        self._sent = Sent(size, first.events)
        """While joined: less what the stream had sent before."""
        self._stream: SharedStream | None = None
        self._joined_at = EMPTY

    @property
    def sent(self) -> Sent:
        """So far, with the batch that is being written to those who are joined."""
        return self._sent if self._stream is None else self._sent.plus(self._stream.sent)

    def took(self, piece: Piece) -> None:
        """It was sent: one apart, or a batch of the stream that was left before it was sent."""
        assert self._stream is None
        assert piece.encoding is self.encoding
        self._got = self._got.extended(piece.since, piece.until)
        self._sent = self._sent.plus(piece.sent)

    def join(self, stream: SharedStream) -> None:
        """From the stream's next batch on, which will be a keyframe."""
        assert self._stream is None
        assert stream.encoding is self.encoding
        stream.expect_member()
        self._stream = stream
        self._joined_at = stream.checksum
        self._sent = self._sent.minus(stream.sent)

    def leave(self, *, missed_last: bool = False) -> None:
        """Behind the stream's last batch, or before it if that was made but not sent here."""
        stream = self._stream
        assert stream is not None
        until = stream.checksum_before if missed_last else stream.checksum
        self._got = self._got.extended(self._joined_at, until)
        self._sent = self._sent.plus(stream.sent_before if missed_last else stream.sent)
        self._stream = None

    def finish(self, last: bytes = b"") -> bytes:
        """The clean end, behind these bytes; nothing may be sent after it."""
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
    """A response, and what it begins with: these bytes."""
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
    """The first piece of an encoder, to go after any other piece."""
    content = yield from fresh.encode(body)
    return _ZSTD_LAST_BLOCK + content if encoding is Encoding.ZSTD else content


class _Encoder(Protocol):
    def encode(self, body: bytes) -> Generator[None, None, bytes]:
        """All of it, decodable at once, on the window of what was encoded before."""
        ...


class _Identity:
    def encode(self, body: bytes) -> Generator[None, None, bytes]:
        yield from ()
        return body


class _Deflate:
    def __init__(self) -> None:
        self._compress = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)

    def encode(self, body: bytes) -> Generator[None, None, bytes]:
        parts = [self._compress.compress(body[:_SLICE_BYTES])]
        for start in range(_SLICE_BYTES, len(body), _SLICE_BYTES):
            yield
            parts.append(self._compress.compress(body[start : start + _SLICE_BYTES]))
        parts.append(self._compress.flush(zlib.Z_SYNC_FLUSH))
        return b"".join(parts)


class _Zstd:
    def __init__(self) -> None:
        self._compressor = cramjam.zstd.Compressor(_ZSTD_LEVEL)

    def encode(self, body: bytes) -> Generator[None, None, bytes]:
        self._compressor.compress(body[:_SLICE_BYTES])
        for start in range(_SLICE_BYTES, len(body), _SLICE_BYTES):
            yield
            self._compressor.compress(body[start : start + _SLICE_BYTES])
        return bytes(self._compressor.flush())


def _encoder(encoding: Encoding) -> _Encoder:
    match encoding:
        case Encoding.IDENTITY:
            return _Identity()
        case Encoding.GZIP:
            return _Deflate()
        case Encoding.ZSTD:
            return _Zstd()
