"""POST /v1/events: EventGate's protocol, in front of the intake.

Nothing of a body is kept that there is no room for. In compatibility mode the answers are those
of EventGate, also where they call a client's fault an error of the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import orjson
from starlette.types import Receive, Scope, Send

from eventstreams.access.policy import Policy
from eventstreams.errors import (
    BadBody,
    BodyTimeout,
    BodyTooLarge,
    ClientError,
    InvalidParameter,
    ServiceProblem,
    UnsupportedBody,
)
from eventstreams.intake.admission import Lease
from eventstreams.intake.filling import Sender
from eventstreams.intake.intake import Intake
from eventstreams.intake.outcome import Outcome, body, tally
from eventstreams.metrics import Metrics
from eventstreams.web.access import bearer
from eventstreams.web.address import Proxies
from eventstreams.web.answers import Headers, answer, not_found, refuse, set_reason, uri
from eventstreams.web.request import header
from eventstreams.web.unpacking import CODINGS, unpack

PATHS = ("/v1/events", "/v1/events/")
TEST_PATH = "/v1/_test/events"

_METHODS = b"POST"
_JSON = b"application/json; charset=utf-8"
_TYPES = ("application/json", "text/plain", "application/reports+json")
"""The second is what a page can send to another site without asking, by sendBeacon."""
_CHARSETS = ("utf-8", "utf8", "us-ascii")
_LENGTH_DIGITS_MAX = 20
_TURN_S = 0.002
"""Streams and other requests get their turn after so much unpacking."""
_EMPTY = "Request body was empty. Must provide JSON encoded events."
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_UPSTREAM_TITLES: dict[type[ClientError], str] = {
    BadBody: "SyntaxError",
    BodyTooLarge: "PayloadTooLargeError",
    UnsupportedBody: "UnsupportedMediaTypeError",
}
"""What upstream's body parser calls them; all are 500 there."""


class HungUp(Exception):
    """The client is gone before its request has come whole."""


