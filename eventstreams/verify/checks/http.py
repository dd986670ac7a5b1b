"""Checks of content negotiation, headers and other aspects of HTTP."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

from eventstreams.verify.check import Check
from eventstreams.verify.observations import live, opening
from eventstreams.verify.reading import Reading
from eventstreams.verify.target import SSE, STREAM_PATH, Target, have
from eventstreams.verify.verdict import Skipped, Verdict, differs, failed, passed, shown
from eventstreams.verify.wire import Head

_SSE_TYPE = "text/event-stream;charset=utf-8"
_JSON_TYPE = "application/json;charset=utf-8"
_NDJSON = {"Accept": "application/json"}
_FOR_SSE = ("*/*", "text/html, application/json", "application/xml", "Application/JSON")
_FOR_JSON = ("application/json", "application/json;q=0.5, text/event-stream")
_ORIGIN = {"Origin": "https://page.example"}
_FETCH_HEADERS = ("last-event-id", "cache-control", "authorization")
_WBITS_GZIP = 31


def _type_of(head: Head) -> str:
    return (head.get("content-type") or "none").replace(" ", "").lower()


async def _content_type(target: Target) -> Verdict:
    head = (await opening(target)).head
    if _type_of(head) != _SSE_TYPE:
        return failed(f"content-type: {head.get('content-type')}")
    return passed(f"content-type: {head.get('content-type')}")


async def _without_accept(target: Target) -> Verdict:
    async with target.open(target.path()) as reading:
        found = reading.head.get("content-type")
        if _type_of(reading.head) == _SSE_TYPE:
            return differs(f"content-type: {found}")
        return failed(f"without an Accept header: {reading.head.status}, content-type: {found}")


async def _negotiation(target: Target) -> Verdict:
    wanted = [(accept, _SSE_TYPE) for accept in _FOR_SSE]
    wanted += [(accept, _JSON_TYPE) for accept in _FOR_JSON]
    for accept, type_ in wanted:
        async with target.open(target.path(), {"Accept": accept}) as reading:
            found = _type_of(reading.head)
            if reading.head.status != 200 or found != type_:
                return failed(f"Accept: {accept} gets {reading.head.status}, {found}, not {type_}")
    return passed(f"{len(wanted)} values of Accept tried")


async def _ndjson(target: Target) -> Verdict:
    async with target.open(target.path(), _NDJSON) as reading:
        if not await reading.until(lambda: bool(reading.body), target.patience.answer_s):
            return failed("nothing is sent before the first event")
        if not reading.body.startswith(b"\n"):
            return failed(f"the first bytes are {shown(bytes(reading.body[:60]))}")
        for _ in range(2 if target.can_post else 0):
            await target.produce(2)
            if await reading.until(lambda: b"\n{" in reading.body, target.patience.event_s):
                break
        await reading.until(lambda: reading.body.count(b"\n{") >= 2, target.patience.quiet_s)
        lines = [line for line in bytes(reading.body).split(b"\n")[:-1] if line]
        bad = [line for line in lines if not (line.startswith(b"{") and line.endswith(b"}"))]
        if bad:
            return failed(f"not an object on one line: {shown(bad[0])}")
        if not lines:
            if target.can_post:
                return failed("posted test events do not arrive")
            raise Skipped("the first line is empty, as it should be, but no event arrived")
        return passed(f"an empty line, then {len(lines)} objects, one on each line")


async def _chunked(target: Target) -> Verdict:
    seen = await opening(target)
    if seen.chunked:
        return passed("transfer-encoding: chunked")
    length = seen.head.get("content-length")
    return failed(f"the response is not chunked (content-length: {length})")


async def _cache_control(target: Target) -> Verdict:
    head = (await opening(target)).head
    values = head.items("cache-control")
    if "no-store" in values:
        return differs(f"cache-control: {', '.join(values)}")
    if "no-cache" in values:
        return passed(f"cache-control: {', '.join(values)}")
    return failed(f"cache-control: {', '.join(values) or 'none'}")


async def _vary(target: Target) -> Verdict:
    head = (await opening(target)).head
    values = head.items("vary")
    if "accept" in values or "*" in values:
        return differs(f"vary: {', '.join(values)}")
    return failed(f"vary: {', '.join(values) or 'none'}, although the format depends on Accept")


async def _head(target: Target) -> Verdict:
    path = target.path()
    asked = target.client.request("HEAD", path, SSE)
    async with asyncio.timeout(target.patience.answer_s), asked as exchange:
        body = await exchange.leftover()
        head = exchange.head
    if head.status != 200 or _type_of(head) != _SSE_TYPE:
        return failed(f"HEAD gets {head.status}, content-type: {head.get('content-type')}")
    if body:
        return failed(f"bytes follow the head of the response to HEAD: {shown(body)}")
    return differs(f"{head.status}, content-type: {head.get('content-type')}, no body")


async def _head_in_time(target: Target) -> Verdict:
    try:
        return await _head(target)
    except TimeoutError:
        return failed(f"HEAD is not answered, or does not end, in {target.patience.answer_s:g} s")


async def _cors(target: Target) -> Verdict:
    async with target.open(target.path(), {**SSE, **_ORIGIN}) as reading:
        allowed = reading.head.get("access-control-allow-origin")
    if allowed is None:
        return failed("the stream has no access-control-allow-origin")
    return passed(f"access-control-allow-origin: {allowed}")


async def _cors_on_errors(target: Target) -> Verdict:
    path = target.path("verify.no-such-stream")
    answer = await target.ask("GET", path, {**SSE, **_ORIGIN})
    allowed = answer.head.get("access-control-allow-origin")
    if allowed is None:
        return failed(f"a response with {answer.head.status} has no access-control-allow-origin")
    return passed(f"{answer.head.status} with access-control-allow-origin: {allowed}")


async def _preflight(target: Target) -> Verdict:
    headers = {
        **_ORIGIN,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": ",".join(_FETCH_HEADERS),
    }
    answer = await target.ask("OPTIONS", target.path(), headers)
    values = answer.head.items("access-control-allow-headers")
    missing = [name for name in _FETCH_HEADERS if name not in values and "*" not in values]
    if answer.head.status not in (200, 204):
        return failed(f"OPTIONS gets {answer.head.status}")
    if missing:
        return failed(f"access-control-allow-headers lacks {', '.join(missing)}")
    return differs(f"access-control-allow-headers: {', '.join(values)}")


async def _encoded_comma(target: Target) -> Verdict:
    first = target.streams[0]
    names = f"{first}%2C{target.streams[-1]}"
    async with target.open(f"{target.root}{STREAM_PATH}{names}", SSE) as reading:
        if not reading.is_stream:
            return failed(f"{STREAM_PATH}{names} gets {reading.head.status}")
        return passed(f"{STREAM_PATH}{names} is a stream")


async def _compressed(target: Target) -> Verdict:
    """Request gzip as browsers do, and with the parameter that some gateways have for it."""
    seen = await live(target)
    if None in seen.singles:
        raise Skipped("events are late without compression, too")
    async with target.stream("compress=gzip", headers={"Accept-Encoding": "gzip"}) as reading:
        coding = reading.head.get("content-encoding")
        if coding is None:
            return passed("streams are not compressed")
        if coding.lower() != "gzip":
            return failed(f"content-encoding: {coding}, but only gzip was requested")
        plain = _Unpacked(reading)
        if not await plain.until(lambda: bool(plain.unpacked.body), target.patience.answer_s):
            return failed("the first bytes cannot be decompressed before more arrive")
        for _ in range(2):  # the first one may arrive before the stream is read
            posted = await target.produce(1)
            if await plain.until(have(plain.unpacked, posted), target.patience.event_s):
                return differs("each event can be decompressed when it is sent")
        return failed("an event cannot be decompressed before more arrives: gzip is not flushed")


class _Unpacked:
    """A gzip stream; `unpacked` is everything that can be decompressed so far."""

    def __init__(self, packed: Reading) -> None:
        self.unpacked = Reading(packed.exchange)
        self._packed = packed
        self._unpack = zlib.decompressobj(_WBITS_GZIP)
        self._done = 0

    async def until(self, done: Callable[[], bool], patience_s: float) -> bool:
        def enough() -> bool:
            fresh = bytes(self._packed.body[self._done :])
            self._done += len(fresh)
            try:
                piece = self._unpack.decompress(fresh)
            except zlib.error:
                return False
            if piece:
                self.unpacked.take(piece)
            return done()

        return await self._packed.until(enough, patience_s)


CHECKS = (
    Check(
        "http.content-type",
        "The content type is `text/event-stream; charset=utf-8`",
        "requests-sse and pywikibot refuse any other, and without the charset sseclient reads "
        "Latin-1.",
        _content_type,
    ),
    Check(
        "http.charset-without-accept",
        "A request without `Accept` gets the charset too",
        "sseclient reads Latin-1 without it.",
        _without_accept,
        upstream="The charset is missing.",
    ),
    Check(
        "http.negotiation",
        "An `Accept` that begins with `application/json` gets NDJSON, any other gets Server-Sent "
        "Events, and none gets 406",
        "curl sends `*/*` and libraries send all kinds of lists; all of them work with "
        "EventStreams.",
        _negotiation,
    ),
    Check(
        "http.ndjson",
        "NDJSON begins at once with an empty line, and each further line is empty or one object",
        "The empty line starts the response before the first event, and readers process the rest "
        "line by line.",
        _ndjson,
    ),
    Check(
        "http.chunked",
        "The body of a stream is chunked",
        "Without chunks, a disconnect looks like the end, and clients process truncated events.",
        _chunked,
    ),
    Check(
        "http.cache-control",
        "`Cache-Control` keeps caches from storing a stream",
        "A cache would wait for its end, or send old events to other clients.",
        _cache_control,
        upstream="It is only `no-cache`, which allows proxies to transform and store a stream.",
    ),
    Check(
        "http.vary",
        "`Vary` names `Accept`",
        "A cache in between could answer a client of Server-Sent Events with NDJSON.",
        _vary,
        upstream="There is no `Vary`.",
    ),
    Check(
        "http.head",
        "HEAD is answered at once, with the headers of GET and no body",
        "Monitoring and link checkers use it. If it hangs, it occupies a connection forever.",
        _head_in_time,
        upstream="HEAD on a stream hangs.",
    ),
    Check(
        "http.cors",
        "A stream allows other origins to read it",
        "Otherwise, pages of other sites cannot read it with EventSource.",
        _cors,
    ),
    Check(
        "http.cors-on-errors",
        "Errors allow other origins to read them",
        "Otherwise, a page cannot see why it was refused.",
        _cors_on_errors,
    ),
    Check(
        "http.preflight",
        "OPTIONS allows the headers that clients built on `fetch` send",
        "Browsers ask first, and such clients cannot resume without `Last-Event-ID`.",
        _preflight,
        upstream="`last-event-id`, `cache-control` and `authorization` are not allowed.",
    ),
    Check(
        "http.encoded-comma",
        "`%2C` in the path is a comma",
        "Some clients encode the names of streams.",
        _encoded_comma,
    ),
    Check(
        "http.compression",
        "A compressed stream can be decompressed event by event",
        "If a gateway or proxy does not flush, most clients get nothing until its buffer is full.",
        _compressed,
        upstream="Streams are not compressed.",
    ),
)
