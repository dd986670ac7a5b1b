"""What a connection beyond the most there may be is told."""

from __future__ import annotations


def full(retry_after_s: int) -> bytes:
    """The whole answer of a process that has as many connections as it may."""
    body = b'{"status":503,"type":"unavailable","title":"Service Unavailable"}\n'
    return (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"content-type: application/json; charset=utf-8\r\n"
        b"access-control-allow-origin: *\r\n"
        b"retry-after: %d\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
        % (retry_after_s, len(body), body)
    )
