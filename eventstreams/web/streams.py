"""GET /v2/stream/{a,b,c}: the checks in upstream's order, then the stream.

The stack of a waiting client is kept shallow (no framework in between): thousands of them wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Generator
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from eventstreams.access.errors import InvalidToken
from eventstreams.access.identity import Identity
from eventstreams.declarations import Declarations
from eventstreams.errors import ClientError, GapFound, GatewayStopping, LogError, LogUnreachable
from eventstreams.fanout.bound import Bound
from eventstreams.fanout.compression import EncodedResponse, Encoding, begin
from eventstreams.fanout.connection import Connection
from eventstreams.fanout.ending import End, Reason
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.resume import gap_document
from eventstreams.fanout.start import RETRY_AFTER_S, Start, Starter
from eventstreams.fanout.subscription import Subscription
from eventstreams.fanout.want import Format
from eventstreams.metrics import Metrics
from eventstreams.model import sse
from eventstreams.model.stream import Selection
from eventstreams.settings import Compression
from eventstreams.turns import Turns
from eventstreams.web import coding, request
from eventstreams.web.access import Access
from eventstreams.web.address import Proxies
from eventstreams.web.answers import Headers, answer, gap_header, not_found, refuse
from eventstreams.web.event_source import is_event_source, refuse_event_source
from eventstreams.web.limits import Allowance, Limits
from eventstreams.web.open_streams import OpenStream, OpenStreams

_RETRY_MS = (1000, 8000)
"""After a drain clients come back spread over this time."""
_LATER_MS = (45_000, 75_000)
"""An EventSource comes back by itself after an error that it would only meet again."""
_GOODBYE_S = 1.0
"""How long the last bytes of a response may take before the connection is dropped."""
_METHODS = b"GET,HEAD"
_ANSWERED = ("GET", "HEAD", "OPTIONS")
_TOLD = (Reason.LOG_ERROR, Reason.FILTER_ERROR, Reason.EXPIRED, Reason.REVOKED)


class Streams:
    def __init__(
        self,
        *,
        declarations: Declarations,
        starter: Starter,
        hub: Hub,
        limits: Limits,
        proxies: Proxies,
        metrics: Metrics,
        headers: Headers,
        compression: Compression,
        access: Access,
        event_source_refusals: bool,
        open_streams: OpenStreams,
        turns: Turns,
    ) -> None:
        self._declarations = declarations
        self._starter = starter
        self._hub = hub
        self._limits = limits
        self._proxies = proxies
        self._metrics = metrics
        self._headers = headers
        self._compression: Compression = compression
        self._access = access
        self._event_source_refusals = event_source_refusals
        self._open_streams = open_streams
        self._turns = turns
        self._stream_headers = {
            (format_, encoding): [
                *headers,
                (b"content-type", f"{format_.value}; charset=utf-8".encode()),
                *coding.headers(encoding),
                (b"cache-control", b"no-store, no-transform"),
                (b"connection", b"keep-alive"),
                (b"x-accel-buffering", b"no"),
            ]
            for format_ in Format
            for encoding in Encoding
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.ExitStack() as held:
            work = self._opened(held, scope, receive, send)
            opened = await self._turns.run(self._proxies.site(scope), work)
            if opened is not None:
                await self._run(*opened, receive, send)

    async def _opened(
        self, held: contextlib.ExitStack, scope: Scope, receive: Receive, send: Send
    ) -> tuple[OpenStream, Identity | None] | None:
        """The stream whose response has begun; None where the request has been answered.

        `held` takes what is to be given back when the stream ends.
        """
        try:
            if not request.names_streams(scope) or scope["method"] not in _ANSWERED:
                await not_found(scope, send, self._headers)
            elif scope["method"] == "OPTIONS":
                await self._options(send)
            else:
                return await self._admitted(held, scope, receive, send)
        except ClientError as error:
            held.close()
            self._metrics.refused.labels(type(error).__name__).inc()
            if self._event_source_refusals and is_event_source(scope):
                await refuse_event_source(send, self._headers, error)
            else:
                await refuse(scope, send, self._headers, error)
        return None

    async def _admitted(
        self, held: contextlib.ExitStack, scope: Scope, receive: Receive, send: Send
    ) -> tuple[OpenStream, Identity | None] | None:
        """Raises ClientError."""
        client = self._proxies.client(scope)
        lease = held.enter_context(await self._limits.lease(client))
        selection = self._declarations.catalogue.resolve(request.stream_names(scope))
        identity = await self._access.authorise(scope, selection.scopes)
        ask = request.read(scope, self._compression)
        held.enter_context(self._limits.filtering(ask.template.selector))
        subscription = await self._begin(
            selection, ask, scope, receive, send, allowance=lease.allowance
        )
        if subscription is None:
            return None
        opened = self._open_streams.add(
            selection.names,
            client=client,
            scope=scope,
            identity=identity,
            subscription=subscription,
        )
        return opened, identity

    async def _begin(
        self,
        selection: Selection,
        ask: request.Ask,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        allowance: Allowance | None,
    ) -> Subscription | None:
        """Starts the response; None where that was all. What is only needed for that is let go
        here, and not kept by everyone who waits."""
        try:
            start = await self._starter.start(
                selection, ask.template, marks=ask.marks, since_ms=ask.since_ms
            )
        except GatewayStopping:
            if ask.template.format is not Format.SSE:
                raise
            await self._end_unopened(send)
            return None
        if start.gaps and start.want.gap_fails:
            raise GapFound(gap_document(start.gaps))
        bound = None if ask.extent is None else Bound(ask.extent)
        if bound is not None and ask.marks and await self._is_over(bound, start):
            await self._over(send)
            return None
        response = await self._open(start, bound, scope, send)
        if scope["method"] == "HEAD":
            return None
        return Subscription(
            hub=self._hub,
            want=start.want,
            position=start.position,
            response=response,
            receive=receive,  # type: ignore[arg-type]
            send=send,  # type: ignore[arg-type]
            connection=_connection(scope),
            client=self._proxies.site(scope),
            bound=bound,
            allowance=allowance,
        )

    async def _is_over(self, bound: Bound, start: Start) -> bool:
        """Whether a client has come back after the end of its stream. Raises LogUnreachable."""
        try:
            await bound.ends(start.want, self._hub)
        except LogError as error:
            raise LogUnreachable(f"The log is out of reach: {error}", RETRY_AFTER_S) from error
        return bound.is_reached(start.position)

    async def _end_unopened(self, send: Send) -> None:
        """Answer as to a stream that is drained at once. Clients of Server-Sent Events reconnect
        after that, and many never do after a 503."""
        headers = self._stream_headers[Format.SSE, Encoding.IDENTITY]
        closing = [(n, b"close" if n == b"connection" else v) for n, v in headers]
        await send({"type": "http.response.start", "status": 200, "headers": closing})
        body = sse.OK + _retry(_RETRY_MS)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _over(self, send: Send) -> None:
        """There is no more: 204 is what makes an EventSource stop coming back."""
        await send({"type": "http.response.start", "status": 204, "headers": self._headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _open(
        self, start: Start, bound: Bound | None, scope: Scope, send: Send
    ) -> EncodedResponse:
        format_, encoding = start.want.format, start.want.encoding
        headers = self._stream_headers[format_, encoding]
        first = sse.OK if format_ is Format.SSE else b"\n"
        position_id = start.position.encode() if bound is None else bound.id_of(start.position)
        if start.gaps:
            for gap in start.gaps:
                self._metrics.gaps.labels(gap.cause).inc()
            document = gap_document(start.gaps)
            if format_ is Format.SSE:
                first += sse.control("gap", document, position_id)
            else:
                headers = [*headers, (b"x-eventstreams-gap", gap_header(document))]
        elif start.want.checkpoints and format_ is Format.SSE:
            first += sse.checkpoint(position_id)  # who is cut before its first event resumes here
        response, content = begin(encoding, first)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(
            {
                "type": "http.response.body",
                "body": b"" if scope["method"] == "HEAD" else content,
                "more_body": scope["method"] == "GET",
            }
        )
        return response

    async def _run(
        self, opened: OpenStream, identity: Identity | None, receive: Receive, send: Send
    ) -> None:
        reason = Reason.DISCONNECTED
        try:
            with _until_expired(opened.subscription, identity):
                end = await opened.subscription.run()
            reason = end.reason
            await self._end(opened.subscription, end, receive, send)
        finally:
            self._open_streams.remove(opened, reason)

    async def _end(
        self, subscription: Subscription, end: End, receive: Receive, send: Send
    ) -> None:
        last = _last_words(subscription, end)
        if last is None:
            await _drop(subscription.connection, end, receive)
            return
        try:
            async with asyncio.timeout(_GOODBYE_S):
                body = subscription.response.finish(last)
                await send({"type": "http.response.body", "body": body, "more_body": False})
        except TimeoutError:
            await _drop(subscription.connection, end, receive)

    async def _options(self, send: Send) -> None:
        headers = [
            *self._headers,
            (b"allow", _METHODS),
            (b"access-control-allow-methods", b"GET, HEAD, OPTIONS"),
            (b"access-control-max-age", b"86400"),
        ]
        await answer(send, 200, headers, _METHODS, b"text/plain; charset=utf-8")


@contextlib.contextmanager
def _until_expired(subscription: Subscription, identity: Identity | None) -> Generator[None]:
    if identity is None:
        yield
        return
    error = InvalidToken("The token has expired; come back with a new one")
    left_s = max(0.0, identity.expires_at - time.time())
    loop = asyncio.get_running_loop()
    timer = loop.call_later(left_s, subscription.end, Reason.EXPIRED, error)
    try:
        yield
    finally:
        timer.cancel()


def _last_words(subscription: Subscription, end: End) -> bytes | None:
    """What ends the response properly; None where it can only be dropped."""
    is_sse = subscription.want.format is Format.SSE
    if end.reason is Reason.DRAINED:
        return _retry(_RETRY_MS) if is_sse else b""
    if end.reason is Reason.CLOSED:
        return _retry(_LATER_MS) if is_sse else b""
    if end.reason is Reason.FINISHED:
        id_ = subscription.id_of(subscription.position)
        return sse.checkpoint(id_) if is_sse and _must_tell_end(subscription) else b""
    if end.reason in _TOLD or isinstance(end.error, GapFound):
        document: dict[str, Any] = {
            "message": str(end.error),
            "origin": "KafkaSSE",  # what clients of upstream know
            "name": type(end.error).__name__,
        }
        if is_sse:
            frame = sse.control("error", document, subscription.id_of(subscription.position))
            return frame + (_retry(_LATER_MS) if end.reason is Reason.FILTER_ERROR else b"")
        return orjson.dumps(document) + b"\n"
    return None


def _retry(between_ms: tuple[int, int]) -> bytes:
    return sse.retry(random.randint(*between_ms))  # noqa: S311 - no secret


def _must_tell_end(subscription: Subscription) -> bool:
    """Whether a client that comes back with its last event's id might not be seen to be done: what
    came after that did not match."""
    want, left = subscription.want, subscription.left
    until_ms = None if want.extent is None else want.extent.until_ms
    return want.checkpoints or (until_ms is not None and want.selector is not None and left != 0)


async def _drop(connection: Connection | None, end: End, receive: Receive) -> None:
    if end.reason is Reason.DISCONNECTED and end.error is None:
        return
    if connection is None:
        raise ConnectionAbortedError(f"stream ended: {end.reason.value}")
    connection.abort()  # where it is gone already, this changes nothing
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GOODBYE_S):
            while (await receive())["type"] != "http.disconnect":
                pass


def _connection(scope: Scope) -> Connection | None:
    extensions: dict[str, Any] = scope.get("extensions") or {}
    return extensions.get("eventstreams.connection")
