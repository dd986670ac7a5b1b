"""What a stream request asks for: names, from where, how far, what of it. Parsing only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from starlette.types import Scope

from eventstreams.errors import InvalidParameter, InvalidTimestamp, ServiceProblem
from eventstreams.fanout.bound import now_ms
from eventstreams.fanout.selector import parse_selector
from eventstreams.fanout.want import Format, Want, everything
from eventstreams.model.extent import Extent, unwrap
from eventstreams.model.instant import parse_moment
from eventstreams.model.position import Mark, parse_last_event_id
from eventstreams.settings import Compression
from eventstreams.web import coding

PREFIX = "/v2/stream/"
NAMES_MAX = 1000
"""Streams in a path."""
PARAMETERS_MAX = 100
"""In a query. Each costs a microsecond or two, several times over."""
_ID_PARAMETERS = ("last-event-id", "lasteventid")
_SINGLE = (
    *("filter", "fields", "sample", "canary", "until", "limit", "max_seconds"),
    *("heartbeat", "gap", "compress"),
)
_WHOLE = re.compile(r"\d{1,15}", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,3})?", re.ASCII)
_FORMS = (
    "give milliseconds since 1970 (13 digits), seconds (10 digits), ISO 8601 like "
    "2026-01-31T12:00:00Z, a time ago like -15m, -2h or -7d, or earliest"
)
_JOINED_IDS = re.compile(
    r"(?:(?<=\])|(?<=\]\})|v[12]\.[\w-]++)\s*+,\s*+(?=[\[{])|(?<!\s)\s*+,\s*+(?=v[12]\.)"
)
"""Between ids that a proxy has joined to one header line; never within one. It takes time in
proportion to the text: no white space is gone through more than a few times."""


class Query(NamedTuple):
    """The query's parameters that mean something here, undecided."""

    since: list[str]
    last_event_id: str | None
    single: dict[str, str]
    """Those of `_SINGLE` that are there and not empty."""


class Ask(NamedTuple):
    """All that a request for streams says, but for the streams' names."""

    template: Want
    extent: Extent | None
    since_ms: int | None
    marks: tuple[Mark | str, ...] | None


def names_streams(scope: Scope) -> bool:
    """Whether it is the path of a stream."""
    names = _names(scope)
    return bool(names) and "/" not in names


def stream_names(scope: Scope) -> list[str]:
    """The names in the path of a stream. Raises InvalidParameter."""
    names = unquote(_names(scope)).split(",", NAMES_MAX)
    if len(names) > NAMES_MAX:
        raise InvalidParameter(f"The path names more than {NAMES_MAX} streams")
    return names


