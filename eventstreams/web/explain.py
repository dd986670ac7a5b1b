"""Serves GET /v2/explain?streams=a,b&…, which explains a request for streams without streaming.

It accepts all parameters and headers of a stream. The response says how they were understood, where
the stream would begin, and which of the newest events it would send.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from eventstreams.config.reloader import CatalogueWatcher
from eventstreams.config.settings import Compression
from eventstreams.errors import InvalidParameter, LogError
from eventstreams.fanout.filter_budget import is_indexed, pulls_alone
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.spec import SubscriptionSpec
from eventstreams.fanout.start import Start, StartResolver
from eventstreams.fanout.stop import now_ms
from eventstreams.filters.index import FilterIndex
from eventstreams.filters.selector import Selector
from eventstreams.model.catalogue import Selection
from eventstreams.model.frame import Frame
from eventstreams.model.timestamp import iso_of
from eventstreams.turns import PIECE_S, Turns
from eventstreams.web import request
from eventstreams.web.access import Access
from eventstreams.web.address import Proxies
from eventstreams.web.answers import JSON
from eventstreams.web.field_warnings import FieldWarnings
from eventstreams.web.limits import Allowance, Limits
from eventstreams.web.query import Query

PATH = "/v2/explain"
_RECENT_MAX = 1000
"""How many of the newest events are examined, over all partitions."""

_AT_ONCE = 2
"""How many explanations one client address can have in progress."""
_PATIENCE_S = 2.0
"""How long the log may take to answer, in seconds, before the note on `since` is left out."""


class Explain:
    def __init__(
        self,
        *,
        catalogue_watcher: CatalogueWatcher,
        start_resolver: StartResolver,
        hub: Hub,
        compression: Compression,
        access: Access,
        limits: Limits,
        proxies: Proxies,
        turns: Turns,
        field_warnings: FieldWarnings,
    ) -> None:
        """Each request counts as a connect in `limits`."""
        self._limits = limits
        self._proxies = proxies
        self._at_once = WeakValueDictionary[str, asyncio.Semaphore]()
        """Limits each client's explanations in progress; entries exist only while they are used."""
        self._turns = turns
        self._catalogue_watcher = catalogue_watcher
        self._start_resolver = start_resolver
        self._hub = hub
        self._compression: Compression = compression
        self._access = access
        self._field_warnings = field_warnings

    def routes(self) -> list[Route]:
        return [Route(PATH, self.get)]

    async def get(self, request: Request) -> Response:
        await self._limits.connect(self._proxies.client(request.scope))
        async with self._place(self._proxies.site(request.scope)):
            explained = await self._explain(request.scope)
        body = orjson.dumps(explained, option=orjson.OPT_INDENT_2) + b"\n"
        return Response(body, media_type=JSON)

    def _place(self, client: str) -> asyncio.Semaphore:
        """Return the semaphore that limits the client's explanations in progress."""
        if (place := self._at_once.get(client)) is None:
            place = self._at_once[client] = asyncio.Semaphore(_AT_ONCE)
        return place

    async def _explain(self, scope: Scope) -> dict[str, Any]:
        query = Query(scope)
        names = _names(query)
        selection = self._catalogue_watcher.catalogue.resolve(names)
        await self._access.authorise(scope, selection.scopes)
        steps = request.reading(scope, query, self._compression)
        parsed = await self._turns.run_steps(self._proxies.site(scope), steps)
        look = _Look(
            hub=self._hub,
            selector=parsed.spec.selector,
            turns=self._turns,
            client=self._proxies.site(scope),
            allowance=self._limits.allowance(self._proxies.client(scope)),
        )
        return await self._found(names, selection, parsed, look)

    async def _found(
        self, names: list[str], selection: Selection, parsed: request.StreamRequest, look: _Look
    ) -> dict[str, Any]:
        start = await self._start_resolver.start(
            selection,
            parsed.spec,
            cursors=parsed.cursors,
            since_ms=parsed.since_ms,
            client=look.client,
        )
        spec = start.spec
        selector = spec.selector
        frames = [] if parsed.empty_because else await self._recent(spec)
        recent = await look.matching(frames)
        warnings = await self._field_warnings.of(selection.names, selector)
        if parsed.empty_because:
            warnings.insert(0, parsed.empty_because)
        return {
            "streams": names,
            "topics": list(dict.fromkeys(p.topic for p in spec.partitions)),
            "format": parsed.media_type,
            "encoding": spec.encoding.value,
            "heartbeat": "checkpoint" if spec.checkpoints else "comment",
            "gap": "fail" if spec.gap_fails else "tell",
            "caught_up": parsed.caught_up,
            "filter": selector and selector.filter,
            "filter_microseconds": _microseconds(selector),
            "evaluation": self._evaluation(selector, look.examined_share),
            "fields": list(selector.fields) if selector else [],
            "warnings": warnings,
            "sample": selector and selector.sample,
            "canary": selector is None or selector.canaries,
            "ends": parsed.stop_condition and parsed.stop_condition.document(),
            "since": await self._since(parsed, start),
            "start": self._start(start),
            "gaps": [gap.document() for gap in start.gaps],
            "recent": recent,
        }

    def _evaluation(self, selector: Selector | None, share: float | None) -> dict[str, Any] | None:
        """Say for which events the filter or the sample is evaluated; None without either.

        `share` is the share of the recent events for which it was evaluated.
        """
        if selector is None or (selector.filter is None and selector.sample is None):
            return None
        by: list[str] | None = None
        text = "evaluated for every event"
        if pulls_alone(selector):
            text += ", in turns of this client, because it is costly"
        elif is_indexed(selector):
            cover = FilterIndex[None]().choose(selector.covers)
            assert cover is not None
            by = sorted({".".join(key.path) or "sample" for key in cover})
            text = f"indexed by {', '.join(by) or 'nothing: it never matches'}"
            if share is not None:
                text += f", {share:.0%} of recent events examined"
        return {"by": by, "examined": share if by is not None else 1.0, "text": text}

    async def _since(self, parsed: request.StreamRequest, start: Start) -> dict[str, Any] | None:
        """Return the time that `since` means, with a note if it has no effect."""
        if parsed.since_ms is None:
            return None
        note: str | None = None
        if parsed.cursors is not None:
            note = "ignored: the id says where to start"
        elif parsed.since_ms > now_ms():
            note = "in the future: starts with the next event"
        else:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    oldest = await self._hub.oldest(start.spec)
            except (LogError, TimeoutError):
                oldest = ()  # the note is left out
            if oldest == start.position.offsets:
                note = "starts with the oldest event that is stored"
        return {"time": iso_of(parsed.since_ms), "milliseconds": parsed.since_ms, "note": note}

    def _start(self, start: Start) -> list[dict[str, Any]]:
        """Return where each partition would begin, and how many offsets that is behind."""
        position = start.position
        ends = self._hub.ends(start.spec)
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

    async def _recent(self, spec: SubscriptionSpec) -> list[Frame]:
        """Return the newest events of all partitions, back to a time that all of them cover.

        They come from the tails, or from the log if these have only begun.
        """
        each = max(1, _RECENT_MAX // len(spec.partitions))
        found: list[Frame] = []
        from_ms = 0
        for partition in spec.partitions:
            try:
                frames, has_older = await self._hub.recent(partition, each)
            except LogError:
                continue  # the sample can do without this partition
            if frames and has_older:
                from_ms = max(from_ms, frames[0].timestamp_ms)
            found += frames
        recent = [frame for frame in found if frame.timestamp_ms >= from_ms]
        return sorted(recent, key=lambda frame: frame.timestamp_ms)


class _Look:
    """Examines events for one client, in its turns and within its allowance."""

    def __init__(
        self,
        *,
        hub: Hub,
        selector: Selector | None,
        turns: Turns,
        client: str,
        allowance: Allowance | None,
    ) -> None:
        self._hub = hub
        self._selector = selector
        self._index = FilterIndex[None]()
        self._index.add(None, () if selector is None else selector.covers)
        self._examined = 0
        self._turns = turns
        self.client = client
        self._allowance = allowance
        self._looked = self._matched = self._size = 0
        self._took_s = 0.0

    @property
    def examined_share(self) -> float | None:
        """The share of the events for which the index finds the selector; None without events."""
        return round(self._examined / self._looked, 4) if self._looked else None

    async def matching(self, frames: Sequence[Frame]) -> dict[str, Any]:
        """Return how many of these events the client would get, with rates and sizes."""
        error: str | None = None
        rest = frames
        while rest and error is None:
            if self._allowance is not None and await self._allowance.wait_s() > 0:
                error = "Your client IP has reached its limit of history per minute"
            else:
                async with self._turns.turn(self.client):
                    rest = self._piece(rest)
        # The period ends now, so that a stream that has become quiet does not seem busy.
        end_ms = max(now_ms(), frames[-1].timestamp_ms) if frames else 0
        seconds = (end_ms - frames[0].timestamp_ms) / 1000 if frames else 0.0
        looked, matched, size = self._looked, self._matched, self._size
        return {
            "looked_at": looked,
            "matched": matched,
            "share": matched / looked if looked else None,
            "error": error,
            "from": iso_of(frames[0].timestamp_ms) if frames else None,
            "to": iso_of(frames[-1].timestamp_ms) if frames else None,
            "bytes_per_event": round(size / matched) if matched else None,
            "events_per_second": round(matched / seconds, 6) if seconds else None,
            "bytes_per_second": round(size / seconds) if seconds else None,
            "microseconds_per_event": round(self._took_s / looked * 1e6, 1) if looked else None,
        }

    def _piece(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Look at events for a while; return what is left."""
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
            selector = self._selector
            documents = self._hub.documents
            self._examined += len(self._index.candidates(frame, documents))
            chosen = data if selector is None else selector.select(frame, documents)
            if chosen is not None:
                self._matched += 1
                self._size += len(chosen)
        if self._allowance is not None:
            self._allowance.used(passed)
        self._took_s += time.perf_counter() - began
        return frames[done:]


def _microseconds(selector: Selector | None) -> float | None:
    """Return the estimated time of the filter for an ordinary event of 10 KB, in µs."""
    cost = None if selector is None else selector.cost
    return None if cost is None else round(cost.reference_us, 1)


def _names(query: Query) -> list[str]:
    request.expect(query, "streams")
    texts = query.all("streams")
    names = [name for text in texts for name in text.split(",") if name]
    if not names:
        raise InvalidParameter(
            "The parameter streams is missing: pass names of streams, such as ?streams=a,b"
        )
    return names
