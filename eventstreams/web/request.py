"""What a stream request asks for: names, since, Last-Event-ID, format. Parsing only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from starlette.types import Scope

from eventstreams.errors import InvalidTimestamp
from eventstreams.fanout.want import Format
from eventstreams.model.instant import parse_instant
from eventstreams.model.position import Mark, parse_last_event_id

PREFIX = "/v2/stream/"
_ID_PARAMETERS = ("last-event-id", "lasteventid")


class Query(NamedTuple):
    """The query's parameters that mean something here, undecided."""

    since: list[str]
    last_event_id: str | None


def stream_names(scope: Scope) -> list[str] | None:
    """The names in the path; None where it is not the path of a stream."""
    raw: bytes | None = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else scope["path"]
    rest = path.removeprefix(PREFIX)
    if not rest or "/" in rest:
        return None
    return unquote(rest).split(",")


def parse_query(scope: Scope) -> Query:
    text = scope.get("query_string", b"").decode("latin-1")
    since: list[str] = []
    last_event_id = None
    for name, value in parse_qsl(text, keep_blank_values=True, max_num_fields=None):
        if name == "since" or name.startswith("since["):
            since.append(value if name == "since" else name)
        elif name.lower() in _ID_PARAMETERS and value:
            last_event_id = value
    return Query(since, last_event_id)


def parse_since(values: Sequence[str]) -> int | None:
    """Milliseconds; None where absent or empty. Raises InvalidTimestamp."""
    if not values:
        return None
    if len(values) > 1:
        raise InvalidTimestamp(f"since is given {len(values)} times: {', '.join(values)}")
    text = values[0].strip()
    if not text:
        return None
    since_ms = parse_instant(text)
    if since_ms is None:
        raise InvalidTimestamp(
            f"since={text} is not a time: give milliseconds since 1970, or ISO 8601 like "
            "2026-01-31T12:00:00Z"
        )
    return max(0, since_ms)


def marks(scope: Scope, query: Query) -> tuple[Mark | str, ...] | None:
    """The Last-Event-ID of the header, else of the query. Raises InvalidAssignment."""
    text = (header(scope, b"last-event-id") or "").strip() or query.last_event_id
    return parse_last_event_id(text) if text else None


def wanted_format(scope: Scope) -> Format:
    """As upstream: a prefix test, and never 406."""
    accept = header(scope, b"accept") or ""
    return Format.NDJSON if accept.startswith("application/json") else Format.SSE


def header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("utf-8", "replace"))
    return None
