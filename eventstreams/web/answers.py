"""Builds responses other than streams: common headers, errors in KafkaSSE's forms, and pages.

`refusal` turns a ClientError into a response, for every route.
"""

from __future__ import annotations

import html
import random
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import orjson
from starlette.responses import Response
from starlette.types import Message, Scope, Send

from eventstreams.config.settings import HttpSettings
from eventstreams.errors import (
    AssignmentProblem,
    ClientError,
    GapFound,
    GatewayStopping,
    ServiceProblem,
)
from eventstreams.metrics import Metrics
from eventstreams.model import sse
from eventstreams.web.headers import header, is_browser

Headers = list[tuple[bytes, bytes]]

ALLOW_HEADERS = (
    b"accept, x-requested-with, content-type, last-event-id, cache-control, authorization"
)
_EXPOSED = b"etag, retry-after, x-eventstreams-gap, x-eventstreams-error, x-eventstreams-warning"
_REASON_MAX = 200
_PASSING = (429, 503)
"""The statuses of temporary errors: a client that retries later may succeed."""
_SOONEST_S = 20
JSON = "application/json; charset=utf-8"
EVENT_SOURCE_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
]
"""The headers of a 200 that refuses an EventSource."""
_SPREAD = 3
_GAP_HEADER_BYTES_MAX = 2048
"""nginx responds with 502 if the whole head of a response exceeds 4 KiB."""


def common_headers(settings: HttpSettings, *, cookies: bool = False) -> Headers:
    """Return the headers of every response, including errors: CORS and security headers.

    With `cookies`, pages of the one allowed site may send a cookie as authorization.
    """
    headers: Headers = []
    if settings.cors is not False:
        headers += [
            (b"access-control-allow-origin", settings.cors.encode("latin-1")),
            (b"access-control-allow-headers", ALLOW_HEADERS),
            (b"access-control-expose-headers", _EXPOSED),
        ]
        if cookies and settings.cors != "*":
            headers += [(b"access-control-allow-credentials", b"true"), (b"vary", b"origin")]
    headers += [
        (b"x-xss-protection", b"1; mode=block"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"SAMEORIGIN"),
    ]
    if settings.csp is not False:
        csp = settings.csp.encode("latin-1")
        headers += [
            (b"content-security-policy", csp),
            (b"x-content-security-policy", csp),
            (b"x-webkit-csp", csp),
        ]
    return headers


