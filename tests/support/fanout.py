"""Runs streams without a server, with clients whose sockets the test controls.

A Socket does what uvicorn does between an application and a connection: `send` writes while there
is room, and waits before writing while more than `high_water` bytes are unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any
from urllib.parse import quote

from eventstreams.access.key_sets import KeySet
from eventstreams.access.policy import Policy
from eventstreams.access.tickets import Tickets
from eventstreams.access.tokens import Tokens
from eventstreams.config.reloader import CatalogueWatcher
from eventstreams.config.settings import FanoutSettings
from eventstreams.fanout.compression import Encoding, begin
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.spec import Format, everything
from eventstreams.fanout.start import Start, StartResolver
from eventstreams.fanout.subscription import Subscription
from eventstreams.fanout.timing import Timing
from eventstreams.log.base import Log
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue, Stream
from eventstreams.model.event import Record
from eventstreams.quota.quota import LocalQuota, Quota
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.store import SchemaStore
from eventstreams.turns import Turns
from eventstreams.web.access import Access
from eventstreams.web.address import Proxies
from eventstreams.web.field_warnings import FieldWarnings
from eventstreams.web.limits import Limits
from eventstreams.web.open_streams import OpenStreams
from eventstreams.web.streams import Streams
from tests.support.waiting import PATIENCE_S
from tests.support.wire import Frame, frames_of, place_of


class Gateway:
    """Streams over a log: each topic is a stream of its own name, and `all` contains all of
    them."""

    def __init__(
        self, log: Log, topics: Collection[str], settings: FanoutSettings, timing: Timing | None
    ) -> None:
        self.log = log
        self.metrics = Metrics()
        turns = Turns()
        self.hub = Hub(
            log=log,
            topics=topics,
            settings=settings,
            metrics=self.metrics,
            turns=turns,
            started=True,
            filters_share=lambda: 0.5,
            timing=timing,
        )
        streams = {t: Stream(t, (t,), frozenset({t}), (), None, None) for t in topics}
        streams["all"] = Stream("all", tuple(topics), frozenset(topics), (), None, None)
        catalogue = Catalogue(streams)
        self.start_resolver = StartResolver(hub=self.hub, turns=turns, patience_s=PATIENCE_S)
        quota = Quota(LocalQuota(), self.metrics)
        keys = KeySet(file=None, url=None, refresh_s=60.0)
        tokens = Tokens(keys=keys, secret=None, issuer=None, audience=None, leeway_s=0.0)
        tickets = Tickets(quota=quota, ttl_s=1.0)
        watcher = CatalogueWatcher(catalogue, path=None, metrics=self.metrics)
        self.streams = Streams(
            catalogue_watcher=watcher,
            start_resolver=self.start_resolver,
            hub=self.hub,
            limits=Limits(Policy, quota),
            proxies=Proxies([]),
            metrics=self.metrics,
            headers=[],
            compression="always",
            access=Access(tokens=tokens, tickets=tickets, cookie=None),
            event_source_refusals=False,
            open_streams=OpenStreams(
                self.hub,
                self.metrics,
                catalogue=lambda: catalogue,
                log=True,
                whole_addresses=False,
            ),
            turns=turns,
            field_warnings=FieldWarnings(watcher, SchemaStore(SchemaRepository([]), retry_s=1.0)),
        )

    async def start(self, topic: str) -> Start:
        """Return where a stream of new events in a topic starts."""
        return await self.start_resolver.start(
            self.streams._catalogue_watcher.catalogue.resolve([topic]),
            everything(Format.SSE),
            cursors=None,
            since_ms=None,
            client="",
        )

    def subscription(self, start: Start, socket: Socket) -> Subscription:
        """Return a subscription, not running, to a client whose response has begun."""
        socket.status = 200
        return Subscription(
            hub=self.hub,
            spec=start.spec,
            position=start.position,
            response=begin(Encoding.IDENTITY, b":ok\n\n")[0],
            receive=socket.receive,
            send=socket.send,
            connection=socket,
            client="192.0.2.1",
        )

    def assert_nobody_is_left(self) -> None:
        assert not self.hub.subscriptions
        assert not self.hub._cohorts
        assert self.hub.catch_up.slots._value == self.hub.settings.catch_up_slots
        assert self.count("catching_up") == 0

    def count(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"eventstreams_{name}", labels)
        return found or 0.0


@contextlib.asynccontextmanager
async def serving(
    log: Log, topics: Collection[str], *, timing: Timing | None = None, **settings: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway with these FanoutSettings that leaves no task behind."""
    before = asyncio.all_tasks()
    gateway = Gateway(log, topics, FanoutSettings(**settings), timing)
    async with asyncio.timeout(PATIENCE_S * 3), gateway.hub.running():
        await gateway.hub.reachable.wait()
        yield gateway
    if isinstance(log, MemoryLog):  # the others have tasks of their own
        assert asyncio.all_tasks() <= before


