"""Whether a request may read the streams it names, and POST /v2/ticket.

A token comes in the Authorization header or a cookie; in a URL only a ticket does, for URLs are
written down on their way.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from urllib.parse import parse_qsl

import orjson
from starlette.types import Receive, Scope, Send

from eventstreams.access.errors import Forbidden, InvalidToken, Unauthorized
from eventstreams.access.identity import Identity
from eventstreams.access.tickets import Tickets
from eventstreams.access.tokens import Tokens
from eventstreams.errors import ClientError
from eventstreams.metrics import Metrics
from eventstreams.web.address import Proxies
from eventstreams.web.answers import Headers, answer, not_found, refuse
from eventstreams.web.limits import Limits
from eventstreams.web.request import single_header

PATH = "/v2/ticket"
_BEARER = "bearer "
_COOKIES_MAX = 300
"""Looked at in a request. Browsers keep fewer than 200 for a site."""


def bearer(scope: Scope) -> str | None:
    """The token or key in the Authorization header. Raises RepeatedHeader."""
    text = (single_header(scope, b"authorization") or "").strip()
    return text[len(_BEARER) :].strip() if text.lower().startswith(_BEARER) else None


class Access:
    def __init__(self, *, tokens: Tokens, tickets: Tickets, cookie: str | None) -> None:
        self._tokens = tokens
        self._tickets = tickets
        self._cookie = cookie

    async def authorise(self, scope: Scope, needed: Iterable[str]) -> Identity | None:
        """None where nothing is needed. Raises Unauthorized, InvalidToken, Forbidden,
        AccessUnavailable, RepeatedHeader."""
        needed = frozenset(needed)
        if not needed:
            return None
        ticket = _ticket(scope)
        if ticket:
            identity = await self._tickets.redeem(ticket)
            if identity.expires_at <= time.time():
                raise InvalidToken("The token that the ticket stands for has expired")
        else:
            identity = await self._identity(scope)
        if lacking := needed - identity.scopes:
            raise Forbidden(sorted(lacking))
        return identity

    async def issue(self, scope: Scope) -> tuple[str, float]:
        """A ticket, and for how many s it is good. Raises as `authorise`."""
        identity = await self._identity(scope)
        return await self._tickets.issue(identity), self._tickets.ttl_s

    async def _identity(self, scope: Scope) -> Identity:
        token = bearer(scope) or self._from_cookie(scope)
        if not token:
            raise Unauthorized("A token is needed: Authorization: Bearer TOKEN")
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
    query: str = scope.get("query_string", b"").decode("latin-1")
    found = [value for name, value in parse_qsl(query) if name == "ticket" and value]
    if len(found) > 1:
        raise InvalidToken("More than one ticket is given")
    return found[0] if found else None


class TicketPage:
    """An ASGI application."""

    def __init__(
        self,
        access: Access,
        limits: Limits,
        proxies: Proxies,
        headers: Headers,
        metrics: Metrics,
    ) -> None:
        """Asking for a ticket counts as a connect."""
        self._limits = limits
        self._proxies = proxies
        self._access = access
        self._metrics = metrics
        self._headers = [
            (name, b"POST, OPTIONS" if name == b"access-control-allow-methods" else value)
            for name, value in headers
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        if scope["method"] == "OPTIONS":
            methods = b"POST, OPTIONS"
            allow = [(b"allow", methods), (b"access-control-allow-methods", methods)]
            await answer(send, 200, [*self._headers, *allow], b"", None)
        elif scope["method"] != "POST":
            await not_found(scope, send, self._headers)
        else:
            try:
                await self._limits.connect(self._proxies.client(scope))
                ticket, ttl_s = await self._access.issue(scope)
            except ClientError as error:
                self._metrics.refused.labels(type(error).__name__).inc()
                await refuse(scope, send, self._headers, error)
                return
            body = orjson.dumps({"ticket": ticket, "expires_in": ttl_s})
            headers = [*self._headers, (b"cache-control", b"no-store")]
            await answer(send, 201, headers, body, b"application/json")
