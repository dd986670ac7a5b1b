"""Serves GET /v2/stream/{a,b,c}: checks the request in KafkaSSE's order, then streams.

No framework is involved, so that the stacks of thousands of waiting clients stay small.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Generator
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from eventstreams.access.tokens import Identity
from eventstreams.config.reloader import CatalogueWatcher
from eventstreams.config.settings import Compression
from eventstreams.errors import (
    ClientError,
    GapFound,
    GatewayStopping,
    InvalidToken,
    LogError,
    LogUnreachable,
)
from eventstreams.fanout.compression import EncodedResponse, Encoding, begin
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.resume import gap_document_in_steps
from eventstreams.fanout.send import Connection, End, EndReason
from eventstreams.fanout.spec import Format
from eventstreams.fanout.start import RETRY_AFTER_S, Start, StartResolver
from eventstreams.fanout.stop import StopTracker
from eventstreams.fanout.subscription import Subscription
from eventstreams.metrics import Metrics
from eventstreams.model import sse
from eventstreams.model.catalogue import Selection
from eventstreams.turns import Turns
from eventstreams.web import coding, request
from eventstreams.web.access import Access
from eventstreams.web.address import Proxies
from eventstreams.web.answers import (
    Headers,
    gap_header,
    not_found,
    preflight,
    refusal,
    with_headers,
)
from eventstreams.web.field_warnings import FieldWarnings, headers_of
from eventstreams.web.limits import Allowance, Limits
from eventstreams.web.open_streams import OpenStream, OpenStreams

_RETRY_MS = (1000, 8000)
"""The time, in ms, over which clients reconnect after a drain."""
_LATER_MS = (45_000, 75_000)
"""When an EventSource reconnects, in ms, after an error that is likely to occur again."""
_DISCONNECT_S = 1.0
"""How long the last bytes of a response may take before the connection is dropped."""
_CONNECTION = "eventstreams.connection"
_ANSWERED = ("GET", "HEAD", "OPTIONS")
_REPORTED = (EndReason.LOG_ERROR, EndReason.FILTER_ERROR, EndReason.EXPIRED, EndReason.REVOKED)


class Streams:
    def __init__(
        self,
        *,
        catalogue_watcher: CatalogueWatcher,
        start_resolver: StartResolver,
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
        field_warnings: FieldWarnings,
    ) -> None:
        self._catalogue_watcher = catalogue_watcher
        self._start_resolver = start_resolver
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
        self._field_warnings = field_warnings
        self._stream_headers = {
            (media_type, encoding): [
                *headers,
                (b"content-type", f"{media_type}; charset=utf-8".encode()),
                *coding.headers(encoding),
                (b"cache-control", b"no-store, no-transform"),
                (b"connection", b"keep-alive"),
                (b"x-accel-buffering", b"no"),
            ]
            for media_type in request.MEDIA_TYPES
            for encoding in Encoding
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.ExitStack() as held:
                work = self._opened(held, scope, receive, send)
                opened = await self._turns.run(self._proxies.site(scope), work)
                if opened is not None:
                    await self._run(*opened, receive, send)
        finally:
            _forget_connection(scope)

    async def _opened(
        self, held: contextlib.ExitStack, scope: Scope, receive: Receive, send: Send
    ) -> tuple[OpenStream, Identity | None] | None:
        """Begin the response and return its stream, or None if the request has been answered.

        `held` receives the resources to release when the stream ends.
        """
        try:
            if not request.names_streams(scope) or scope["method"] not in _ANSWERED:
                response = not_found(scope)
            elif scope["method"] == "OPTIONS":
                response = preflight("GET,HEAD")
            else:
                return await self._admitted(held, scope, receive, send)
        except ClientError as error:
            held.close()
            event_source = self._event_source_refusals
            response = refusal(scope, error, self._metrics, event_source=event_source)
        await response(scope, receive, with_headers(send, self._headers))
        return None

    async def _admitted(
        self, held: contextlib.ExitStack, scope: Scope, receive: Receive, send: Send
    ) -> tuple[OpenStream, Identity | None] | None:
        """Check the request and begin its stream, as `_opened` does. Raises ClientError."""
        client = self._proxies.client(scope)
        lease = held.enter_context(await self._limits.lease(client))
        selection = self._catalogue_watcher.catalogue.resolve(request.stream_names(scope))
        identity = await self._access.authorise(scope, selection.scopes)
        site = self._proxies.site(scope)
        parsed = await request.read(self._turns, site, scope, self._compression)
        subscription = await self._begin(
            selection, parsed, scope, receive, send, allowance=lease.allowance
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
        parsed: request.StreamRequest,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        allowance: Allowance | None,
    ) -> Subscription | None:
        """Start the response; return None if that completed it.

        Objects that are needed only here are released when this returns, so that waiting clients
        do not keep them in memory.
        """
        site = self._proxies.site(scope)
        try:
            start = await self._start_resolver.start(
                selection,
                parsed.spec,
                cursors=parsed.cursors,
                since_ms=parsed.since_ms,
                client=site,
            )
        except GatewayStopping:
            if parsed.spec.format is not Format.SSE:
                raise
            await self._end_unopened(send)
            return None
        gaps = await self._gaps(start, site)
        if gaps and start.spec.gap_fails:
            raise GapFound(gaps)
        bound = None if parsed.stop_condition is None else StopTracker(parsed.stop_condition)
        if bound is not None and parsed.cursors and await self._is_over(bound, start):
            await self._over(send)
            return None
        warnings = await self._field_warnings.of(selection.names, start.spec.selector)
        if parsed.empty_because:
            warnings.insert(0, parsed.empty_because)
        headers = [
            *self._stream_headers[parsed.media_type, start.spec.encoding],
            *headers_of(warnings),
        ]
        if start.position.is_long:
            await self._turns.run_steps(site, start.position.prepare())
        response = await self._open(start, bound, gaps, headers=headers, scope=scope, send=send)
        if scope["method"] == "HEAD":
            return None
        connection = _connection(scope)
        if connection is not None:
            connection.begin_stream()
        return Subscription(
            hub=self._hub,
            spec=start.spec,
            position=start.position,
            response=response,
            receive=receive,  # type: ignore[arg-type]
            send=send,  # type: ignore[arg-type]
            connection=connection,
            client=site,
            bound=bound,
            allowance=allowance,
            reports_caught_up=parsed.caught_up,
        )

    async def _gaps(self, start: Start, site: str) -> dict[str, Any] | None:
        """Return the gaps as a document, or None if there are none."""
        if not start.gaps:
            return None
        return await self._turns.run_steps(site, gap_document_in_steps(start.gaps))

    async def _is_over(self, bound: StopTracker, start: Start) -> bool:
        """Return whether the client had reached the end of its stream. Raises LogUnreachable."""
        try:
            await bound.ends(start.spec, self._hub)
        except LogError as error:
            raise LogUnreachable(f"The log is unreachable: {error}", RETRY_AFTER_S) from error
        return bound.is_reached(start.position)

    async def _end_unopened(self, send: Send) -> None:
        """Respond with a stream that ends at once, as in a drain.

        Clients of Server-Sent Events then reconnect, but many never do after a 503.
        """
        headers = self._stream_headers[Format.SSE.value, Encoding.IDENTITY]
        closing = [(n, b"close" if n == b"connection" else v) for n, v in headers]
        await send({"type": "http.response.start", "status": 200, "headers": closing})
        body = sse.OK + _retry(_RETRY_MS)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _over(self, send: Send) -> None:
        """Respond with 204, after which an EventSource does not reconnect."""
        await send({"type": "http.response.start", "status": 204, "headers": self._headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _open(
        self,
        start: Start,
        bound: StopTracker | None,
        gaps: dict[str, Any] | None,
        *,
        headers: Headers,
        scope: Scope,
        send: Send,
    ) -> EncodedResponse:
        format_ = start.spec.format
        first = sse.OK if format_ is Format.SSE else b"\n"
        position_id = start.position.encode() if bound is None else bound.id_of(start.position)
        if gaps is not None:
            for cause, count in Counter(gap.cause for gap in start.gaps).items():
                self._metrics.gaps.labels(cause).inc(count)
            if format_ is Format.SSE:
                first += sse.control("gap", gaps, position_id)
            else:
                headers = [*headers, (b"x-eventstreams-gap", gap_header(gaps))]
        elif start.spec.checkpoints and format_ is Format.SSE:
            first += sse.checkpoint(
                position_id
            )  # a client that is cut off before its first event resumes here
        response, content = begin(start.spec.encoding, first)
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
        reason = EndReason.DISCONNECTED
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
        last = _final_bytes(subscription, end)
        if last is None:
            await _drop(subscription.connection, end, receive)
            return
        try:
            async with asyncio.timeout(_DISCONNECT_S):
                body = subscription.response.finish(last)
                await send({"type": "http.response.body", "body": body, "more_body": False})
        except TimeoutError:
            await _drop(subscription.connection, end, receive)


@contextlib.contextmanager
def _until_expired(subscription: Subscription, identity: Identity | None) -> Generator[None]:
    if identity is None:
        yield
        return
    error = InvalidToken("The token has expired; reconnect with a new one")
    left_s = max(0.0, identity.expires_at - time.time())
    loop = asyncio.get_running_loop()
    timer = loop.call_later(left_s, subscription.end, EndReason.EXPIRED, error)
    try:
        yield
    finally:
        timer.cancel()


def _final_bytes(subscription: Subscription, end: End) -> bytes | None:
    """Return the last bytes of the response; None if the connection must be dropped."""
    is_sse = subscription.spec.format is Format.SSE
    if end.reason is EndReason.DRAINED:
        return _retry(_RETRY_MS) if is_sse else b""
    if end.reason is EndReason.CLOSED:
        return _retry(_LATER_MS) if is_sse else b""
    if end.reason is EndReason.FINISHED:
        id_ = subscription.id_of(subscription.position)
        return sse.checkpoint(id_) if is_sse and _needs_final_id(subscription) else b""
    if end.reason in _REPORTED or isinstance(end.error, GapFound):
        document: dict[str, Any] = {
            "message": str(end.error),
            "origin": "KafkaSSE",  # the value that clients of KafkaSSE expect
            "name": type(end.error).__name__,
        }
        if is_sse:
            frame = sse.control("error", document, subscription.id_of(subscription.position))
            return frame + (_retry(_LATER_MS) if end.reason is EndReason.FILTER_ERROR else b"")
        return orjson.dumps(document) + b"\n"
    return None


def _retry(between_ms: tuple[int, int]) -> bytes:
    return sse.retry(random.randint(*between_ms))  # noqa: S311 - no secret


def _needs_final_id(subscription: Subscription) -> bool:
    """Return whether the client needs a final id.

    With only the id of its last event, a client that reconnects might not be recognized as done,
    because later events did not match.
    """
    spec, remaining = subscription.spec, subscription.remaining
    until_ms = None if spec.stop_condition is None else spec.stop_condition.until_ms
    return spec.checkpoints or (
        until_ms is not None and spec.selector is not None and remaining != 0
    )


async def _drop(connection: Connection | None, end: End, receive: Receive) -> None:
    if end.reason is EndReason.DISCONNECTED and end.error is None:
        return
    if connection is None:
        raise ConnectionAbortedError(f"stream ended: {end.reason.value}")
    connection.abort()  # without effect if the connection is closed already
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCONNECT_S):
            while (await receive())["type"] != "http.disconnect":
                pass


def _connection(scope: Scope) -> Connection | None:
    extensions: dict[str, Any] = scope.get("extensions") or {}
    return extensions.get(_CONNECTION)


def _forget_connection(scope: Scope) -> None:
    """Remove the reference to the connection, which refers to the scope: otherwise both would stay
    in memory until a garbage collection, in which the event loop waits."""
    extensions: dict[str, Any] = scope.get("extensions") or {}
    extensions.pop(_CONNECTION, None)
