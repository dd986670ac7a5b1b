"""Parses stream requests: names, start, stop condition and selection."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from starlette.types import Scope

from eventstreams.config.settings import Compression
from eventstreams.errors import InvalidParameter, InvalidTimestamp
from eventstreams.fanout.spec import Format, SubscriptionSpec, everything
from eventstreams.fanout.stop import now_ms
from eventstreams.filters.selector import parse_selector
from eventstreams.model.last_event_id import read_last_event_id
from eventstreams.model.position import PartitionCursor
from eventstreams.model.stop_condition import StopCondition, unwrap
from eventstreams.model.timestamp import parse_moment
from eventstreams.turns import Turns
from eventstreams.web import coding
from eventstreams.web.headers import header, header_list, is_browser
from eventstreams.web.query import Query

PREFIX = "/v2/stream/"
NAMES_MAX = 1000
"""The maximum number of streams in a path."""
MEDIA_TYPES: Mapping[str, Format] = {
    **{format_.value: format_ for format_ in Format},
    "application/x-ndjson": Format.NDJSON,
    "application/jsonl": Format.NDJSON,
}
"""The media types of streams, each with the format that it names."""
_TYPE_END = re.compile(r"[,;\s]")
PARAMETERS = (
    *("since", "until", "limit", "max_seconds"),
    *("filter", "fields", "sample", "canary"),
    *("heartbeat", "gap", "caught_up", "compress"),
    *("last-event-id", "ticket"),
)
"""The query parameters of a stream. The id may also be written `Last-Event-ID` or `lastEventId`."""
_ID_PARAMETERS = ("last-event-id", "lasteventid")
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,3})?", re.ASCII)
_FORMS = (
    "use milliseconds since 1970 (13 digits), seconds (10 digits), ISO 8601 like "
    "2026-01-31T12:00:00Z, a time ago like -15m, -2h or -7d, or earliest"
)
_BETWEEN = r"\s*+,\s*+(?:\]|\}\]|[\w-]++\.[12]v)"
_JOINED_IDS = re.compile(rf"\[{_BETWEEN}|\{{{_BETWEEN}|\.[12]v\s*+,")
"""Matches, in reversed text, the beginning of an id and the separator before it, if a proxy has
joined several ids into one header line. It never matches within an id. Each alternative begins with
a different character, so that most of the text is skipped quickly."""
_REACH = re.compile(r"[12v]{0,2}\s*+,?+\s*+[\w-]*+.{0,3}", re.DOTALL)
"""Matches at least all text that may follow the first character of a match of `_JOINED_IDS`."""
_STEP = 64 * 1024
"""How many characters of an id one step searches, in at most 4 ms."""


class StreamRequest(NamedTuple):
    """A parsed request for streams, without the streams' names."""

    spec: SubscriptionSpec
    """The spec without partitions, which depend on the streams' names."""
    media_type: str
    """The media type of the response, one of `MEDIA_TYPES`. It is not part of the spec, because
    the bytes of NDJSON are the same under each of its names."""
    stop_condition: StopCondition | None
    since_ms: int | None
    cursors: tuple[PartitionCursor | str, ...] | None
    caught_up: bool
    """Whether a control frame is sent when the client has all events so far."""
    empty_because: str | None = None
    """A warning that says why no event can match; None if events can."""


def names_streams(scope: Scope) -> bool:
    """Return whether the path is that of a stream."""
    names = _names(scope)
    return bool(names) and "/" not in names


def stream_names(scope: Scope) -> list[str]:
    """Return the names in the path of a stream. Raises InvalidParameter."""
    names = unquote(_names(scope)).split(",", NAMES_MAX)
    if len(names) > NAMES_MAX:
        raise InvalidParameter(f"The path names more than {NAMES_MAX} streams")
    return names


