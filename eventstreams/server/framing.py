"""Frames bodies, and refuses requests whose body a proxy might delimit differently."""

from __future__ import annotations

from collections.abc import Callable

import httptools


def refuse_ambiguous(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Raise ValueError for requests that a proxy might read differently (RFC 9112, 3.2 and 6.1).

    The parser has already refused contradictory lengths.
    """
    if version not in ("1.0", "1.1"):
        raise ValueError("The gateway supports HTTP/1.1 and HTTP/1.0")
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise ValueError("A request needs exactly one Host header")
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or version == "1.0"):
        raise ValueError("The only supported transfer coding is chunked, in HTTP/1.1")


def chunked(body: bytes) -> bytes:
    """Return the body as one chunk of HTTP/1.1's chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def framing_of(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """Return the header that determines the body's length, or None if there is no body."""
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and int(value)):
            return name + b": " + value
    return None


class _Calls:
    """The callbacks of a body parser."""

    def __init__(self, on_body: Callable[[bytes], None], on_complete: Callable[[], None]) -> None:
        self.on_body = on_body
        self.on_message_complete = on_complete


def body_parser(
    framing: bytes, *, on_body: Callable[[bytes], None], on_complete: Callable[[], None]
) -> httptools.HttpRequestParser:
    """Return a parser for the body of a request whose head another parser has read.

    The parser of a request with an `Upgrade` header stops after the head. The gateway ignores the
    upgrade (RFC 9110, 7.8), so the body is read like that of any other request. `framing` comes
    from `framing_of`.
    """
    parser = httptools.HttpRequestParser(_Calls(on_body, on_complete))
    parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
    return parser
