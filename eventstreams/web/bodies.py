"""Reads the bodies of posted events, and limits their types, sizes and slowness."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Generator, Iterator

from starlette.types import Receive, Scope

from eventstreams.config.settings import IntakeSettings
from eventstreams.deadlines import timeout_at
from eventstreams.errors import BadBody, BodyTimeout, BodyTooLarge, UnsupportedBody
from eventstreams.intake.admission import Lease
from eventstreams.turns import Turns
from eventstreams.web.headers import header, header_list, single_header

_GRACE_S = 3.0
"""How long a body may take before its average speed is checked, in seconds."""
_TYPES = ("application/json", "text/plain", "application/reports+json")
"""Pages can send text/plain to another site without a preflight request, by sendBeacon."""
_CHARSETS = ("utf-8", "utf8", "us-ascii")
_TYPE_MAX = 1000
"""The maximum length of a content type."""
_LENGTH_DIGITS_MAX = 20
_INPUT_BYTES = 4 * 1024
"""How much of a body one step reads. The rest after a gzip member is copied, so a larger value
would make many small members expensive."""
_OUTPUT_BYTES_MAX = 64 * 1024
"""How much content one step produces."""
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": 15}
CODINGS = ("identity", *_WINDOW_BITS)


class ClientDisconnected(Exception):
    """The client disconnected before its request was complete."""


class Bodies:
    """Reads and decompresses the bodies of requests."""

    def __init__(
        self, settings: IntakeSettings, turns: Turns, *, grace_s: float = _GRACE_S
    ) -> None:
        """Set the limits. `grace_s` is how long a body may take before its speed is checked."""
        self._settings = settings
        self._grace_s = grace_s
        self._turns = turns
        self._lenient = settings.compatibility == "eventgate"

    def refuse_length(self, scope: Scope) -> None:
        """Check Content-Length before the body is read. Raises BodyTooLarge."""
        most = self._settings.body_bytes_max
        text = header(scope, b"content-length") or ""
        is_length = text.isascii() and text.isdigit()
        if is_length and (len(text) > _LENGTH_DIGITS_MAX or int(text) > most):
            raise _too_large(most)

    async def read(self, scope: Scope, receive: Receive, room: Lease, site: str) -> bytes:
        """Return the body, unpacked. `room` is charged for its size and `site` for the unpacking.

        Raises RepeatedHeader, UnsupportedBody, BodyTooLarge, BodyTimeout, BadBody, IntakeFull,
        IntakeShareUsed, ClientDisconnected.
        """
        if not self._is_json(scope):
            return b""
        coding = (header_list(scope, b"content-encoding") or "identity").strip().lower()
        if coding not in CODINGS:
            raise UnsupportedBody(f"content-encoding {coding} is not one of: {', '.join(CODINGS)}")
        raw = await self._read(receive, room)
        if coding == "identity" or not raw:
            return raw
        unpacked = await self._turns.run_steps(site, self._unpacked(raw, coding, room))
        room.shrink(len(unpacked))
        return unpacked

    async def _read(self, receive: Receive, room: Lease) -> bytes:
        settings = self._settings
        most, slowest = settings.body_bytes_max, settings.body_bytes_per_s_min
        began_s = asyncio.get_running_loop().time()
        latest_s = began_s + settings.body_timeout_s
        parts: list[bytes] = []
        size = 0
        due_s = min(latest_s, began_s + self._grace_s)
        try:
            async with timeout_at(due_s) as deadline:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnected
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise _too_large(most)
                    if part:
                        room.cover(size)
                        parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
                    due_s = min(latest_s, began_s + self._grace_s + size / slowest)
                    deadline.move(due_s)
        except TimeoutError as error:
            if due_s < latest_s:
                slow = f"the body arrived at fewer than {slowest} bytes a second"
                raise BodyTimeout(slow) from error
            raise BodyTimeout("the body did not arrive in time") from error

    def _unpacked(self, raw: bytes, coding: str, room: Lease) -> Generator[None, None, bytes]:
        """Raises BadBody, BodyTooLarge, IntakeFull, IntakeShareUsed."""
        pieces: list[bytes] = []
        size = len(raw)
        for piece in unpack(raw, coding, self._settings.body_bytes_max):
            size += len(piece)
            room.cover(size)
            pieces.append(piece)
            yield
        return b"".join(pieces)

    def _is_json(self, scope: Scope) -> bool:
        """Return whether the body is JSON. Raises RepeatedHeader or UnsupportedBody.

        EventGate treats a body of another type as empty; so does this in compatibility mode.
        """
        text = single_header(scope, b"content-type") or ""
        if len(text) > _TYPE_MAX:
            raise UnsupportedBody(f"content-type has more than {_TYPE_MAX} characters")
        kind, *parameters = (part.strip().lower() for part in text.split(";"))
        if kind not in _TYPES:
            if self._lenient:
                return False
            given = f"content-type {kind}" if kind else "the body has no content-type"
            raise UnsupportedBody(f"{given} is not one of: {', '.join(_TYPES)}")
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            charset = value.strip().strip("\"'")
            if name.strip() == "charset" and charset not in _CHARSETS:
                raise UnsupportedBody(f"charset {charset} is not utf-8")
        return True


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {most} bytes")


def unpack(body: bytes, coding: str, bytes_max: int) -> Iterator[bytes]:
    """Yield the content piece by piece, so that other work can run between pieces.

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
            rest = body[at : at + _INPUT_BYTES]
            at += len(rest)
        if member.eof:
            rest = rest.lstrip(b"\0")
            if not rest and at >= len(body):
                return
            if not rest:
                continue
            what = f"bytes after the end of the {coding}"
            if coding == "deflate":  # deflate has no members
                raise BadBody(what)
            member = zlib.decompressobj(bits)
        elif not rest:
            raise BadBody(f"the {coding} ends early")
        try:
            piece = member.decompress(rest, _OUTPUT_BYTES_MAX)
        except zlib.error as error:
            raise BadBody(f"{what}: {error}") from error
        rest = member.unused_data if member.eof else member.unconsumed_tail
        size += len(piece)
        if size > bytes_max:
            raise BodyTooLarge(f"the body has more than {bytes_max} bytes")
        yield piece
