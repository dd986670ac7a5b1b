"""Content encodings whose work is shared: what many clients get is compressed once for all.

A response is made of pieces, and two kinds of pieces can be shared:

- An `Apart` refers to nothing before it, so anyone may get it at any place: it can be cached.
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
import zlib
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


class Encoding(Enum):
    """By the names of HTTP's content codings."""

    IDENTITY = "identity"
    GZIP = "gzip"
    ZSTD = "zstd"


class Apart(NamedTuple):
    """Some bytes, encoded so that they can go anywhere in anyone's response."""

    encoding: Encoding
    content: bytes
    checksum: Checksum
    """Of the bytes before encoding; empty where the encoding ends without one."""


def apart(encoding: Encoding, body: bytes) -> Apart:
    """Encodes without a window. Takes around a millisecond for 128 KiB of events."""
    assert body
    content = _keyframe(encoding, _encoder(encoding), body)
    return Apart(encoding, content, _with(encoding, EMPTY, body))


class SharedStream:
    """What the members of one cohort get, beside what each got before it joined.

    Holds some 300 KiB of gzip's state, or 600 KiB of zstd's, from its first batch on.
    """

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.checksum = EMPTY
        self.checksum_before = EMPTY
        """As it was before the last batch."""
        self._encoder: _Encoder | None = None

    @property
    def keyframe_due(self) -> bool:
        """Whether the next batch refers to nothing before it."""
        return self._encoder is None

    def expect_member(self) -> None:
        """The next batch has to be one to begin with."""
        self._encoder = None

    def compress(self, body: bytes) -> bytes:
        """The next batch, for all members there are now; nothing for nothing."""
        self.checksum_before = self.checksum
        if not body:
            return b""
        self.checksum = _with(self.encoding, self.checksum, body)
        if self._encoder is not None:
            return self._encoder.encode(body)
        self._encoder = _encoder(self.encoding)
        return _keyframe(self.encoding, self._encoder, body)


class EncodedResponse:
    """One client's response: what has to be known of it to go on, and to end it."""

    __slots__ = ("_encoding", "_got", "_joined_at", "_stream")

    def __init__(self, first: Apart) -> None:
        """Of a client that gets what `begin` makes of the same."""
        self._encoding = first.encoding
        self._got = first.checksum
        self._stream: SharedStream | None = None
        self._joined_at = EMPTY

    def take(self, piece: Apart) -> bytes:
        """What to send of it, next."""
        assert self._stream is None
        assert piece.encoding is self._encoding
        self._got = self._got.extended(EMPTY, piece.checksum)
        return piece.content

    def join(self, stream: SharedStream) -> None:
        """From the stream's next batch on, which will be a keyframe."""
        assert self._stream is None
        assert stream.encoding is self._encoding
        stream.expect_member()
        self._stream = stream
        self._joined_at = stream.checksum

    def leave(self, *, missed_last: bool = False) -> None:
        """Behind the stream's last batch, or before it if that was made but not sent here."""
        stream = self._stream
        assert stream is not None
        until = stream.checksum_before if missed_last else stream.checksum
        self._got = self._got.extended(self._joined_at, until)
        self._stream = None

    def finish(self) -> bytes:
        """The clean end, after which nothing may be sent."""
        assert self._stream is None
        if self._encoding is Encoding.GZIP:
            trailer = struct.pack("<II", self._got.crc, self._got.length & 0xFFFFFFFF)
            return _GZIP_LAST_BLOCK + trailer
        return _ZSTD_LAST_BLOCK if self._encoding is Encoding.ZSTD else b""


def begin(first: Apart) -> tuple[EncodedResponse, bytes]:
    """A response, and the bytes it begins with: those of `first` are among them."""
    content = first.content
    if first.encoding is Encoding.GZIP:
        content = _GZIP_HEADER + content
    elif first.encoding is Encoding.ZSTD:
        content = content.removeprefix(_ZSTD_LAST_BLOCK)  # no frame is open yet
    return EncodedResponse(first), content


def _with(encoding: Encoding, checksum: Checksum, body: bytes) -> Checksum:
    return checksum.over(body) if encoding is Encoding.GZIP else checksum


def _keyframe(encoding: Encoding, fresh: _Encoder, body: bytes) -> bytes:
    """The first piece of an encoder, to go after any other piece."""
    content = fresh.encode(body)
    return _ZSTD_LAST_BLOCK + content if encoding is Encoding.ZSTD else content


class _Encoder(Protocol):
    def encode(self, body: bytes) -> bytes:
        """All of it, decodable at once, on the window of what was encoded before."""
        ...


class _Identity:
    def encode(self, body: bytes) -> bytes:
        return body


class _Deflate:
    def __init__(self) -> None:
        self._compress = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)

    def encode(self, body: bytes) -> bytes:
        return self._compress.compress(body) + self._compress.flush(zlib.Z_SYNC_FLUSH)


class _Zstd:
    def __init__(self) -> None:
        self._compressor = cramjam.zstd.Compressor(_ZSTD_LEVEL)

    def encode(self, body: bytes) -> bytes:
        self._compressor.compress(body)
        return bytes(self._compressor.flush())


def _encoder(encoding: Encoding) -> _Encoder:
    match encoding:
        case Encoding.IDENTITY:
            return _Identity()
        case Encoding.GZIP:
            return _Deflate()
        case Encoding.ZSTD:
            return _Zstd()