def with_headers(send: Send, headers: Headers) -> Send:
    """Return a `send` that adds these headers to the response."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *headers]
        await send(message)

    return sending


def refusal(
    scope: Scope, error: ClientError, metrics: Metrics, *, event_source: bool = False
) -> Response:
    """Count the error and return its response. All errors become responses here.

    With `event_source`, a browser's EventSource gets a response that it can use. On any status
    except 200 it gives up, and the page gets no reason. It therefore gets a 200 that says when to
    reconnect, or, if reconnecting cannot help, a 204, after which it never does (HTML, 9.2.3).
    """
    metrics.refused.labels(type(error).__name__).inc()
    if event_source and is_event_source(scope):
        return _event_source_refusal(error)
    headers: dict[str, str] = {}
    challenge: bytes | None = getattr(error, "challenge", None)
    if challenge is not None:
        headers["www-authenticate"] = challenge.decode("latin-1")
    soonest_s: int | None = getattr(error, "retry_after_s", None)
    if soonest_s is not None:
        headers["retry-after"] = str(spread_ms(soonest_s) // 1000)
    if isinstance(error, GatewayStopping):  # the client's next connection reaches another process
        headers["connection"] = "close"
    kind: str | None = JSON
    if isinstance(error, GapFound):
        body = orjson.dumps(error.document)
    elif isinstance(error, AssignmentProblem):
        set_reason(scope, f"{error.name}: {error.message}")
        body = orjson.dumps(error.body()) + b"\n"
        kind = None
    else:
        assert isinstance(error, ServiceProblem)
        document = {
            "status": error.status,
            "type": error.type,
            "title": error.title,
            "detail": error.detail,
            "method": scope["method"],
            "uri": uri(scope),
        }
        body = orjson.dumps(document)
    return Response(body, error.status, headers, kind)


def is_event_source(scope: Scope) -> bool:
    """Return whether a browser's EventSource sent the request.

    A page's fetch accepts anything by default, and libraries do not claim to be browsers.
    """
    accept = (header(scope, b"accept") or "").strip()
    return scope["method"] == "GET" and accept == "text/event-stream" and is_browser(scope)


def _event_source_refusal(error: ClientError) -> Response:
    if error.status in _PASSING:
        response = Response(event_source_body(error))
        response.raw_headers += EVENT_SOURCE_HEADERS
        return response
    text = printable(f"{type(error).__name__}: {_reason(error)}")
    return Response(status_code=204, headers={"x-eventstreams-error": text.decode("ascii")})


def event_source_body(error: ClientError) -> bytes:
    """Return the body of a 200 that refuses an EventSource: the reason, and when to reconnect."""
    soonest_s: int = getattr(error, "retry_after_s", None) or _SOONEST_S
    document = {"message": _reason(error), "name": type(error).__name__, "status": error.status}
    # It has no id: an empty one would erase the client's own.
    frame = b"event: error\ndata: %b\n\n" % orjson.dumps(document)
    return sse.OK + frame + sse.retry(spread_ms(soonest_s))


def _reason(error: ClientError) -> str:
    return " ".join(str(error).split())


def spread_ms(soonest_s: int) -> int:
    """Return a random time to retry after, in ms, so that refused clients do not retry at once."""
    return random.randint(soonest_s * 1000, soonest_s * 1000 * _SPREAD)  # noqa: S311 - no secret


def set_reason(scope: Scope, reason: str) -> None:
    """Set the reason phrase of the response, if the server supports that."""
    extensions: dict[str, Any] = scope.get("extensions") or {}
    connection = extensions.get("eventstreams.connection")
    if connection is not None:
        connection.set_reason(printable(reason))


def printable(text: str) -> bytes:
    """Return text for a reason phrase or a header: one line of printable ASCII."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:_REASON_MAX]).encode("ascii")


def gap_header(document: dict[str, Any]) -> bytes:
    """Return the gaps as JSON of at most `_GAP_HEADER_BYTES_MAX`; `left_out` counts the rest."""
    whole = orjson.dumps(document)
    if len(whole) <= _GAP_HEADER_BYTES_MAX:
        return whole
    gaps: list[Any] = document["partitions"]
    size = len(orjson.dumps({**document, "partitions": [], "left_out": len(gaps)}))
    kept = 0
    for gap in gaps:
        size += len(orjson.dumps(gap)) + 1
        if size > _GAP_HEADER_BYTES_MAX:
            break
        kept += 1
    short = {**document, "partitions": gaps[:kept], "left_out": len(gaps) - kept}
    return orjson.dumps(short)


def not_found(scope: Scope) -> Response:
    """Return the 404 page of Express, which Wikimedia's service uses, with a link to all paths."""
    title = html.escape(f"Cannot {scope['method']} {quote(scope['path'])}")
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n'
        f"</head>\n<body>\n<pre>{title}</pre>\n"
        '<p>The <a href="/?doc">API reference</a> lists all paths.</p>\n'
        "</body>\n</html>\n"
    )
    return Response(page, 404, media_type="text/html")


def preflight(methods: str, kind: str = "text/plain") -> Response:
    """Return the response to OPTIONS."""
    allowed = {
        "allow": methods,
        "access-control-allow-methods": methods,
        "access-control-max-age": "86400",
    }
    return Response(methods, headers=allowed, media_type=kind)


def _is_ticket(part: bytes) -> bool:
    """Return whether this part of a query is a ticket, even if its name is percent-encoded."""
    name, equals, _ = part.partition(b"=")
    return bool(equals) and unquote_to_bytes(name) == b"ticket"


def uri(scope: Scope) -> str:
    """Return the request's path and query as they were sent, with any ticket replaced."""
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    parts = (scope.get("query_string") or b"").split(b"&")
    query = b"&".join(b"ticket=..." if _is_ticket(part) else part for part in parts)
    return (path + b"?" + query if query else path).decode("latin-1")