def _names(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    path: str = raw.decode("latin-1") if raw else scope["path"]
    return path.removeprefix(PREFIX).removesuffix("/")


def read(scope: Scope, compression: Compression) -> Ask:
    """Raises InvalidTimestamp, InvalidParameter, InvalidFilter, InvalidFields, InvalidSample,
    InvalidAssignment."""
    query = parse_query(scope)
    now = now_ms()
    since_ms = parse_since(query.since, now)
    bounds = _extent(query.single, now)
    selector = parse_selector(
        *(query.single.get(name) for name in ("filter", "fields", "sample")),
        canaries=_choice(query.single, "canary", ("true", "false")) != "false",
    )
    checkpoints = _choice(query.single, "heartbeat", ("checkpoint", "comment"))
    gap = _choice(query.single, "gap", ("tell", "fail"))
    from_browser = is_browser(scope)
    encoding = coding.choose(
        compression,
        header_list(scope, b"accept-encoding"),
        query.single.get("compress"),
        is_browser=from_browser,
    )
    text = _last_event_id(scope) or query.last_event_id
    carried, text = unwrap(text) if text else (None, None)
    extent = carried if carried is not None else bounds
    template = everything(wanted_format(scope))._replace(
        selector=selector,
        checkpoints=from_browser if checkpoints is None else checkpoints == "checkpoint",
        gap_fails=gap == "fail",
        extent=None if extent is None else extent._replace(left=None),
        encoding=encoding,
    )
    marks = parse_last_event_id(text) if text else None
    return Ask(template, extent, since_ms, marks)


def _last_event_id(scope: Scope) -> str | None:
    """The newest id: of several header lines the last that is not empty, because a client that was
    started with one appends those that it receives."""
    lines = [value for key, value in scope["headers"] if key == b"last-event-id" and value.strip()]
    if not lines:
        return None
    text = str(lines[-1].decode("utf-8", "replace"))
    return _JOINED_IDS.split(text)[-1].strip()


def parse_query(scope: Scope) -> Query:
    """Raises InvalidParameter."""
    text = scope.get("query_string", b"").decode("latin-1")
    since: list[str] = []
    last_event_id = None
    single: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name == "since" or name.startswith("since["):
            since.append(value if name == "since" else name)
        elif name.lower() in _ID_PARAMETERS and value:
            last_event_id = value
        elif name in _SINGLE and value.strip():
            if name in single:
                raise InvalidParameter(f"{name} is given more than once")
            single[name] = value
    return Query(since, last_event_id, single)


def parse_since(values: Sequence[str], now: int) -> int | None:
    """Milliseconds; None where absent or empty. Raises InvalidTimestamp."""
    if not values:
        return None
    if len(values) > 1:
        raise InvalidTimestamp(f"since is given {len(values)} times: {', '.join(values)}")
    text = values[0].strip()
    return _moment("since", text, now) if text else None


def _moment(name: str, text: str, now: int) -> int:
    at = parse_moment(text, now)
    if at is None:
        raise InvalidTimestamp(f"{name}={text} is not a time: {_FORMS}")
    return max(0, at)


def _extent(single: Mapping[str, str], now: int) -> Extent | None:
    until, limit, seconds = (single.get(name) for name in ("until", "limit", "max_seconds"))
    if until is None and limit is None and seconds is None:
        return None
    if limit is not None and not (_WHOLE.fullmatch(limit.strip()) and int(limit)):
        raise InvalidParameter(f"limit={limit} is not a whole number of events from 1 on")
    if seconds is not None and not (_SECONDS.fullmatch(seconds.strip()) and float(seconds)):
        raise InvalidParameter(f"max_seconds={seconds} is not a number of seconds above 0")
    return Extent(
        until_ms=None if until is None else _moment("until", until, now),
        deadline_ms=None if seconds is None else now + max(1, round(float(seconds) * 1000)),
        left=None if limit is None else int(limit),
    )


def _choice(single: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str | None:
    value = single.get(name)
    if value is not None and value not in choices:
        raise InvalidParameter(f"{name}={value} is not one of: {', '.join(choices)}")
    return value


def is_browser(scope: Scope) -> bool:
    """Browsers say which site a request comes from; Node's fetch says its mode alone."""
    return any(key == b"sec-fetch-site" for key, _ in scope["headers"])


def wanted_format(scope: Scope) -> Format:
    """As upstream: a prefix test, and never 406."""
    accept = header(scope, b"accept") or ""
    return Format.NDJSON if accept.startswith("application/json") else Format.SSE


def header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("utf-8", "replace"))
    return None


class RepeatedHeader(ServiceProblem):
    title = "Repeated Header"


def single_header(scope: Scope, name: bytes) -> str | None:
    """A header that may have one line only (RFC 9110, 5.3): of two, a proxy in front could use the
    other one. Raises RepeatedHeader."""
    if sum(key == name for key, _ in scope["headers"]) > 1:
        raise RepeatedHeader(f"The request has several {name.decode()} headers; send one")
    return header(scope, name)


def header_list(scope: Scope, name: bytes) -> str | None:
    """Of a header that is a list: its lines as one, as RFC 9110 has it."""
    lines = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return ", ".join(lines) if lines else None
