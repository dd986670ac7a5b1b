"""The content of a compressed body, in small steps: gzip, all members of it, or deflate."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from eventstreams.errors import BadBody, BodyTooLarge

_TAKEN_BYTES = 4 * 1024
"""Of the body in one step. What follows a member is copied, so more would make many small members
expensive."""
_GIVEN_BYTES_MAX = 64 * 1024
"""Of the content in one step."""
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": 15}

CODINGS = ("identity", *_WINDOW_BITS)


def unpack(body: bytes, coding: str, bytes_max: int) -> Iterator[bytes]:
    """Yield the content piece by piece, so that the caller can let others run between pieces.

    A gzip body may have several members (RFC 1952, 2.2); zeros after the last one are padding.
    Raises BadBody where the body is not of this coding, and BodyTooLarge as soon as the content
    has more than `bytes_max` bytes.
    """
    bits = _WINDOW_BITS[coding]
    member = zlib.decompressobj(bits)
    at = size = 0
    rest = b""
    what = f"not {coding}"
    while True:
        if not rest:
            rest = body[at : at + _TAKEN_BYTES]
            at += len(rest)
        if member.eof:
            rest = rest.lstrip(b"\0")
            if not rest and at >= len(body):
                return
            if not rest:
                continue
            what = f"bytes after the end of the {coding}"
            if coding == "deflate":  # which has no members
                raise BadBody(what)
            member = zlib.decompressobj(bits)
        elif not rest:
            raise BadBody(f"the {coding} ends early")
        try:
            piece = member.decompress(rest, _GIVEN_BYTES_MAX)
        except zlib.error as error:
            raise BadBody(f"{what}: {error}") from error
        rest = member.unused_data if member.eof else member.unconsumed_tail
        size += len(piece)
        if size > bytes_max:
            raise BodyTooLarge(f"the body has more than {bytes_max} bytes")
        yield piece
