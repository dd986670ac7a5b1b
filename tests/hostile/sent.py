"""Puts each case of the corpus into HTTP requests."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from urllib.parse import quote_from_bytes

from tests.support.intake import TEST
from tests.support.target import ADMIN_KEY, COOKIE, SECRET_STREAM

STREAM = b"/v2/stream/" + TEST.encode()
SECRET = b"/v2/stream/" + SECRET_STREAM.encode()
EXPLAIN = b"/v2/explain?streams=" + TEST.encode() + b"&"
_OPERATOR = b"Authorization: Bearer " + ADMIN_KEY.encode()
_BROWSER = b"Accept: text/event-stream", b"Sec-Fetch-Site: cross-site"

Requests = Iterator[bytes]


def encoded(case: bytes) -> bytes:
    return quote_from_bytes(case, safe="").encode()


def get(target: bytes, *lines: bytes, method: bytes = b"GET") -> bytes:
    """Whether the connection ends after the response."""
    head = [method + b" " + target + b" HTTP/1.1", b"Host: a", b"Connection: close", *lines]
    return b"\r\n".join([*head, b"", b""])


def head(target: bytes, *lines: bytes) -> bytes:
    return get(target, *lines, method=b"HEAD")


def posted(body: bytes, *lines: bytes, query: bytes = b"") -> bytes:
    length = b"Content-Length: %d" % len(body)
    kind = b"Content-Type: application/json"
    return get(b"/v1/events" + query, length, kind, *lines, method=b"POST") + body


def _streams(*parameters: bytes) -> Callable[[bytes], Requests]:
    def of(case: bytes) -> Requests:
        for parameter in parameters:
            yield head(STREAM + b"?" + parameter + encoded(case))
            yield get(EXPLAIN + parameter + encoded(case))

    return of


def _ids(case: bytes) -> Requests:
    yield from _streams(b"last-event-id=")(case)
    yield get(b"/v2/cursor?id=" + encoded(case))
    yield head(STREAM, b"Last-Event-ID: " + case)


def _names(case: bytes) -> Requests:
    yield head(b"/v2/stream/" + case)
    yield get(b"/v2/stream/" + case + b"?max_seconds=0.001", *_BROWSER)
    yield get(b"/v2/explain?streams=" + case)


def _forwarded(case: bytes) -> Requests:
    yield head(STREAM, b"X-Forwarded-For: " + case)
    yield head(STREAM, b"X-Client-IP: " + case)
    yield posted(b"[{}]", b"X-Client-IP: " + case)


def _encodings(case: bytes) -> Requests:
    for query in (b"", b"?compress=gzip"):
        yield head(STREAM + query, b"Accept-Encoding: " + case)


def _ranges(case: bytes) -> Requests:
    yield get(b"/?doc", b"Range: " + case)
    yield get(b"/v2/ui/live.js", b"Range: bytes=0-1", b"If-Range: " + case)


def _queries(case: bytes) -> Requests:
    for path in (b"/", b"/v2/explain", b"/v2/cursor", b"/v1/stream-configs"):
        yield get(path + b"?" + case)
    yield get(b"/v2/admin/clients?" + case, _OPERATOR)
    yield posted(b"[{}]", query=b"?" + case)
    yield head(STREAM + b"?" + case)
    yield head(SECRET + b"?" + case)


def _paths(case: bytes) -> Requests:
    for method in (b"GET", b"POST", b"DELETE", b"OPTIONS"):
        yield get(case, _OPERATOR, method=method)


def _tokens(case: bytes) -> Requests:
    for line in (b"Authorization: Bearer " + case, f"Cookie: {COOKIE}=".encode() + case):
        yield head(SECRET, line)
        yield get(b"/v2/ticket", line, method=b"POST")
    yield head(SECRET + b"?ticket=" + encoded(case))
    yield get(b"/v2/admin/clients", b"Authorization: Bearer " + case)


def _cookies(case: bytes) -> Requests:
    yield head(SECRET, b"Cookie: " + case)


def _bodies(case: bytes) -> Requests:
    yield posted(case)
    yield posted(case, query=b"?hasty=true")
    yield posted(gzip.compress(case), b"Content-Encoding: gzip")
    yield posted(case, b"Content-Encoding: gzip")


def _headers(case: bytes) -> Requests:
    for path in (b"/healthz", b"/?doc", b"/v2/explain?streams=x", b"/v1/schemas"):
        yield get(path, case)
    yield head(STREAM, case)
    yield posted(b"[{}]", case)


SENT: dict[str, Callable[[bytes], Requests]] = {
    "ids": _ids,
    "times": _streams(b"since=", b"until="),
    "numbers": _streams(b"limit=", b"max_seconds=", b"sample="),
    "filters": _streams(b"since=earliest&filter="),
    "fields": _streams(b"since=earliest&fields="),
    "names": _names,
    "forwarded": _forwarded,
    "encodings": _encodings,
    "ranges": _ranges,
    "queries": _queries,
    "paths": _paths,
    "tokens": _tokens,
    "cookies": _cookies,
    "bodies": _bodies,
    "headers": _headers,
}
