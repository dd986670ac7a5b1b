"""Authorizes requests to read streams, and serves POST /v2/ticket.

A token is sent in the Authorization header or a cookie. A URL may contain only a ticket, because
proxies and servers log URLs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from eventstreams.access.tickets import Tickets
from eventstreams.access.tokens import Identity, Tokens
from eventstreams.errors import Forbidden, InvalidToken, Unauthorized
from eventstreams.web.address import Proxies
from eventstreams.web.answers import preflight
from eventstreams.web.headers import single_header
from eventstreams.web.limits import Limits
from eventstreams.web.query import Query

PATH = "/v2/ticket"
_BEARER = "bearer "
_COOKIES_MAX = 300
"""How many cookies of a request are examined. Browsers keep fewer than 200 for a site."""


def bearer(scope: Scope) -> str | None:
    """Return the token or key in the Authorization header, if any. Raises RepeatedHeader."""
    text = (single_header(scope, b"authorization") or "").strip()
    return text[len(_BEARER) :].strip() if text.lower().startswith(_BEARER) else None


class Access:
    def __init__(self, *, tokens: Tokens, tickets: Tickets, cookie: str | None) -> None:
        self._tokens = tokens
        self._tickets = tickets
        self._cookie = cookie

    async def authorise(self, scope: Scope, needed: Iterable[str]) -> Identity | None:
        """Return the client's identity, which has all `needed` scopes; None if none are needed.

        Raises Unauthorized, InvalidToken, Forbidden, AccessUnavailable or RepeatedHeader.
        """
        needed = frozenset(needed)
        if not needed:
            return None
        ticket = _ticket(scope)
        if ticket:
            identity = await self._tickets.redeem(ticket)
            if identity.expires_at <= time.time():
                raise InvalidToken("The token for which the ticket was issued has expired")
        else:
            identity = await self._identity(scope)
        if lacking := needed - identity.scopes:
            raise Forbidden(sorted(lacking))
        return identity

    async def issue(self, scope: Scope) -> tuple[str, float]:
        """Return a ticket and its lifetime in seconds. Raises what `authorise` raises."""
        identity = await self._identity(scope)
        return await self._tickets.issue(identity), self._tickets.ttl_s

    async def _identity(self, scope: Scope) -> Identity:
        token = bearer(scope) or self._from_cookie(scope)
        if not token:
            raise Unauthorized("Send an access token: Authorization: Bearer TOKEN")
        return await self._tokens.identity(token)

    def _from_cookie(self, scope: Scope) -> str | None:
        text = "; ".join(v.decode("latin-1") for k, v in scope["headers"] if k == b"cookie")
        if self._cookie is None or not text:
            return None
        for part in text.split(";", _COOKIES_MAX)[:_COOKIES_MAX]:
            name, _, value = part.strip().partition("=")
            if name == self._cookie:
                return value.strip('"')
        return None


def _ticket(scope: Scope) -> str | None:
    found = Query(scope).all("ticket")
    if len(found) > 1:
        raise InvalidToken("The request has more than one ticket")
    return found[0] if found else None


def ticket_routes(access: Access, limits: Limits, proxies: Proxies) -> list[Route]:
    async def issue(request: Request) -> Response:
        """Issue a ticket, which counts as a connect."""
        if request.method == "OPTIONS":
            return preflight("POST, OPTIONS")
        await limits.connect(proxies.client(request.scope))
        ticket, ttl_s = await access.issue(request.scope)
        body = orjson.dumps({"ticket": ticket, "expires_in": ttl_s})
        return Response(body, 201, {"cache-control": "no-store"}, "application/json")

    return [Route(PATH, issue, methods=["POST", "OPTIONS"])]
