"""Refusals that a browser's EventSource can live with.

For it any status but 200 is the end, and the page learns no reason. So where coming back has a use
it is told when; where it has none, 204 ends it as the standard has it.
"""

from __future__ import annotations

import orjson
from starlette.types import Scope, Send

from eventstreams.errors import ClientError
from eventstreams.model import sse
from eventstreams.web.answers import Headers, answer, printable, spread_ms
from eventstreams.web.request import header, is_browser

_PASSING = (429, 503)
_SOONEST_S = 20
HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
]
"""Of a 200 that refuses."""


def is_event_source(scope: Scope) -> bool:
    """A page's fetch accepts anything, unless told; libraries do not say that they are browsers."""
    accept = (header(scope, b"accept") or "").strip()
    return scope["method"] == "GET" and accept == "text/event-stream" and is_browser(scope)


async def refuse_event_source(send: Send, headers: Headers, error: ClientError) -> None:
    if error.status in _PASSING:
        (_, kind), *others = HEADERS
        await answer(send, 200, [*headers, *others], passing(error), kind)
        return
    said = printable(f"{type(error).__name__}: {_reason(error)}")
    await answer(send, 204, [*headers, (b"x-eventstreams-error", said)], b"", None)


def passing(error: ClientError) -> bytes:
    """The body of a 200: why, and when to come back."""
    soonest_s: int = getattr(error, "retry_after_s", None) or _SOONEST_S
    document = {"message": _reason(error), "name": type(error).__name__, "status": error.status}
    # Without an id: an empty one would take the client's own from it.
    frame = b"event: error\ndata: %b\n\n" % orjson.dumps(document)
    return sse.OK + frame + sse.retry(spread_ms(soonest_s))


def _reason(error: ClientError) -> str:
    return " ".join(str(error).split())
