"""Reads the headers of a request in ASGI's form: names in lower case, values as bytes."""

from __future__ import annotations

from starlette.types import Scope

from eventstreams.errors import ServiceProblem


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first line of the header, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("utf-8", "replace"))
    return None


class RepeatedHeader(ServiceProblem):
    title = "Repeated Header"


def single_header(scope: Scope, name: bytes) -> str | None:
    """Return a header that may have only one line (RFC 9110, 5.3), or None.

    Raises RepeatedHeader if there are two, because a proxy might use the other one.
    """
    if sum(key == name for key, _ in scope["headers"]) > 1:
        raise RepeatedHeader(f"The request has several {name.decode()} headers; send one")
    return header(scope, name)


def header_list(scope: Scope, name: bytes) -> str | None:
    """Return the lines of a header that is a list as one line (RFC 9110, 5.3)."""
    lines = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return ", ".join(lines) if lines else None


def is_browser(scope: Scope) -> bool:
    """Return whether a browser sent the request: browsers name the site that it comes from."""
    return any(key == b"sec-fetch-site" for key, _ in scope["headers"])