def _names(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    path: str = raw.decode("latin-1") if raw else scope["path"]
    return path.removeprefix(PREFIX).removesuffix("/")


async def read(turns: Turns, client: str, scope: Scope, compression: Compression) -> StreamRequest:
    """Parse a request that is handled in a turn of the client. Raises as `reading`.

    If its id names many partitions, the rest is parsed in further turns.
    """
    query = Query(scope)
    expect(query)
    steps = reading(scope, query, compression)
    try:
        next(steps)
    except StopIteration as done:
        asked: StreamRequest = done.value
        return asked
    await turns.pause(client)
    return await turns.run_steps(client, steps)


def expect(query: Query, *more: str) -> None:
    """Raise InvalidParameter for a query parameter that is neither one of streams nor in `more`."""
    query.expect((*more, *PARAMETERS), _is_other_spelling)


def reading(
    scope: Scope, query: Query, compression: Compression
) -> Generator[None, None, StreamRequest]:
    """Parse the request in steps of a few milliseconds; most requests take a single step.

    `query` is that of the request. Raises InvalidTimestamp, InvalidParameter, InvalidFilter,
    InvalidFields, InvalidSample, InvalidAssignment.
    """
    now = now_ms()
    since_ms = _since_ms(query, now)
    bounds = _stop_condition(query, now)
    selector = parse_selector(
        *(query.one(name) for name in ("filter", "fields", "sample")),
        canaries=query.choice("canary", "true", "false") != "false",
    )
    checkpoints = query.choice("heartbeat", "checkpoint", "comment")
    gap = query.choice("gap", "tell", "fail")
    caught_up = query.choice("caught_up", "event") is not None
    from_browser = is_browser(scope)
    encoding = coding.choose(
        compression,
        header_list(scope, b"accept-encoding"),
        query.one("compress"),
        is_browser=from_browser,
    )
    text = (yield from _last_event_id(scope)) or _last_event_id_parameter(query)
    carried, text = unwrap(text) if text else (None, None)
    stop_condition = carried if carried is not None else bounds
    media_type = wanted_type(scope)
    spec = everything(MEDIA_TYPES[media_type])._replace(
        selector=selector,
        checkpoints=from_browser if checkpoints is None else checkpoints == "checkpoint",
        gap_fails=gap == "fail",
        stop_condition=None if stop_condition is None else stop_condition._replace(remaining=None),
        encoding=encoding,
    )
    cursors = (yield from read_last_event_id(text)) if text else None
    empty_because = _empty_because(since_ms, stop_condition, now) if cursors is None else None
    return StreamRequest(
        spec, media_type, stop_condition, since_ms, cursors, caught_up, empty_because
    )


def _empty_because(
    since_ms: int | None, stop_condition: StopCondition | None, now: int
) -> str | None:
    """Return the reason why a stream that starts without an id can have no events, or None."""
    until_ms = None if stop_condition is None else stop_condition.until_ms
    if until_ms is None or until_ms >= (now if since_ms is None else since_ms):
        return None
    if since_ms is None:
        return "until is in the past and since is missing, so there are no events"
    return "until is before since, so there are no events"


def _last_event_id(scope: Scope) -> Generator[None, None, str | None]:
    """Return the newest id, or None; a long header is searched in steps.

    Of several header lines, the last one that is not empty counts, because a client that was
    started with an id appends those that it receives.
    """
    lines = [value for key, value in scope["headers"] if key == b"last-event-id" and value.strip()]
    if not lines:
        return None
    return (yield from last_of_joined(lines[-1].decode("utf-8", "replace"))).strip()


def last_of_joined(text: str, step: int = _STEP) -> Generator[None, None, str]:
    """Return the last of the ids that a proxy may have joined with commas."""
    backwards = text[::-1]
    for at in range(0, len(text), step):
        if at:
            yield
        reach = _REACH.match(backwards, at + step)
        assert reach is not None  # it also matches nothing
        found = _JOINED_IDS.search(backwards, at, reach.end())
        if found:
            begins = 3 if found[0].startswith(".") else 1
            return text[len(text) - found.start() - begins :]
    return text


def _is_other_spelling(name: str) -> bool:
    """Return whether this is another spelling of the id parameter, or the list form of `since`,
    which `_since_ms` rejects by its name."""
    return name.lower() in _ID_PARAMETERS or name.startswith("since[")


def _last_event_id_parameter(query: Query) -> str | None:
    found = [value for name, value in query.pairs if name.lower() in _ID_PARAMETERS and value]
    return found[-1] if found else None


def _since_ms(query: Query, now: int) -> int | None:
    """Return milliseconds; None if absent or empty. Raises InvalidTimestamp."""
    values = [
        value if name == "since" else name  # the list form `since[…]` is refused by its name
        for name, value in query.pairs
        if name == "since" or name.startswith("since[")
    ]
    if len(values) > 1:
        raise InvalidTimestamp(f"since is given {len(values)} times: {', '.join(values)}")
    text = values[0].strip() if values else ""
    return _moment("since", text, now) if text else None


def _moment(name: str, text: str, now: int) -> int:
    at = parse_moment(text, now)
    if at is None:
        raise InvalidTimestamp(f"{name}={text} is not a time: {_FORMS}")
    return max(0, at)


def _stop_condition(query: Query, now: int) -> StopCondition | None:
    until, seconds = query.one("until"), query.one("max_seconds")
    limit = query.whole("limit", "events", least=1, digits_max=15)
    if until is None and limit is None and seconds is None:
        return None
    if seconds is not None and not (_SECONDS.fullmatch(seconds.strip()) and float(seconds)):
        raise InvalidParameter(f"max_seconds={seconds} is not a number of seconds greater than 0")
    return StopCondition(
        until_ms=None if until is None else _moment("until", until, now),
        deadline_ms=None if seconds is None else now + max(1, round(float(seconds) * 1000)),
        remaining=limit,
    )


def wanted_type(scope: Scope) -> str:
    """Return the media type that Accept begins with, SSE if it is another one; there is no 406.

    As at Wikimedia, only the beginning counts, so weights (`;q=`) have no effect. There, anything
    that begins with application/json, like application/jsonlines, counts as that type.
    """
    accept = header(scope, b"accept") or ""
    first = _TYPE_END.split(accept, 1)[0]
    if first in MEDIA_TYPES:
        return first
    return Format.NDJSON.value if first.startswith(Format.NDJSON.value) else Format.SSE.value