class Events:
    def __init__(
        self,
        *,
        intake: Intake,
        proxies: Proxies,
        metrics: Metrics,
        headers: Headers,
        policy: Callable[[], Policy],
    ) -> None:
        """`policy` says who may post."""
        self._policy = policy
        self._intake = intake
        self._proxies = proxies
        self._metrics = metrics
        self._headers = [
            (name, b"POST" if name == b"access-control-allow-methods" else value)
            for name, value in headers
        ]
        self._test_events = [orjson.dumps(event) for event in intake.settings.test_events]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == TEST_PATH and self._test_events and scope["method"] == "GET":
            await self._counted(scope, send, self._post_test(scope, send))
        elif scope["path"] not in PATHS or scope["method"] not in ("POST", "OPTIONS"):
            await not_found(scope, send, self._headers)
        elif scope["method"] == "OPTIONS":
            await self._options(send)
        else:
            await self._counted(scope, send, self._post(scope, receive, send))

    async def _counted(self, scope: Scope, send: Send, handling: Any) -> None:
        began = time.monotonic()
        try:
            status = await handling
        except HungUp:
            status = 499
        except ClientError as error:
            status = await self._refuse(scope, send, error)
        self._metrics.intake_requests.labels(str(status)).inc()
        self._metrics.intake_seconds.observe(time.monotonic() - began)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> int:
        sender, hasty = self._sender(scope), self._is_hasty(scope)
        admission = self._intake.admission
        with contextlib.ExitStack() as lease:
            self._refuse_length(scope)
            room = lease.enter_context(admission.lease())
            lease.callback(lambda: self._metrics.intake_bytes.set(admission.bytes))
            body = await self._body(scope, receive, room)
            self._metrics.intake_bytes.set(admission.bytes)
            posted = self._intake.split(body)
            if not posted:
                set_reason(scope, _EMPTY)
                await answer(send, 400, self._headers, b"", None)
                return 400
            if hasty:
                self._intake.take_later(posted, sender, lease.pop_all())
                set_reason(scope, f"{len(posted)} events hastily received.")
                await answer(send, 202, self._headers, b"", None)
                return 202
            return await self._tell(scope, send, await self._intake.take(posted, sender))

    def _sender(self, scope: Scope) -> Sender:
        """Raises InvalidToken."""
        sender = _sender(scope, self._proxies)
        producers = self._policy().producers
        if producers is None:
            return sender
        return sender._replace(may_post_to=producers.of(bearer(scope)).may_post_to)

    async def _post_test(self, scope: Scope, send: Send) -> int:
        outcomes = await self._intake.take(self._test_events, self._sender(scope))
        return await self._tell(scope, send, outcomes)

    async def _tell(self, scope: Scope, send: Send, outcomes: Sequence[Outcome]) -> int:
        accepted, invalid, failed = tally(outcomes)
        count, plain = len(outcomes), self._intake.lenient
        if not invalid and not failed:
            set_reason(scope, f"All {count} out of {count} events were accepted.")
            await answer(send, 201, self._headers, b"", None)
            return 201
        kinds = f"({len(invalid)} invalid and {len(failed)} errored)."
        if accepted:
            status, content = 207, body(invalid, failed, plain=plain)
            reason = (
                f"{accepted} out of {count} events were accepted, "
                f"but {len(invalid) + len(failed)} failed {kinds}"
            )
        elif failed:
            status, content = 500, body(invalid, failed, plain=plain)
            reason = (
                f"{len(invalid) + len(failed)} out of {count} events had failures and were "
                f"not accepted. {kinds}"
            )
        else:
            status, content = 400, body(invalid, None, plain=plain)
            reason = f"{len(invalid)} out of {count} events were invalid and not accepted."
        set_reason(scope, reason)
        await answer(send, status, self._headers, content, _JSON)
        return status

    async def _refuse(self, scope: Scope, send: Send, error: ClientError) -> int:
        self._metrics.refused.labels(type(error).__name__).inc()
        title = _UPSTREAM_TITLES.get(type(error))
        if not self._intake.lenient or title is None:
            await refuse(scope, send, self._headers, error)
            return error.status
        assert isinstance(error, ServiceProblem)
        document = {
            "status": 500,
            "type": "internal_error",
            "title": title,
            "detail": error.detail,
            "method": scope["method"],
            "uri": uri(scope),
        }
        await answer(send, 500, self._headers, orjson.dumps(document), _JSON)
        return 500

    def _is_hasty(self, scope: Scope) -> bool:
        """Raises InvalidParameter."""
        text = _query(scope).get("hasty", "")
        if not text or self._intake.lenient:
            return bool(text)  # upstream takes hasty=false for yes
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise InvalidParameter(f"hasty={text} is neither true nor false")

    def _refuse_length(self, scope: Scope) -> None:
        """Before a byte of the body. Raises BodyTooLarge."""
        most = self._intake.settings.body_bytes_max
        text = header(scope, b"content-length") or ""
        is_length = text.isascii() and text.isdigit()
        if is_length and (len(text) > _LENGTH_DIGITS_MAX or int(text) > most):
            raise _too_large(most)

    async def _body(self, scope: Scope, receive: Receive, room: Lease) -> bytes:
        """Raises UnsupportedBody, BodyTooLarge, BodyTimeout, BadBody, IntakeFull, HungUp."""
        if not self._is_json(scope):
            return b""
        coding = (header(scope, b"content-encoding") or "identity").strip().lower()
        if coding not in CODINGS:
            raise UnsupportedBody(f"content-encoding {coding} is not one of: {', '.join(CODINGS)}")
        most = self._intake.settings.body_bytes_max
        try:
            async with asyncio.timeout(self._intake.settings.body_timeout_s):
                raw = await _read(receive, most, room)
        except TimeoutError as error:
            raise BodyTimeout("the body did not come in time") from error
        if coding == "identity" or not raw:
            return raw
        room.cover(most)
        unpacked = await _unpacked(raw, coding, most)
        room.shrink(len(unpacked))
        return unpacked

    def _is_json(self, scope: Scope) -> bool:
        """Raises UnsupportedBody; upstream takes such a body for an empty one."""
        text = header(scope, b"content-type") or ""
        kind, *parameters = (part.strip().lower() for part in text.split(";"))
        if kind not in _TYPES:
            if self._intake.lenient:
                return False
            given = f"content-type {kind}" if kind else "a body without content-type"
            raise UnsupportedBody(f"{given} is not one of: {', '.join(_TYPES)}")
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            charset = value.strip().strip("\"'")
            if name.strip() == "charset" and charset not in _CHARSETS:
                raise UnsupportedBody(f"charset {charset} is not utf-8")
        return True

    async def _options(self, send: Send) -> None:
        headers = [
            *self._headers,
            (b"allow", _METHODS),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", b"86400"),
        ]
        await answer(send, 200, headers, _METHODS, b"text/html; charset=utf-8")


async def _read(receive: Receive, most: int, room: Lease) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
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


async def _unpacked(raw: bytes, coding: str, most: int) -> bytes:
    """Raises BadBody, BodyTooLarge."""
    pieces: list[bytes] = []
    turn_ends = time.monotonic() + _TURN_S
    for piece in unpack(raw, coding, most):
        pieces.append(piece)
        if time.monotonic() > turn_ends:
            await asyncio.sleep(0)
            turn_ends = time.monotonic() + _TURN_S
    return b"".join(pieces)


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {most} bytes")


def _query(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))


def _sender(scope: Scope, proxies: Proxies) -> Sender:
    headers = {
        name.decode("latin-1"): value.decode("utf-8", "replace") for name, value in scope["headers"]
    }
    headers.setdefault("x-request-id", str(uuid4()))
    query = _query(scope)
    peer: tuple[str, int] | None = scope.get("client")
    return Sender(
        headers=headers,
        client_ip=proxies.client(scope) or (peer[0] if peer else None),
        schema_uri=query.get("schema_uri"),
        stream=query.get("stream"),
    )
