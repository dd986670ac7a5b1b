"""The gateway under test: its address, limits, and cached observations."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar, cast

from eventstreams.errors import EventStreamsError
from eventstreams.model.retry_after import parse_retry_after
from eventstreams.verify.reading import OK, Reading
from eventstreams.verify.verdict import Skipped, Wrong, shown
from eventstreams.verify.wire import BadHttp, Client, Exchange, Head, IncompleteResponse

STREAM_PATH = "/v2/stream/"
SSE = {"Accept": "text/event-stream"}
_TRIES = 4
_WAIT_MAX_S = 10.0
NEEDS_POST = "test events must be posted for this: pass --produce"

T = TypeVar("T")
Post = Callable[[list[dict[str, Any]]], Awaitable[None]]
"""Posts events. Raises PostRefused."""


class PostRefused(EventStreamsError):
    """The intake refused test events. This ends the run, because checks would blame the gateway."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how many events to examine."""

    answer_s: float = 10.0
    """For the head of a response, and for the first bytes of a stream."""
    event_s: float = 10.0
    """For an event that is in the log."""
    quiet_s: float = 1.0
    """For further bytes, before everything is assumed to have arrived."""
    live_s: float = 30.0
    """For live events, if none can be posted."""
    heartbeat_s: float = 25.0
    """For a quiet stream to send something. Clients and proxies disconnect after 30 to 60 s."""
    drain_s: float = 60.0
    """For a stream to end after the gateway has been stopped."""
    events: int = 20
    """The most events of the sample."""
    cuts: int = 12
    """The most events of the sample after which the stream is resumed."""


