"""Runs real gateways in the process of a test, on a loopback port.

`run_gateway` is the only function that starts one. On top of it, `Site` has a log that a test fills
through its own connection, as another process would; `tests.support.intake` posts events, and
`tests.support.target` enables every part. To test streams without a server, see
`tests.support.fanout`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eventstreams.config.settings import (
    AccessSettings,
    FanoutSettings,
    HttpSettings,
    KafkaSettings,
    LimitSettings,
    LogSettings,
    Settings,
    SharedSettings,
    SqliteSettings,
)
from eventstreams.gateway import Gateway, running
from eventstreams.log.base import Log
from eventstreams.model.catalogue import Catalogue
from eventstreams.model.catalogue import Stream as CatalogueStream
from eventstreams.model.event import Partition, Placed, Record
from eventstreams.server.acceptor import protocol_class
from eventstreams.server.drain import Server
from eventstreams.server.serve import uvicorn_config
from eventstreams.server.tls import Certificate
from eventstreams.web.app import App
from tests.support.backends import Backend, Kafka, Sqlite
from tests.support.client import Answer, Client, Frame, Stream, connected, frames_of
from tests.support.waiting import PATIENCE_S, until

Headers = Mapping[str, str]
SSE = {"Accept": "text/event-stream"}
NDJSON = {"Accept": "application/json"}


class _Server(Server):
    """The real server, without its own signal handlers, and stopped by an event.

    It drains only in tests of draining: `drain` does what a signal would do, but gives clients more
    time to read the end of their streams.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.stopping.wait()

    async def drain(self) -> None:
        self._drain_s = PATIENCE_S  # on a busy machine, all clients read slowly
        await super().shutdown()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self.drop_connections()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class Served:
    """A gateway that listens on `port`."""

    def __init__(self, port: int, parts: Gateway, server: _Server) -> None:
        self.port = port
        self.parts = parts
        self.server = server

    @asynccontextmanager
    async def stream(
        self,
        names: str,
        headers: Headers | None = None,
        *,
        status: int = 200,
        last_event_id: Any = None,
        receive_buffer: int | None = None,
        **query: str,
    ) -> AsyncIterator[Stream]:
        """Open a stream. `query` is percent-encoded; `last_event_id` is sent as a header."""
        text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        target = f"/v2/stream/{names}" + (f"?{text}" if text else "")
        async with self.opened(
            target, headers, last_event_id=last_event_id, receive_buffer=receive_buffer
        ) as stream:
            assert stream.head.status == status
            yield stream

    @asynccontextmanager
    async def opened(
        self,
        target: str,
        headers: Headers | None = None,
        *,
        last_event_id: Any = None,
        receive_buffer: int | None = None,
    ) -> AsyncIterator[Stream]:
        """Open a stream whose target is sent unchanged."""
        sent = {**SSE, **(headers or {})}
        if last_event_id is not None:
            as_text = isinstance(last_event_id, str)
            sent["Last-Event-ID"] = last_event_id if as_text else json.dumps(last_event_id)
        async with connected(self.port, receive_buffer=receive_buffer) as client:
            await client.send("GET", target, sent)
            yield Stream(client, await client.head())

    async def get(self, target: str, headers: Headers | None = None) -> Answer:
        return await self.ask("GET", target, headers)

    async def ask(self, method: str, target: str, headers: Headers | None = None) -> Answer:
        """Make a request and return its complete answer."""
        async with connected(self.port) as client:
            return await ask(client, method, target, headers)

    def count(self, metric: str, **labels: str) -> float:
        return self.parts.metrics.registry.get_sample_value(f"eventstreams_{metric}", labels) or 0.0

    async def until(self, metric: str, value: float, **labels: str) -> None:
        """Wait for something that happens asynchronously in the gateway."""
        await until(lambda: self.count(metric, **labels) == value)


async def ask(client: Client, method: str, target: str, headers: Headers | None = None) -> Answer:
    """Make a request and return its complete answer, on a connection that can be used again."""
    await client.send(method, target, headers)
    head = await client.head()
    return Answer(head, b"" if method == "HEAD" else await client.body(head))


