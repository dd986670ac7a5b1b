"""Errors of requests that the server refuses itself, before the application sees them."""

from __future__ import annotations

from eventstreams.errors import ServiceProblem


class BadRequest(ServiceProblem):
    """Not a request of HTTP/1.1, or one that a proxy in front could read in another way."""


class UriTooLong(ServiceProblem):
    status = 414
    type = "uri_too_long"
    title = "URI Too Long"


class HeadTooLarge(ServiceProblem):
    """Too many bytes or too many headers; trailers and chunk extensions count as well."""

    status = 431
    type = "head_too_large"
    title = "Request Header Fields Too Large"


class UnwantedBody(ServiceProblem):
    """A body that nobody reads, or in pieces so small that reading it costs too much."""

    status = 413
    type = "unwanted_body"
    title = "Content Too Large"
