"""Tickets: one request in the name of a token, for clients that can't set a header.

Whoever has a token posts it and gets a ticket that it puts into a URL. URLs are written down by
proxies and histories; a ticket in them is worth nothing any more, for it was used.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import msgspec

from eventstreams.access.errors import AccessUnavailable, InvalidToken
from eventstreams.access.identity import Identity
from eventstreams.errors import LedgerUnavailable
from eventstreams.ledger.ledger import Ledger

_RETRY_AFTER_S = 5
_LENGTH_MAX = 100


class Tickets:
    def __init__(self, *, ledger: Ledger, ttl_s: float) -> None:
        self._ledger = ledger
        self.ttl_s = ttl_s

    async def issue(self, identity: Identity) -> str:
        """Raises AccessUnavailable."""
        ticket = secrets.token_urlsafe(24)
        note = msgspec.json.encode([identity.subject, sorted(identity.scopes), identity.expires_at])
        try:
            await self._ledger.put(_key(ticket), note, self.ttl_s)
        except LedgerUnavailable as error:
            raise _unavailable() from error
        return ticket

    async def redeem(self, ticket: str) -> Identity:
        """Once. Raises InvalidToken, AccessUnavailable."""
        note = None
        if len(ticket) <= _LENGTH_MAX:
            try:
                note = await self._ledger.pop(_key(ticket))
            except LedgerUnavailable as error:
                raise _unavailable() from error
        if note is None:
            raise InvalidToken("The ticket is not known: it was used, or lay too long")
        said: list[Any] = msgspec.json.decode(note)
        subject, scopes, expires_at = said
        return Identity(subject, frozenset(scopes), float(expires_at))


def _key(ticket: str) -> str:
    """What is kept does not let anyone in."""
    return "ticket:" + hashlib.sha256(ticket.encode("utf-8", "replace")).hexdigest()


def _unavailable() -> AccessUnavailable:
    return AccessUnavailable("Where tickets are kept is out of reach", _RETRY_AFTER_S)
