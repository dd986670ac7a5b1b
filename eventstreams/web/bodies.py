"""Reads the bodies of requests that post events: what they may be, and how fast they must come."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

from starlette.types import Receive, Scope

from eventstreams.errors import BodyTimeout, BodyTooLarge, UnsupportedBody
from eventstreams.intake.admission import Lease
from eventstreams.settings import IntakeSettings
from eventstreams.turns import Turns
from eventstreams.web.request import header, header_list, single_header
from eventstreams.web.unpacking import CODINGS, unpack

GRACE_S = 3.0
"""A body that is slower than it may be on average is given up after this at the soonest."""
_TYPES = ("application/json", "text/plain", "application/reports+json")
"""The second is what a page can send to another site without asking, by sendBeacon."""
_CHARSETS = ("utf-8", "utf8", "us-ascii")
_TYPE_MAX = 1000
"""Characters of a content type."""
_LENGTH_DIGITS_MAX = 20


class HungUp(Exception):
    """The client is gone before its request has come whole."""


class Bodies:
    def __init__(self, settings: IntakeSettings, turns: Turns) -> None:
        self._settings = settings
        self._turns = turns
        self._lenient = settings.compatibility == "eventgate"

    def refuse_length(self, scope: Scope) -> None:
        """Before a byte of the body. Raises BodyTooLarge."""
        most = self._settings.body_bytes_max
        text = header(scope, b"content-length") or ""
        is_length = text.isascii() and text.isdigit()
        if is_length and (len(text) > _LENGTH_DIGITS_MAX or int(text) > most):
            raise _too_large(most)

    async def read(self, scope: Scope, receive: Receive, room: Lease, site: str) -> bytes:
        """The body, unpacked. `room` grows with it; unpacking is charged to `site`.

        Raises RepeatedHeader, UnsupportedBody, BodyTooLarge, BodyTimeout, BadBody, IntakeFull,
        IntakeShareUsed, HungUp.
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
        try:
            async with asyncio.timeout_at(latest_s) as limit:
                while True:
                    limit.reschedule(min(latest_s, began_s + GRACE_S + size / slowest))
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise HungUp
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise _too_large(most)
                    if part:
                        room.cover(size)
                        parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError as error:
            if asyncio.get_running_loop().time() < latest_s:
                slow = f"the body came with fewer than {slowest} bytes a second"
                raise BodyTimeout(slow) from error
            raise BodyTimeout("the body did not come in time") from error

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
        """Raises RepeatedHeader, UnsupportedBody; upstream takes such a body for an empty one."""
        text = single_header(scope, b"content-type") or ""
        if len(text) > _TYPE_MAX:
            raise UnsupportedBody(f"content-type has more than {_TYPE_MAX} characters")
        kind, *parameters = (part.strip().lower() for part in text.split(";"))
        if kind not in _TYPES:
            if self._lenient:
                return False
            given = f"content-type {kind}" if kind else "a body without content-type"
            raise UnsupportedBody(f"{given} is not one of: {', '.join(_TYPES)}")
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            charset = value.strip().strip("\"'")
            if name.strip() == "charset" and charset not in _CHARSETS:
                raise UnsupportedBody(f"charset {charset} is not utf-8")
        return True


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {most} bytes")
