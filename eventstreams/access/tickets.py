"""Issues tickets: single-use replacements for tokens, for clients that cannot set headers.

A client posts its token and gets a ticket to put into a URL. Proxies and browser histories record
URLs, but a ticket in such a record is worthless, because it has been used.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import msgspec

from eventstreams.access.tokens import Identity
from eventstreams.errors import AccessUnavailable, InvalidToken, QuotaUnavailable
from eventstreams.quota.quota import Quota

_RETRY_AFTER_S = 5
_LENGTH_MAX = 100


class Tickets:
    """Issues and redeems tickets, which all processes of a gateway share."""

    def __init__(self, *, quota: Quota, ttl_s: float) -> None:
        self._quota = quota
        self.ttl_s = ttl_s

    async def issue(self, identity: Identity) -> str:
        """Return a new ticket for an identity. Raises AccessUnavailable."""
        ticket = secrets.token_urlsafe(24)
        note = msgspec.json.encode([identity.subject, sorted(identity.scopes), identity.expires_at])
        try:
            await self._quota.put(_key(ticket), note, self.ttl_s)
        except QuotaUnavailable as error:
            raise _unavailable() from error
        return ticket

    async def redeem(self, ticket: str) -> Identity:
        """Return the identity of a ticket, and make the ticket invalid.

        Raises InvalidToken, AccessUnavailable.
        """
        note = None
        if len(ticket) <= _LENGTH_MAX:
            try:
                note = await self._quota.pop(_key(ticket))
            except QuotaUnavailable as error:
                raise _unavailable() from error
        if note is None:
            raise InvalidToken("Unknown ticket: it has been used or has expired")
        fields: list[Any] = msgspec.json.decode(note)
        subject, scopes, expires_at = fields
        return Identity(subject, frozenset(scopes), float(expires_at))


def _key(ticket: str) -> str:
    """Return the key to store a ticket under, from which the ticket cannot be derived."""
    return "ticket:" + hashlib.sha256(ticket.encode("utf-8", "replace")).hexdigest()


def _unavailable() -> AccessUnavailable:
    return AccessUnavailable("The storage for tickets is unreachable", _RETRY_AFTER_S)