class Site:
    """A log that the test fills, over which it runs gateways."""

    def __init__(self, backend: Backend, log: Log, settings: LogSettings) -> None:
        self.backend = backend
        self.log = log
        self.settings = settings

    @property
    def has_epochs(self) -> bool:
        """Return whether ids contain leader epochs."""
        return self.settings.backend == "kafka"

    async def topic(self, partitions: int = 1) -> str:
        return await self.backend.topic(self.log, partitions)

    async def produce(
        self, topic: str, *values: Any, partition: int = 0, timestamp_ms: int | None = None
    ) -> list[Placed]:
        """Append values: bytes and None unchanged, everything else as JSON."""
        records = [Record(topic, as_value(v), None, timestamp_ms, partition) for v in values]
        return await self.log.append(records)

    async def forget_before(self, topic: str, offset: int, partition: int = 0) -> None:
        await self.backend.forget_before(self.log, Partition(topic, partition), offset)

    @asynccontextmanager
    async def gateway(
        self,
        streams: Mapping[str, list[str] | CatalogueStream],
        *,
        http: HttpSettings | None = None,
        limits: LimitSettings | None = None,
        log: LogSettings | None = None,
        access: AccessSettings | None = None,
        shared: SharedSettings | None = None,
        connections: Mapping[str, float] | None = None,
        **fanout: Any,
    ) -> AsyncIterator[Served]:
        settings = Settings(
            http=http or HttpSettings(),
            log=log or self.settings,
            limits=limits or LimitSettings(),
            access=access or AccessSettings(),
            shared=shared or SharedSettings(),
            fanout=FanoutSettings(**fanout),
        )
        catalogue = Catalogue(
            {
                name: s if isinstance(s, CatalogueStream) else stream_of(name, s)
                for name, s in streams.items()
            }
        )
        async with run_gateway(settings, catalogue, **(connections or {})) as served:
            yield served


def stream_of(
    name: str, topics: list[str], *, allowed: list[str] | None = None, aliases: tuple[str, ...] = ()
) -> CatalogueStream:
    every = frozenset([*topics, *(allowed or [])])
    return CatalogueStream(name, tuple(topics), every, aliases, "test/event", f"Of {name}.")


def as_value(value: Any) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else json.dumps(value).encode()


@asynccontextmanager
async def run_gateway(
    settings: Settings,
    catalogue: Catalogue,
    path: Path | None = None,
    *,
    reread: Callable[[], Settings] | None = None,
    wrap: Callable[[App], App] = lambda app: app,
    **connections: float,
) -> AsyncIterator[Served]:
    """Run a gateway, and serve it on a free port.

    The catalogue is reloaded from `path`, and the settings by `reread`. `wrap` wraps the
    application. `connections` are further arguments of `protocol_class`.
    """
    async with running(settings, catalogue, path, reread=reread) as parts:
        protocol = protocol_class(
            settings,
            connections_max=settings.limits.connections_max,
            certificate=await asyncio.to_thread(Certificate.of, settings.http),
            turns=parts.turns,
            count=lambda code: parts.metrics.refused.labels(code).inc(),
            **connections,
        )
        config = uvicorn_config(settings, wrap(parts.app), protocol)
        server = _Server(config, hub=parts.hub, drain_s=settings.fanout.drain_s)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen(100)
        port = sock.getsockname()[1]
        serving = asyncio.create_task(server.serve([sock]))
        try:
            yield Served(port, parts, server)
        finally:
            server.stopping.set()
            await serving


@asynccontextmanager
async def site_of(kind: type[Backend]) -> AsyncIterator[Site]:
    async with kind.place() as backend:
        log = await backend.open()
        try:
            yield Site(backend, log, settings_of(backend))
        finally:
            await log.aclose()


def settings_of(backend: Backend) -> LogSettings:
    """Return the settings of a gateway over the same log."""
    if isinstance(backend, Kafka):
        kafka = KafkaSettings(bootstrap_servers=(backend.bootstrap,), request_timeout_s=20)
        return LogSettings(backend="kafka", kafka=kafka)
    assert isinstance(backend, Sqlite)
    sqlite = SqliteSettings(sync="normal")
    return LogSettings(data_dir=str(Path(backend.directory)), sqlite=sqlite)


T0 = 1_700_000_000_000


async def filled(site: Site, *, count: int = 4, partitions: int = 1) -> str:
    """Return a topic whose record n, in each partition, is {"n": n} at T0 + 1000 n."""
    topic = await site.topic(partitions)
    for partition in range(partitions):
        for n in range(count):
            await site.produce(topic, {"n": n}, partition=partition, timestamp_ms=T0 + 1000 * n)
    return topic


def messages_of(answer: Answer) -> list[Frame]:
    assert answer.status == 200, answer.body
    return [
        f
        for f in frames_of(answer.body.removeprefix(b":ok\n\n"))
        if f.event == "message" and f.data
    ]