class Answer(NamedTuple):
    head: Head
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is not one."""
        try:
            document: Any = json.loads(self.body)
        except ValueError:
            return {}
        return cast("dict[str, Any]", document) if isinstance(document, dict) else {}

    def __str__(self) -> str:
        return f"{self.head.status} {self.head.reason} {shown(self.body)}"


class Target:
    """The gateway under test. Caches observations that several checks share."""

    def __init__(
        self,
        *,
        client: Client,
        root: str,
        streams: tuple[str, ...],
        patience: Patience,
        post: Post | None = None,
        template: Mapping[str, Any] | None = None,
        drain: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Set the gateway and the limits.

        `root` is the base path of the gateway, without a slash at its end; `template` is a test
        event without `meta.id`; `drain` stops the gateway.
        """
        self.client = client
        self.root = root
        self.streams = streams
        self.patience = patience
        self.drain = drain
        self.ended: list[Reading] = []
        """Endless streams that the server has ended."""
        self._post = post
        self._template = dict(template or {})
        self._kept: dict[str, Any] = {}

    @property
    def can_post(self) -> bool:
        return self._post is not None

    async def once(self, name: str, make: Callable[[], Awaitable[T]]) -> T:
        """Call `make` the first time only; return its result, or raise its error, every time."""
        if name not in self._kept:
            try:
                self._kept[name] = await make()
            except (Skipped, Wrong) as error:
                self._kept[name] = error
        kept = self._kept[name]
        if isinstance(kept, Skipped | Wrong):
            raise kept
        return cast("T", kept)

    def path(self, streams: str | None = None, query: str = "") -> str:
        """Return the path of streams; by default, of the streams under test."""
        names = ",".join(self.streams) if streams is None else streams
        return f"{self.root}{STREAM_PATH}{names}" + (f"?{query}" if query else "")

    @asynccontextmanager
    async def open(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Reading]:
        """Yield the response to a GET request, whatever its status. Raises Wrong without one."""
        async with self._answered("GET", path, headers, keep=True) as exchange:
            reading = Reading(exchange)
            yield reading
            if reading.ending is not None and reading.is_stream:
                self.ended.append(reading)

    @asynccontextmanager
    async def stream(
        self,
        query: str = "",
        *,
        last_event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Reading]:
        """Yield a stream that has begun. Raises Wrong if the response is no stream."""
        sent = {**SSE, **(headers or {})}
        if last_event_id is not None:
            sent["Last-Event-ID"] = last_event_id
        path = self.path(query=query)
        async with self.open(path, sent) as reading:
            if not reading.is_stream:
                await reading.settle(self.patience.quiet_s, self.patience.answer_s)
                raise Wrong(
                    f"GET {path} was answered with {reading.head.status} {reading.head.reason} "
                    f"{shown(bytes(reading.body))} and not with a stream"
                )
            yield reading

    async def begun(self, reading: Reading) -> None:
        """Wait for the first bytes of a stream. Raises Wrong if none arrive."""
        if not await reading.until(lambda: len(reading.body) >= len(OK), self.patience.answer_s):
            raise Wrong(f"a stream sent no bytes within {self.patience.answer_s:g} s")

    async def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Return a complete response. Raises Wrong if there is none."""
        async with self._answered(method, path, headers, keep=False) as exchange:
            try:
                async with asyncio.timeout(self.patience.answer_s):
                    return Answer(exchange.head, await exchange.body())
            except (TimeoutError, IncompleteResponse) as error:
                how = str(error) or f"it does not end within {self.patience.answer_s:g} s"
                raise Wrong(f"the response to {method} {path} is incomplete: {how}") from error

    @asynccontextmanager
    async def _answered(
        self, method: str, path: str, headers: Mapping[str, str] | None, *, keep: bool
    ) -> AsyncGenerator[Exchange]:
        """Yield a response. After 429, wait and retry, because the server may not have noticed yet
        that earlier connections are closed.
        """
        for tries_left in reversed(range(_TRIES)):
            async with AsyncExitStack() as stack:
                asked = self.client.request(method, path, headers, keep=keep)
                try:
                    async with asyncio.timeout(self.patience.answer_s):
                        exchange = await stack.enter_async_context(asked)
                except TimeoutError as error:
                    raise Wrong(
                        f"{method} {path} got no response within {self.patience.answer_s:g} s"
                    ) from error
                except BadHttp as error:
                    raise Wrong(f"{method} {path}: {error}") from error
                if exchange.head.status != 429 or not tries_left:
                    yield exchange
                    return
            await asyncio.sleep(_wait_s(exchange.head))

    async def produce(self, count: int, **fields: Any) -> list[str]:
        """Post `count` test events with these `fields` in one request; return their `meta.id`.

        Raises PostRefused, or Skipped if events cannot be posted.
        """
        if self._post is None:
            raise Skipped(NEEDS_POST)
        events: list[dict[str, Any]] = []
        for _ in range(count):
            event = {**self._template, **fields}
            event["meta"] = {
                **self._template.get("meta", {}),
                "id": str(uuid.uuid4()),
                "dt": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "domain": "canary",
            }
            events.append(event)
        await self._post(events)
        return [event["meta"]["id"] for event in events]


async def read_all(target: Target, reading: Reading, enough: Callable[[], bool]) -> None:
    """Read until `enough`, or until nothing more arrives.

    If events can be posted, one is posted, because everything that is due arrives before it.
    Otherwise, a pause is the sign that nothing more arrives.
    """
    if target.can_post and not enough():
        arrived = have(reading, await target.produce(1))
        await reading.until(lambda: arrived() or enough(), target.patience.event_s)
        return
    end = time.monotonic() + target.patience.event_s
    while not enough() and time.monotonic() < end:
        if not await reading.another(target.patience.quiet_s):
            return


async def post_until_seen(target: Target, reading: Reading, **fields: Any) -> str | None:
    """Post a test event; return its `meta.id` once it arrives, or None if it does not.

    A second event is posted if necessary: another check tests whether a stream has all events from
    its first byte on.
    """
    for _ in range(2):
        [posted] = await target.produce(1, **fields)
        if await reading.until(have(reading, [posted]), target.patience.event_s):
            return posted
    return None


def have(reading: Reading, ids: list[str]) -> Callable[[], bool]:
    """Return a function that tells whether all these test events have arrived."""
    missing = set(ids)
    looked_at = 0

    def arrived() -> bool:
        nonlocal looked_at
        missing.difference_update(str(e.meta.get("id")) for e in reading.seen[looked_at:])
        looked_at = len(reading.seen)
        return not missing

    return arrived


def _wait_s(head: Head) -> float:
    wait_s = parse_retry_after(head.get("retry-after"), time.time())
    return 1.0 if wait_s is None else min(_WAIT_MAX_S, wait_s)
