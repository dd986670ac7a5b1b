"""Fills in fields that an event lacks, but only fields that its schema declares.

As in eventgate-wikimedia, these are `meta.id`, `meta.dt`, headers of the request, the client's
address, and `dt` for legacy schemas, in which it is the time of receipt.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from eventstreams.model.stream_config import StreamConfig
from eventstreams.model.timestamp import parse_timestamp
from eventstreams.schemas.fields import field_schema
from eventstreams.schemas.repository import Schema

Path = tuple[str, ...]

_HEADERS: Mapping[str, str] = {
    "meta.request_id": "x-request-id",
    "http.request_headers.user-agent": "user-agent",
}
"""The header that fills each field, unless the stream's own settings override it."""
_LEGACY = "analytics/legacy"
_VALUE_MAX = 400
"""The number of characters that are kept of a header."""
_ID, _DT, _RECEIVED, _CLIENT_IP = ("meta", "id"), ("meta", "dt"), ("dt",), ("http", "client_ip")
_IDS_AT_ONCE = 64
_VARIANT = dict(zip("0123456789abcdef", 4 * "89ab", strict=True))

_ids: list[str] = []
os.register_at_fork(after_in_child=_ids.clear)  # otherwise a child repeats the ids of its parent


def new_id() -> str:
    """Return a random UUID (RFC 9562, version 4), more than twice as fast as uuid.uuid4.

    The random bytes of many ids are requested at once, because each request is a system call.
    """
    if not _ids:
        digits = os.urandom(16 * _IDS_AT_ONCE).hex()
        _ids.extend(_uuid(digits[at : at + 32]) for at in range(0, len(digits), 32))
    return _ids.pop()


def _uuid(d: str) -> str:
    """Return 32 random hexadecimal digits as a UUID."""
    return f"{d[:8]}-{d[8:12]}-4{d[13:16]}-{_VARIANT[d[16]]}{d[17:20]}-{d[20:]}"


class Sender(NamedTuple):
    """The sender of a request, from its headers and its query."""

    header: Callable[[str], str | None]
    """Returns the value of a header, or None. The name must be in lower case."""
    client_ip: str | None
    site: str
    """The address or network that is charged for the work on the request."""
    schema_uri: str | None = None
    """The schema URI for events that do not name one."""
    stream: str | None = None
    may_post_to: Callable[[str], bool] | None = None
    """Returns whether the sender may post to a stream; None if it may post to every stream."""


class Enrichment:
    """Fills in missing fields of the events of one schema in one stream."""

    def __init__(self, schema: Schema, config: StreamConfig) -> None:
        document = schema.document
        self._id = _has(document, _ID)
        self._dt = _has(document, _DT)
        self._received = schema.title.startswith(_LEGACY) and _has(document, _RECEIVED)
        self._client_ip = _has(document, _CLIENT_IP)
        wanted: dict[str, str | None] = {**_HEADERS, **config.enrich}
        self._headers = [
            (path[:-1], path[-1], header.lower())
            for field, header in wanted.items()
            if header and _may_have(document, path := _path(field))
        ]

    def fill(self, document: dict[str, Any], sender: Sender, now: str) -> bool:
        """Fill in missing fields of `document`, and return whether `meta.dt` was filled in.

        `now` is an ISO 8601 time in UTC.
        """
        meta = document.get("meta")
        dated = False
        if isinstance(meta, dict):
            fields = cast("dict[str, Any]", meta)
            if self._id and "id" not in fields:
                fields["id"] = new_id()
            if self._dt and "dt" not in fields:
                fields["dt"] = now
                dated = True
        if self._received and "dt" not in document:
            document["dt"] = now
        for parents, name, header in self._headers:
            value = sender.header(header)
            if value is not None:
                _put(document, parents, name, value[:_VALUE_MAX])
        if self._client_ip and sender.client_ip is not None:
            _put(document, _CLIENT_IP[:-1], _CLIENT_IP[-1], sender.client_ip)
        return dated


def value_at(document: Any, path: Path) -> Any:
    """Return the value at `path`, or None if there is none."""
    for name in path:
        if not isinstance(document, dict):
            return None
        document = cast("dict[str, Any]", document).get(name)
    return document


def time_of(document: dict[str, Any]) -> int | None:
    """Return the time of `meta.dt` in milliseconds since 1970.

    Returns None if it is missing or outside what a log can store; the time of appending then
    applies.
    """
    text = value_at(document, _DT)
    timestamp_ms = parse_timestamp(text) if isinstance(text, str) else None
    return timestamp_ms if timestamp_ms is not None and timestamp_ms >= 0 else None


def _path(field: str) -> Path:
    return tuple(field.split("."))


def _put(document: dict[str, Any], parents: Path, name: str, value: str) -> None:
    """Set a field, unless it or one of its parents already has another value."""
    for parent in parents:
        below = document.setdefault(parent, {})
        if not isinstance(below, dict):
            return
        document = cast("dict[str, Any]", below)
    document.setdefault(name, value)


def _has(schema: Mapping[str, Any], path: Path) -> bool:
    return field_schema(schema, path) is not None


def _may_have(schema: Mapping[str, Any], path: Path) -> bool:
    """Return whether the schema declares the field, or allows it as a key of a map."""
    if _has(schema, path):
        return True
    parent = field_schema(schema, path[:-1])
    return parent is not None and isinstance(parent.get("additionalProperties"), dict)
