"""The common parts of the visitors of `soak`: their requests, identities and results.

A visitor is a coroutine function that makes one visit and can be called repeatedly.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import orjson

from eventstreams.model.sse import SseEvent, SseReader

PATIENCE_S = 20.0
_WRONG_KEPT = 20
_ADDRESSES = IPv4Network("198.18.0.0/15")
_ROUND_ADDRESSES = 20_000
"""Enough that addresses of one round are not reused soon in the next."""


class Plan(msgspec.Struct, frozen=True):
    """The input of `visiting_process`."""

    port: int
    metrics_port: int
    pid: int
    """The gateway's process; SIGHUP makes it reload its catalogue."""
    seconds: float
    seed: int
    catalogue: str
    stream: str
    """A public stream whose events are numbered without gaps by `seq`."""
    closed: str
    """A stream for clients whose token has `scope`."""
    scope: str
    secret: str
    admin_key: str
    posted: str
    """A stream that accepts posted events of /test/event."""
    client_streams: int
    client_connects: int
    """The limits of one address: concurrent streams, and streams opened in a minute."""


class Place:
    """A gateway, and the findings of its visitors."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.url = f"http://127.0.0.1:{plan.port}"
        self.catalogue = Path(plan.catalogue)
        self.chance = random.Random(plan.seed)  # noqa: S311 - a walk that repeats
        self._addresses = itertools.count(plan.seed * _ROUND_ADDRESSES)
        self.done: Counter[str] = Counter()
        self.wrong_count = 0
        self.wrong: list[str] = []
        """Descriptions of the first faults."""
        self.due: set[str] = set()
        """Events that were accepted and have not been read yet."""
        self.http = httpx.AsyncClient(
            base_url=self.url,
            timeout=PATIENCE_S,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=4),
        )

    def check(self, is_right: bool, what: object) -> None:
        if not is_right:
            self.wrong_count += 1
            if len(self.wrong) < _WRONG_KEPT:
                self.wrong.append(str(what))

    def expect(self, answer: httpx.Response, *statuses: int) -> None:
        what = f"{answer.request.method} {answer.request.url}: {answer.status_code}"
        self.check(answer.status_code in statuses, what)

    def address(self) -> dict[str, str]:
        """Return a header with a fresh client address, which this host may name as a trusted
        proxy."""
        number = int(_ADDRESSES.network_address) + next(self._addresses) % _ADDRESSES.num_addresses
        return {"X-Client-IP": str(IPv4Address(number))}

    def token(self, scope: str | None = None, *, seconds: float = 60) -> dict[str, str]:
        """Return a header with a token."""
        claims = {"sub": "soak", "exp": time.time() + seconds, "scope": scope or self.plan.scope}
        token = jwt.encode(claims, self.plan.secret, "HS256")
        return {"Authorization": f"Bearer {token}"}

    async def get(self, target: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Make a request and return the complete answer."""
        return await self.http.get(target, headers={**self.address(), **(headers or {})})

    @contextlib.asynccontextmanager
    async def reading(
        self, target: str, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[httpx.Response]:
        """Open a stream. Leaving the block disconnects."""
        sent = {**self.address(), "Accept": "text/event-stream", "Accept-Encoding": "identity"}
        async with self.http.stream("GET", target, headers={**sent, **(headers or {})}) as answer:
            yield answer

    async def pause(self, longest_s: float) -> None:
        await asyncio.sleep(self.chance.uniform(0, longest_s))


Visitor = Callable[["Place"], Coroutine[Any, Any, None]]


class Reader:
    """Reads a stream in several visits, by its last id, and checks that the numbers are
    consecutive."""

    def __init__(self, place: Place, target: str, *, step: int = 1, **headers: str) -> None:
        """Set the target. `step` is the difference between consecutive numbers."""
        self._place = place
        self._target = target
        self._step = step
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self._last_id: str | None = None
        self._seq: int | None = None

    async def visit(self, seconds: float) -> None:
        """Read for a number of seconds, then disconnect."""
        headers = dict(self._headers)
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        async with self._place.reading(self._target, headers) as answer:
            self._place.expect(answer, 200)
            reader = SseReader(last_event_id=self._last_id or "")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    async for chunk in answer.aiter_bytes():
                        for event in reader.feed(chunk):
                            self._take(event)
            self._last_id = reader.last_event_id

    def _take(self, event: SseEvent) -> None:
        if event.event == "gap":  # it was away for longer than events are retained
            self._place.done["gap reported"] += 1
            self._seq = None
        elif event.event == "message" and event.data:
            self._place.done["event read"] += 1
            self.read(orjson.loads(event.data))
        else:
            self._place.check(not event.data, f"{self._target}: {event.event} {event.data}")

    def read(self, document: dict[str, Any]) -> None:
        """Check one event in its order."""
        seq = document["seq"]
        joins = self._seq is None or seq == self._seq + self._step
        self._place.check(joins, f"{self._target}: {seq} after {self._seq}")
        self._seq = seq


async def events_of(answer: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """Yield (event, document) up to the end of the response."""
    reader = SseReader()
    async for chunk in answer.aiter_bytes():
        for event in reader.feed(chunk):
            yield event.event, orjson.loads(event.data)
