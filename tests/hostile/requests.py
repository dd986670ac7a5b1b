"""Requests that some parsers interpret differently, each with the acceptable responses.

Where possible, each is followed by MARKER, which must not be taken for a request.
"""

from __future__ import annotations

from typing import NamedTuple

HOST = b"Host: a\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
MARKER_PATH = "/smuggled"
MARKER = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
_POST = b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"


class Case(NamedTuple):
    name: str
    data: bytes
    statuses: tuple[int, ...]
    """The statuses of the responses, in order; after the last, the gateway ends the connection."""


def _sized(length: bytes, body: bytes = b"[]" + MARKER) -> bytes:
    return _POST + b"Content-Length: " + length + b"\r\n\r\n" + body


def _coded(coding: bytes, body: bytes = b"0\r\n\r\n" + MARKER) -> bytes:
    return _POST + coding + b"\r\n\r\n" + body


def _chunked(body: bytes) -> bytes:
    return _coded(b"Transfer-Encoding: chunked", body + MARKER)


def _whole(chunks: bytes) -> bytes:
    return _coded(b"Transfer-Encoding: chunked", chunks + LAST)


def _headed(line: bytes) -> bytes:
    return b"GET /healthz HTTP/1.1\r\n" + HOST + line + b"\r\n" + MARKER


