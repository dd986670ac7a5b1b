"""Answers that are not streams: headers common to all, problems as JSON, pages.

Both upstream error shapes are made here. Pure ASGI: nothing here buffers or wraps a stream.
"""

from __future__ import annotations

import html
import random
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import orjson
from starlette.types import Scope, Send

from eventstreams.errors import (
    AssignmentProblem,
    ClientError,
    GapFound,
    GatewayStopping,
    ServiceProblem,
)
from eventstreams.settings import HttpSettings

Headers = list[tuple[bytes, bytes]]

ALLOW_HEADERS = (
    b"accept, x-requested-with, content-type, last-event-id, cache-control, authorization"
)
_EXPOSED = b"etag, retry-after, x-eventstreams-gap, x-eventstreams-error"
_REASON_MAX = 200
_NO_CONTENT = 204
_SPREAD = 3
_GAP_HEADER_BYTES_MAX = 2048
"""nginx answers 502 where the whole head of a response exceeds 4 KiB."""


def common_headers(settings: HttpSettings, *, cookies: bool = False) -> Headers:
    """CORS, and the defences of the pages. They stand on every answer, errors too.

    `cookies`: one may let a page in, if it is of the one site that may read the answers.
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


async def answer(
    send: Send, status: int, headers: Headers, body: bytes, content_type: bytes | None
) -> None:
    if content_type is not None:
        headers = [*headers, (b"content-type", content_type)]
    if status != _NO_CONTENT:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def refuse(scope: Scope, send: Send, headers: Headers, error: ClientError) -> None:
    """Answers a request that can't be answered as asked, in the error's own shape."""
    challenge: bytes | None = getattr(error, "challenge", None)
    if challenge is not None:
        headers = [*headers, (b"www-authenticate", challenge)]
    soonest_s: int | None = getattr(error, "retry_after_s", None)
    if soonest_s is not None:
        headers = [*headers, (b"retry-after", b"%d" % (spread_ms(soonest_s) // 1000))]
    if isinstance(error, GatewayStopping):  # the client's next connection meets another process
        headers = [*headers, (b"connection", b"close")]
    if isinstance(error, GapFound):
        body = orjson.dumps(error.document)
        await answer(send, error.status, headers, body, b"application/json; charset=utf-8")
    elif isinstance(error, AssignmentProblem):
        set_reason(scope, f"{error.name}: {error.message}")
        body = orjson.dumps(error.body()) + b"\n"
        await answer(send, error.status, headers, body, None)
    else:
        assert isinstance(error, ServiceProblem)
        body = orjson.dumps(
            {
                "status": error.status,
                "type": error.type,
                "title": error.title,
                "detail": error.detail,
                "method": scope["method"],
                "uri": uri(scope),
            }
        )
        await answer(send, error.status, headers, body, b"application/json; charset=utf-8")


def spread_ms(soonest_s: int) -> int:
    """When to come back: clients that are refused together must not all come back at once."""
    return random.randint(soonest_s * 1000, soonest_s * 1000 * _SPREAD)  # noqa: S311 - no secret


def set_reason(scope: Scope, reason: str) -> None:
    """Asks the server for this reason phrase; one that can't send it sends the standard one."""
    extensions: dict[str, Any] = scope.get("extensions") or {}
    connection = extensions.get("eventstreams.connection")
    if connection is not None:
        connection.set_reason(printable(reason))


def printable(text: str) -> bytes:
    """For a reason phrase or a header: whatever a client wrote into it, it stays one line."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:_REASON_MAX]).encode("ascii")


def gap_header(document: dict[str, Any]) -> bytes:
    """The gaps as JSON in at most `_GAP_HEADER_BYTES_MAX`; `left_out` counts those beyond it."""
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


async def not_found(scope: Scope, send: Send, headers: Headers) -> None:
    """The page that upstream's web framework answers with."""
    title = html.escape(f"Cannot {scope['method']} {quote(scope['path'])}")
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n'
        f"</head>\n<body>\n<pre>{title}</pre>\n</body>\n</html>\n"
    )
    await answer(send, 404, headers, page.encode(), b"text/html; charset=utf-8")


def _is_ticket(part: bytes) -> bool:
    """However its name is spelt."""
    name, equals, _ = part.partition(b"=")
    return bool(equals) and unquote_to_bytes(name) == b"ticket"


def uri(scope: Scope) -> str:
    """The request's path and query as they were sent, but for a ticket."""
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    parts = (scope.get("query_string") or b"").split(b"&")
    query = b"&".join(b"ticket=..." if _is_ticket(part) else part for part in parts)
    return (path + b"?" + query if query else path).decode("latin-1")