class Socket:
    """Both ends of a connection: the bytes written and the bytes read."""

    def __init__(self, *, high_water: int | None = None) -> None:
        """Set `high_water`; if None, the client reads everything at once."""
        self.high_water = high_water
        self.written = bytearray()
        self.read = 0
        """Bytes that the client has read."""
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.reason = b"OK"
        self.complete = False
        self.aborted = False
        self.timed_out = False
        """Whether the kernel has given up the peer."""
        self.bodies: list[bytes] = []
        """Each write, unchanged; a write to a cohort is one object shared by all members."""
        self.direct_writes = 0
        self._inflate = zlib.decompressobj(wbits=31)
        self._inflated = 0
        self._decoded = b""
        self._gone = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._changed = asyncio.Event()
        self._asked = False

    # The application's side.

    async def send(self, message: Any) -> None:
        if not self._writable.is_set() and not self._gone.is_set():
            await self._writable.wait()
        if self._gone.is_set():
            return
        if message["type"] == "http.response.start":
            assert self.status is None
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            self._write(message["body"])
            self.complete = not message.get("more_body", False)
        self._settle()

    def _write(self, body: bytes) -> None:
        assert self.status is not None
        assert not self.complete
        self.written += body
        self.bodies.append(body)

    async def receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if not self.complete:
            await self._gone.wait()
        return {"type": "http.disconnect"}

    def begin_stream(self) -> None:
        pass

    def framed(self, body: bytes) -> bytes:
        assert body, "an empty chunk would end the response"
        return body

    def write_framed(self, data: bytes) -> bool:
        if not self._writable.is_set() or self._gone.is_set():
            return False
        self._write(data)
        self.direct_writes += 1
        self._settle()
        return True

    def unsent(self) -> int:
        return len(self.written) - self.read

    def set_reason(self, reason: bytes) -> None:
        self.reason = reason

    def abort(self) -> None:
        self.aborted = True
        self.hang_up()

    # The client's side.

    def take(self, count: int) -> None:
        """Read `count` bytes, or fewer if there are no more."""
        self.read = min(len(self.written), self.read + count)
        self._settle()

    def take_all(self) -> None:
        """Read everything at once from now on."""
        self.high_water = None
        self._settle()

    def hang_up(self) -> None:
        self._gone.set()
        self._writable.set()
        self._changed.set()

    @property
    def taken(self) -> bytes:
        return bytes(self.written[: self.read])

    @property
    def decoded(self) -> bytes:
        """Return the decoded content of what the client has read so far."""
        if self.headers.get("content-encoding") != "gzip":
            return self.taken
        self._decoded += self._inflate.decompress(self.taken[self._inflated :])
        self._inflated = self.read
        return self._decoded

    @property
    def frames(self) -> list[Frame]:
        return frames_of(self.decoded)

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait until a write, or the end of the response, makes `met` return true."""
        async with asyncio.timeout(PATIENCE_S):
            while not met():
                self._changed.clear()
                await self._changed.wait()

    def _settle(self) -> None:
        if self.high_water is None:
            self.read = len(self.written)
        if self.high_water is not None and self.unsent() > self.high_water:
            self._writable.clear()
        else:
            self._writable.set()
        self._changed.set()


class FailingSocket(Socket):
    """Its client disconnects before the first event is written; a server may raise then."""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body" and b"message" in message["body"]:
            self.hang_up()
            raise OSError("connection reset")
        await super().send(message)

    def write_framed(self, data: bytes) -> bool:
        return False


def scope_of(
    stream: str, *, last_event_id: str | None = None, query: str = "", accept: str = "*/*"
) -> dict[str, Any]:
    headers = [(b"accept", accept.encode())]
    if last_event_id is not None:
        headers.append((b"last-event-id", last_event_id.encode()))
    return {
        "type": "http",
        "method": "GET",
        "path": f"/v2/stream/{stream}",
        "raw_path": f"/v2/stream/{quote(stream)}".encode(),
        "query_string": query.encode(),
        "headers": headers,
    }


class Client:
    """One request. `serve` runs as a separate task, as the server would run it."""

    def __init__(
        self,
        gateway: Gateway,
        stream: str = "all",
        *,
        socket: Socket | None = None,
        exposed: bool = True,
        **scope: Any,
    ) -> None:
        """Set up the request. With `exposed`, the server exposes its connection, as ours does;
        otherwise only ASGI is used.
        """
        self.gateway = gateway
        self.socket = socket or Socket()
        self._scope = scope_of(stream, **scope)
        if exposed:
            self._scope["extensions"] = {"eventstreams.connection": self.socket}
        self.done = asyncio.Event()

    async def serve(self) -> None:
        try:
            await self.gateway.streams(self._scope, self.socket.receive, self.socket.send)
        finally:
            self.done.set()
            self.socket._changed.set()

    async def opened(self) -> None:
        await self.socket.until(lambda: bool(self.socket.written) or self.done.is_set())

    async def frames(self, count: int) -> list[Frame]:
        """Return the first `count` frames as soon as they have arrived."""
        socket = self.socket
        await socket.until(lambda: len(socket.frames) >= count or self.done.is_set())
        assert len(socket.frames) >= count, f"ended after {socket.taken!r}"
        return socket.frames[:count]

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.done.wait()

    @property
    def last_id(self) -> str | None:
        frames = self.socket.frames
        return frames[-1].id if frames else None


_settling: set[object] = set()
"""The tasks that wait in `settled`; all but the running one are due in the loop."""


async def settled() -> None:
    """Wait until no task is ready to run. Timers, sockets and threads are not waited for."""
    loop: Any = asyncio.get_running_loop()
    me = object()
    _settling.add(me)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.sleep(0)
            while len(loop._ready) >= len(_settling):  # there is no public way to ask for it
                await asyncio.sleep(0)
    finally:
        _settling.remove(me)


async def passed(turns: int) -> None:
    """Let `turns` passes of the event loop go by, to stop at any moment."""
    for _ in range(turns):
        await asyncio.sleep(0)


def events(topic: str, number: int, count: int, text: str = "", at_ms: int = 1_000) -> list[Record]:
    value = json.dumps({"text": text}).encode()
    return [Record(topic, value, partition=number, timestamp_ms=at_ms + n) for n in range(count)]


async def joined(gateway: Gateway, *clients: Client) -> None:
    """Wait until the clients wait for new events as members of a cohort."""
    for client in clients:
        await client.opened()
    async with asyncio.timeout(PATIENCE_S):
        while sum(s.cohort is not None for s in gateway.hub.subscriptions) < len(clients):
            await asyncio.sleep(0)


def places(client: Client) -> list[tuple[int, int]]:
    return [place_of(f)[1:] for f in client.socket.frames if f.event == "message"]