BAD = (400,)
LENGTHS = [
    Case("two lengths", _sized(b"0\r\nContent-Length: 37"), BAD),
    Case("the same length twice", _sized(b"2\r\nContent-Length: 2"), BAD),
    Case("a list of lengths", _sized(b"2, 2"), BAD),
    Case("plus", _sized(b"+2"), BAD),
    Case("minus", _sized(b"-2"), BAD),
    Case("a space within", _sized(b"1 2"), BAD),
    Case("hexadecimal", _sized(b"0x2"), BAD),
    Case("a fraction", _sized(b"2.0"), BAD),
    Case("an exponent", _sized(b"2e0"), BAD),
    Case("an underscore", _sized(b"0_2"), BAD),
    Case("digits of another script", _sized("\uff12".encode()), BAD),
    Case("empty", _sized(b""), BAD),
    Case("beyond 64 bits", _sized(b"18446744073709551618"), BAD),
    Case("5,000 digits", _sized(b"9" * 5000), BAD),
    Case("a space before the colon", _POST + b"Content-Length : 2\r\n\r\n[]" + MARKER, BAD),
    Case("a length and chunks", _coded(b"Transfer-Encoding: chunked\r\nContent-Length: 5"), BAD),
    Case("chunks and a length", _coded(b"Content-Length: 5\r\nTransfer-Encoding: chunked"), BAD),
    Case("more than may be", _sized(b"99999999", MARKER), (413,)),
    Case("more than may be, announced", _sized(b"99999999\r\nExpect: 100-continue", b""), (413,)),
    Case("not for this address", b"POST /no" + _sized(b"999", MARKER)[8:], (404,)),
    Case("of a HEAD", b"HEAD /nope" + _sized(b"999", MARKER)[15:], (404,)),
]
CODINGS = [
    Case("unknown", _coded(b"Transfer-Encoding: xchunked"), BAD),
    Case("identity", _coded(b"Transfer-Encoding: identity"), BAD),
    Case("gzip, chunked", _coded(b"Transfer-Encoding: gzip, chunked"), BAD),
    Case("chunked, identity", _coded(b"Transfer-Encoding: chunked, identity"), BAD),
    Case("chunked, chunked", _coded(b"Transfer-Encoding: chunked, chunked"), BAD),
    Case("chunked, cow", _coded(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow"), BAD),
    Case("cow, chunked", _coded(b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked"), BAD),
    Case("identity twice", _coded(b"Transfer-Encoding: identity, chunked"), BAD),
    Case("a vertical tab", _coded(b"Transfer-Encoding: \x0bchunked"), BAD),
    Case("quoted", _coded(b'Transfer-Encoding: "chunked"'), BAD),
    Case("with a parameter", _coded(b"Transfer-Encoding: chunked;q=1"), BAD),
    Case("a space before the colon", _coded(b"Transfer-Encoding : chunked"), BAD),
    Case("a tab before the colon", _coded(b"Transfer-Encoding\t: chunked"), BAD),
    Case("folded", _coded(b"Transfer-Encoding:\r\n chunked"), BAD),
    Case("behind a fold", _coded(b"X: y\r\n Transfer-Encoding: chunked"), BAD),
    Case("behind a bare CR", _coded(b"X: y\rTransfer-Encoding: chunked"), BAD),
    Case("behind a bare LF", _coded(b"X: y\nTransfer-Encoding: chunked"), BAD),
    Case("a NUL in its name", _coded(b"Transfer\0-Encoding: chunked"), BAD),
    Case("a NUL in its value", _coded(b"Transfer-Encoding: chunked\0"), BAD),
    Case("HTTP/1.0", _coded(b"Transfer-Encoding: chunked").replace(b"P/1.1", b"P/1.0", 1), BAD),
]
CHUNKS = [
    Case("0x", _chunked(b"0x2\r\n[]\r\n0\r\n\r\n"), BAD),
    Case("minus", _chunked(b"-2\r\n[]\r\n0\r\n\r\n"), BAD),
    Case("plus", _chunked(b"+2\r\n[]\r\n0\r\n\r\n"), BAD),
    Case("a space behind the size", _chunked(b"2 \r\n[]\r\n0\r\n\r\n"), BAD),
    Case("a space before the size", _chunked(b" 2\r\n[]\r\n0\r\n\r\n"), BAD),
    Case("no size", _chunked(b"\r\n[]\r\n0\r\n\r\n"), BAD),
    Case("bare LF", _chunked(b"2\n[]\n0\n\n"), BAD),
    Case("bare LF behind the last", _chunked(b"2\r\n[]\r\n0\n\n"), BAD),
    Case("bare CR", _chunked(b"2\r[]\r0\r\r"), BAD),
    Case("beyond 64 bits", _chunked(b"10000000000000002\r\n[]\r\n0\r\n\r\n"), BAD),
    Case("an LF in an extension", _chunked(b"2;a\n[]\r\n0\r\n\r\n"), BAD),
    Case("an LF in a quoted extension", _chunked(b'2;a="b\nc"\r\n[]\r\n0\r\n\r\n'), BAD),
    Case("longer than it says", _chunked(b"2\r\n[]XX0\r\n\r\n"), BAD),
    Case("shorter than it says", _chunked(b"3\r\n[]\r\n0\r\n\r\n"), BAD),
    Case("a length among the trailers", _chunked(b"0\r\nContent-Length: 40\r\n\r\n"), BAD),
    Case("a coding among the trailers", _chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), BAD),
]
LINES = [
    Case("bare LF", b"GET /healthz HTTP/1.1\nHost: a\n\n" + MARKER, BAD),
    Case("bare LF behind a header", _headed(b"X: y\n"), BAD),
    Case("bare LF at the end", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\n" + MARKER, BAD),
    Case("bare CR", _headed(b"X: y\rZ: z\r\n"), BAD),
    Case("a space before the colon", _headed(b"X : y\r\n"), BAD),
    Case("no colon", _headed(b"X\r\n"), BAD),
    Case("no name", _headed(b": y\r\n"), BAD),
    Case("folded", _headed(b"X: y\r\n z\r\n"), BAD),
    Case("folded at once", b"GET /healthz HTTP/1.1\r\n Host: a\r\n\r\n" + MARKER, BAD),
    Case("a NUL", _headed(b"X: y\0z\r\n"), BAD),
    Case("a control character", _headed(b"X: y\x01z\r\n"), BAD),
    Case("DEL", _headed(b"X: y\x7fz\r\n"), BAD),
    Case("not ASCII in a name", _headed(b"X\xff: y\r\n"), BAD),
    Case("two hosts", _headed(b"Host: b\r\n"), BAD),
    Case("no host", b"GET /healthz HTTP/1.1\r\n\r\n" + MARKER, BAD),
]
TARGETS = [
    Case("lower case", b"get" + GET[3:] + MARKER, BAD),
    Case("an unknown method", b"FOO" + GET[3:] + MARKER, BAD),
    Case("tabs", GET.replace(b" /healthz ", b"\t/healthz\t") + MARKER, BAD),
    Case("no slash", GET.replace(b"/healthz", b"healthz") + MARKER, BAD),
    Case("of an authority", GET.replace(b"/healthz", b"evil:80") + MARKER, BAD),
    Case("a tunnel", b"CONNECT evil:80 HTTP/1.1\r\n" + HOST + b"\r\n" + MARKER, BAD),
    Case("a tunnel to a path", b"CONNECT /healthz HTTP/1.1\r\n" + HOST + b"\r\n" + MARKER, (404,)),
    Case("absolute, without a path", GET.replace(b"/healthz", b"http://evil") + MARKER, BAD),
    Case("not ASCII", GET.replace(b"/healthz", b"/\xff") + MARKER, BAD),
    Case("64 KiB", GET.replace(b"/healthz", b"/" + b"a" * 65_536) + MARKER, (414,)),
    Case("HTTP/0.9", b"GET /healthz\r\n\r\n" + MARKER, BAD),
    Case("HTTP/1.2", GET.replace(b"P/1.1", b"P/1.2") + MARKER, BAD),
    Case("HTTP/2.0", GET.replace(b"P/1.1", b"P/2.0") + MARKER, BAD),
    Case("HTTP/01.1", GET.replace(b"P/1.1", b"P/01.1") + MARKER, BAD),
]
ENDS = [
    Case("to be closed", _headed(b"Connection: close\r\n"), (200,)),
    Case("HTTP/1.0", GET.replace(b"P/1.1", b"P/1.0") + MARKER, (200,)),
    Case("of another protocol", _headed(b"Connection: upgrade\r\nUpgrade: h2c\r\n"), (200,)),
    Case("a socket", _headed(b"Connection: upgrade\r\nUpgrade: websocket\r\n"), (200,)),
]
FINE = [
    Case("absolute", LAST.replace(b"/healthz", b"http://a/healthz"), (200,)),
    Case("of the server", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n" + LAST, (200, 200)),
    Case("after line ends", b"\r\n\r\n" + LAST, (200,)),
    Case("three at once", GET * 2 + LAST, (200, 200, 200)),
    Case("spaces round a length", _sized(b" 2 ", b"[]") + LAST, (400, 200)),
    Case("chunks", _whole(b"2\r\n[]\r\n0\r\n\r\n"), (400, 200)),
    Case("extensions", _whole(b"2;a=b\r\n[]\r\n0;a\r\n\r\n"), (400, 200)),
    Case("trailers", _whole(b"2\r\n[]\r\n0\r\nX-Client-IP: 192.0.2.1\r\n\r\n"), (400, 200)),
    Case(
        "a body of a GET", GET[:-2] + b"Content-Length: 70\r\n\r\n" + MARKER * 2 + LAST, (200, 200)
    ),
]
"""Rare requests with a single meaning."""
AMBIGUOUS = {
    "lengths": LENGTHS,
    "codings": CODINGS,
    "chunks": CHUNKS,
    "lines": LINES,
    "targets": TARGETS,
    "ends": ENDS,
}
EVERY = [(f"{kind}: {case.name}", case) for kind, cases in AMBIGUOUS.items() for case in cases]
EVERY += [(f"fine: {case.name}", case) for case in FINE]
