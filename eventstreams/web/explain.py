"""GET /v2/explain?streams=a,b&…: what a request for these streams would do, without doing it.

Takes every parameter that a stream takes, and its headers; answers what it was understood as, where
it would begin, and what of the newest events it would send.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs
from weakref import WeakValueDictionary

import orjson
from starlette.types import Receive, Scope, Send

from eventstreams.declarations import Declarations
from eventstreams.errors import ClientError, InvalidParameter, LogError
from eventstreams.fanout.bound import now_ms
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.selector import Selector
from eventstreams.fanout.start import Start, Starter
from eventstreams.fanout.want import Want
from eventstreams.metrics import Metrics
from eventstreams.model.frame import Frame
from eventstreams.model.instant import iso_of
from eventstreams.model.stream import Selection
from eventstreams.settings import Compression
from eventstreams.turns import PIECE_S, Turns
from eventstreams.web import request
from eventstreams.web.access import Access
from eventstreams.web.address import Proxies
from eventstreams.web.answers import Headers, answer, refuse
from eventstreams.web.limits import Allowance, Limits

PATH = "/v2/explain"
_RECENT_MAX = 1000
"""Newest events, over all partitions, that are looked at."""

_AT_ONCE = 2
"""Explanations for one client address that are worked out at the same time."""
_PATIENCE_S = 2.0
"""How long the log may take for what is only a note."""


class Explain:
    """An ASGI application."""

    def __init__(
        self,
        *,
        declarations: Declarations,
        starter: Starter,
        hub: Hub,
        headers: Headers,
        compression: Compression,
        access: Access,
        limits: Limits,
        proxies: Proxies,
        metrics: Metrics,
        turns: Turns,
    ) -> None:
        """Asking counts as a connect."""
        self._limits = limits
        self._proxies = proxies
        self._metrics = metrics
        self._at_once = WeakValueDictionary[str, asyncio.Semaphore]()
        """By client; kept only while that client asks, so that no client waits for another's."""
        self._turns = turns
        self._declarations = declarations
        self._starter = starter
        self._hub = hub
        self._headers = headers
        self._compression: Compression = compression
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await self._limits.connect(self._proxies.client(scope))
            async with self._place(self._proxies.site(scope)):
                explained = await self._explain(scope)
            body = orjson.dumps(explained, option=orjson.OPT_INDENT_2) + b"\n"
        except ClientError as error:
            self._metrics.refused.labels(type(error).__name__).inc()
            await refuse(scope, send, self._headers, error)
        else:
            await answer(send, 200, self._headers, body, b"application/json; charset=utf-8")

    def _place(self, client: str) -> asyncio.Semaphore:
        """What lets only some explanations of the client be worked out at once."""
        if (place := self._at_once.get(client)) is None:
            place = self._at_once[client] = asyncio.Semaphore(_AT_ONCE)
        return place

    async def _explain(self, scope: Scope) -> dict[str, Any]:
        names = _names(scope)
        selection = self._declarations.catalogue.resolve(names)
        await self._access.authorise(scope, selection.scopes)
        async with self._turns.turn(self._proxies.site(scope)):
            ask = request.read(scope, self._compression)
        look = _Look(
            hub=self._hub,
            turns=self._turns,
            client=self._proxies.site(scope),
            allowance=self._limits.allowance(self._proxies.client(scope)),
        )
        with self._limits.filtering(ask.template.selector):
            return await self._found(names, selection, ask, look)

    async def _found(
        self, names: list[str], selection: Selection, ask: request.Ask, look: _Look
    ) -> dict[str, Any]:
        start = await self._starter.start(
            selection, ask.template, marks=ask.marks, since_ms=ask.since_ms
        )
        want = start.want
        selector = want.selector
        frames = await self._recent(want)
        recent = await look.matching(want, frames)
        return {
            "streams": names,
            "topics": list(dict.fromkeys(p.topic for p in want.partitions)),
            "format": want.format.value,
            "encoding": want.encoding.value,
            "heartbeat": "checkpoint" if want.checkpoints else "comment",
            "gap": "fail" if want.gap_fails else "tell",
            "filter": selector and selector.filter,
            "filter_microseconds": _microseconds(selector),
            "fields": list(selector.fields) if selector else [],
            "sample": selector and selector.sample,
            "canary": selector is None or selector.canaries,
            "ends": ask.extent and ask.extent.document(),
            "since": await self._since(ask, start),
            "start": self._start(start),
            "gaps": [gap.document() for gap in start.gaps],
            "recent": recent,
        }

    async def _since(self, ask: request.Ask, start: Start) -> dict[str, Any] | None:
        """The time that `since` was understood as, and what is odd about it."""
        if ask.since_ms is None:
            return None
        note: str | None = None
        if ask.marks is not None:
            note = "ignored: the id says where to begin"
        elif ask.since_ms > now_ms():
            note = "in the future: begins with the next event"
        else:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    oldest = await self._hub.oldest(start.want)
            except (LogError, TimeoutError):
                oldest = ()  # it is only a note
            if oldest == start.position.offsets:
                note = "nothing older is kept: begins with the oldest event"
        return {"time": iso_of(ask.since_ms), "milliseconds": ask.since_ms, "note": note}

    def _start(self, start: Start) -> list[dict[str, Any]]:
        """Where each partition would be read from, and how many offsets that is behind."""
        position = start.position
        ends = self._hub.ends(start.want)
        return [
            {
                "topic": partition.topic,
                "partition": partition.number,
                "offset": offset,
                "timestamp": timestamp_ms or None,
                "time": iso_of(timestamp_ms),
                "behind": max(0, end - offset),
            }
            for partition, offset, timestamp_ms, end in zip(
                position.partitions, position.offsets, position.timestamps, ends, strict=True
            )
        ]

    async def _recent(self, want: Want) -> list[Frame]:
        """The newest events of all partitions, as far back as they are known of each: from the
        tails, or from the log where these have only begun."""
        each = max(1, _RECENT_MAX // len(want.partitions))
        found: list[Frame] = []
        from_ms = 0
        for partition in want.partitions:
            end = self._hub.tails.end(partition)
            offset = max(self._hub.tails.floor(partition), end - each)
            run = self._hub.tails.since(partition, offset)
            try:
                if run is None or not run.frames:
                    offset = max(0, end - each)
                    run = await self._hub.history.load(partition, offset)
            except LogError:
                continue  # it is only a sample
            frames = run.frames[-each:]
            if frames and offset > 0:  # there may be more before them
                from_ms = max(from_ms, frames[0].timestamp_ms)
            found += frames
        recent = [frame for frame in found if frame.timestamp_ms >= from_ms]
        return sorted(recent, key=lambda frame: frame.timestamp_ms)


class _Look:
    """A look at events on behalf of one client, in its turns and from its allowance."""

    def __init__(self, *, hub: Hub, turns: Turns, client: str, allowance: Allowance | None) -> None:
        self._hub = hub
        self._turns = turns
        self._client = client
        self._allowance = allowance
        self._looked = self._matched = self._size = 0
        self._took_s = 0.0

    async def matching(self, want: Want, frames: Sequence[Frame]) -> dict[str, Any]:
        """How many of these the client would be sent, and what that comes to."""
        error: str | None = None
        rest = frames
        while rest and error is None:
            if self._allowance is not None and await self._allowance.wait_s() > 0:
                error = "Your client IP has looked at as much of the past as it may in a minute"
            else:
                async with self._turns.turn(self._client):
                    rest = self._piece(want, rest)
        seconds = (frames[-1].timestamp_ms - frames[0].timestamp_ms) / 1000 if frames else 0.0
        looked, matched, size = self._looked, self._matched, self._size
        return {
            "looked_at": looked,
            "matched": matched,
            "share": matched / looked if looked else None,
            "error": error,
            "from": iso_of(frames[0].timestamp_ms) if frames else None,
            "to": iso_of(frames[-1].timestamp_ms) if frames else None,
            "bytes_per_event": round(size / matched) if matched else None,
            "events_per_second": round(matched / seconds, 3) if seconds else None,
            "bytes_per_second": round(size / seconds) if seconds else None,
            "microseconds_per_event": round(self._took_s / looked * 1e6, 1) if looked else None,
        }

    def _piece(self, want: Want, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Looks at events for a while; what is left."""
        began = time.perf_counter()
        done = passed = 0
        while done < len(frames) and time.perf_counter() - began < PIECE_S:
            frame = frames[done]
            done += 1
            data = frame.data
            if data is None:
                continue
            self._looked += 1
            passed += len(data)
            selector = want.selector
            documents = self._hub.catch_up.documents
            chosen = data if selector is None else selector.select(frame, documents)
            if chosen is not None:
                self._matched += 1
                self._size += len(chosen)
        if self._allowance is not None:
            self._allowance.used(passed)
        self._took_s += time.perf_counter() - began
        return frames[done:]


def _microseconds(selector: Selector | None) -> float | None:
    """What the filter may take for an ordinary event of 10 KB."""
    cost = None if selector is None else selector.cost
    return None if cost is None else round(cost.reference_us, 1)


def _names(scope: Scope) -> list[str]:
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    names = [name for text in query.get("streams", []) for name in text.split(",") if name]
    if not names:
        raise InvalidParameter("streams is missing: give the names of streams, like ?streams=a,b")
    return names
