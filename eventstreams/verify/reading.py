"""Reads one open stream: its bytes as they arrive, and the events in them.

Events are parsed according to the standard (`eventstreams.model.sse`). `body` and `chunk_ends` are
for the checks of framing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

from eventstreams.model.event import Partition
from eventstreams.model.sse import SseEvent, SseReader, is_event_stream
from eventstreams.verify.verdict import Wrong
from eventstreams.verify.wire import Exchange, IncompleteResponse

_BODY_BYTES_MAX = 64 * 2**20
OK = b":ok\n\n"


class Seen(NamedTuple):
    """An event as it arrived."""

    event: str
    data: str
    id: str
    at: float
    """The time of arrival on the monotonic clock, in seconds."""

    @property
    def is_message(self) -> bool:
        return self.event == "message"

    @property
    def document(self) -> dict[str, Any]:
        """The data as a JSON object; empty if it is not one."""
        try:
            document: Any = json.loads(self.data)
        except ValueError:
            return {}
        return cast("dict[str, Any]", document) if isinstance(document, dict) else {}

    @property
    def meta(self) -> dict[str, Any]:
        return _object(self.document, "meta")

    @property
    def offset(self) -> tuple[Partition, int] | None:
        """The event's place in the log, from its `meta`, or from `_kafka` with plain KafkaSSE."""
        for name in ("meta", "_kafka"):
            place = _object(self.document, name)
            topic, number, offset = (place.get(key) for key in ("topic", "partition", "offset"))
            if isinstance(topic, str) and isinstance(number, int) and isinstance(offset, int):
                return Partition(topic, number), offset
        return None

    @property
    def identity(self) -> str:
        """A text that identifies the event on every connection."""
        if self.offset is None:
            return self.data
        (topic, number), offset = self.offset
        return f"{topic}/{number}/{offset}"

    @property
    def partition(self) -> Partition:
        """The partition, within which events are ordered. Events without one share a partition."""
        return self.offset[0] if self.offset else Partition("", 0)


class Reading:
    """An open stream, and everything that has arrived."""

    def __init__(self, exchange: Exchange) -> None:
        self.head = exchange.head
        self.chunked = exchange.chunked
        self.body = bytearray()
        self.chunk_ends: list[int] = []
        """The ends of the HTTP chunks in `body`; without chunks, the ends of reads."""
        self.arrivals: list[float] = []
        """The time of arrival of each chunk."""
        self.seen: list[Seen] = []
        self.ending: Literal["clean", "torn"] | None = None
        """How the response ended; None while it is open."""
        self.exchange = exchange
        self._reader = SseReader()

    @property
    def is_stream(self) -> bool:
        return self.head.status == 200 and is_event_stream(self.head.get("content-type"))

    @property
    def messages(self) -> list[Seen]:
        return [event for event in self.seen if event.is_message]

    async def until(self, done: Callable[[], bool], patience_s: float) -> bool:
        """Read until `done` or until the time is over; return whether it is done."""
        try:
            async with asyncio.timeout(patience_s):
                while not done() and await self._more():
                    pass
        except TimeoutError:
            pass
        return done()

    async def messages_until(self, count: int, patience_s: float) -> list[Seen]:
        """Read until there are `count` messages or the time is over, and return the messages."""
        found: list[Seen] = []
        counted = 0

        def enough() -> bool:
            nonlocal counted
            found.extend(event for event in self.seen[counted:] if event.is_message)
            counted = len(self.seen)
            return len(found) >= count

        await self.until(enough, patience_s)
        return found

    async def grow(self, patience_s: float) -> bool:
        """Read the next bytes; return whether any arrived."""
        size = len(self.body)
        return await self.until(lambda: len(self.body) > size, patience_s)

    async def another(self, patience_s: float) -> bool:
        """Read until the next event, ignoring heartbeats; return whether one arrived."""
        count = len(self.seen)
        return await self.until(lambda: len(self.seen) > count, patience_s)

    async def settle(self, quiet_s: float, patience_s: float) -> None:
        """Read until nothing has arrived for `quiet_s`, or until the time is over."""
        end = time.monotonic() + patience_s
        while (left_s := end - time.monotonic()) > 0:
            if not await self.grow(min(quiet_s, left_s)):
                return

    async def _more(self) -> bool:
        """Process the next bytes; return whether there were any."""
        if self.ending is not None:
            return False
        try:
            piece = await self.exchange.read()
        except IncompleteResponse:
            self.ending = "torn"
            return False
        if piece is None:
            self.ending = "clean"
            return False
        self.take(piece)
        return True

    def take(self, piece: bytes) -> None:
        """Add received bytes. Raises Wrong if there are too many."""
        if len(self.body) + len(piece) > _BODY_BYTES_MAX:
            raise Wrong(f"a stream sent more than {_BODY_BYTES_MAX:,} bytes")
        now = time.monotonic()
        self.body += piece
        self.chunk_ends.append(len(self.body))
        self.arrivals.append(now)
        self.seen += [_seen(event, now) for event in self._reader.feed(piece)]


def _seen(event: SseEvent, now: float) -> Seen:
    return Seen(event.event, event.data, event.id, now)


def _object(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
