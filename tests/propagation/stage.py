"""A service over a log in memory or on Kafka, a clock that tests move, and a recording target."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventstreams.config.catalogue import load_catalogue
from eventstreams.config.settings import Settings
from eventstreams.errors import LogError
from eventstreams.gateway import open_intake, open_schemas
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.model.event import Event, Partition, Placed, Record
from eventstreams.propagation.http import Address, HttpClient
from eventstreams.propagation.producing import Producing
from eventstreams.propagation.rule_file import RuleFile, Targets, load_rules
from eventstreams.propagation.service import Propagation, Topics, embedded_sources, produces
from eventstreams.propagation.source import MemoryPositions, Positions
from eventstreams.propagation.state import MemoryState, SharedState
from eventstreams.turns import Turns
from tests.support.tcp_server import tcp_server

RULES = Path(__file__).parent / "rules"
NOW_MS = 1_700_000_000_000
PATIENCE_S = 60.0


class ManualClock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self._elapsed_ms = 1_000_000
        self._since_ms = NOW_MS - self._elapsed_ms
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._since_ms + self._elapsed_ms

    def elapsed_ms(self) -> int:
        return self._elapsed_ms

    def jump(self, ms: int) -> None:
        """Set the time of day forward, or back, while no time passes."""
        self._since_ms += ms

    async def sleep_until(self, moment_ms: int) -> None:
        while moment_ms > self._elapsed_ms:
            awake = asyncio.get_running_loop().create_future()
            self._sleepers.append((moment_ms, awake))
            await awake

    def advance(self, ms: int) -> None:
        self._elapsed_ms += ms
        due = [each for each in self._sleepers if each[0] <= self._elapsed_ms]
        self._sleepers = [each for each in self._sleepers if each[0] > self._elapsed_ms]
        for _, awake in due:
            if not awake.done():
                awake.set_result(None)


@dataclass
class Call:
    """A request that the target has received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[Call], "int | tuple[int, dict[str, str], bytes]"]


@dataclass
class Target:
    """An HTTP server that records requests and gives the responses that a test sets."""

    answer: Answer = lambda _: 200
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    open: int = 0
    most_open: int = 0
    _held: asyncio.Event | None = None
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def answers(self, *statuses: int) -> None:
        """Answer with these one after the other, then with the last."""
        left = list(statuses)
        self.answer = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def hold(self) -> None:
        """Answer nothing until `release`."""
        self._held = asyncio.Event()

    def release(self) -> None:
        assert self._held is not None
        self._held.set()
        self._held = None

    async def received(self, count: int) -> None:
        """Wait until so many requests have come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.calls) < count:
                self._arrived.clear()
                await self._arrived.wait()

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        """Every name leads here."""
        return [("127.0.0.1", self.port)]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ", 2)
            pairs = (line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): value for name, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            call = Call(method, path, headers, body)
            self.calls.append(call)
            self._arrived.set()
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            try:
                if self._held is not None:
                    await self._held.wait()
            finally:
                self.open -= 1
            answer = self.answer(call)
            status, more, data = (answer, {}, b"") if isinstance(answer, int) else answer
            lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(data)}"]
            lines += [f"{name}: {value}" for name, value in more.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + data)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[Target]:
        async with tcp_server(self._serve) as self.port:
            yield self


class Stage:
    """A service that runs over a log in memory."""

    def __init__(self, *, log: MemoryLog, clock: ManualClock, target: Target) -> None:
        self.log = log
        self.clock = clock
        self.target = target
        self.metrics = Metrics()
        self.service: Propagation
        self.http: HttpClient

    async def put(self, topic: str, *events: Any, partition: int | None = None) -> None:
        """Append events; bytes as they are, others as JSON."""
        values = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in events]
        await self.log.append([Record(topic, value, partition=partition) for value in values])

    async def act(self, topic: str, *events: Any) -> None:
        """Append events and wait until they are acted on."""
        await self.put(topic, *events)
        await self.idle()

    async def idle(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.service.idle()

    async def advance(self, ms: int) -> None:
        """Move the clock and wait until what is due is acted on."""
        self.clock.advance(ms)
        await self.idle()

    async def events(self, topic: str) -> list[Event]:
        partitions = (await self.log.partitions([topic])).get(topic, ())
        return [event for p in partitions for event in (await self.log.read(p, 0, 2**30)).events]

    async def documents(self, topic: str) -> list[Any]:
        return [json.loads(event.value or b"") for event in await self.events(topic)]

    def counts(self, rule: str) -> dict[str, float]:
        """What became of the events of a rule."""
        return {
            sample.labels["outcome"]: sample.value
            for metric in self.metrics.propagation_events.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and sample.labels["rule"] == rule
        }


class HaltingLog(MemoryLog):
    """A log that tests can make unreachable, or make refuse records of a topic."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.trouble: Callable[[Record], LogError | None] = lambda _: None

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        outcomes: list[Placed | LogError] = []
        for record in records:
            error = self.trouble(record)
            outcomes += [error] if error else await super().offer([record])
        return outcomes


def write_rules(tmp_path: Path, text: str) -> RuleFile:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with ThreadPoolExecutor(1) as thread:  # the service itself reads it before its loop runs
        return thread.submit(load_rules, path).result()


@contextlib.asynccontextmanager
async def running(
    loaded: RuleFile,
    *,
    log: MemoryLog | None = None,
    catalogue: Path | None = None,
    schemas: Path | None = None,
    state: SharedState | None = None,
    positions: Positions | None = None,
    clock: ManualClock | None = None,
    target: Target | None = None,
    open_targets: bool = True,
    pools_max: int = 256,
    make_topics: bool = True,
    look_every_s: float = 10.0,
) -> AsyncGenerator[Stage]:
    """Run the rules with every host leading to one target.

    `make_topics`: create the topics that the rules name.
    """
    log = log or HaltingLog()
    clock = clock or ManualClock()
    found: Catalogue | None = None
    if catalogue is not None:
        found = await asyncio.to_thread(load_catalogue, catalogue)
    settings = Settings() if schemas is None else Settings(schemas=(str(schemas),))
    async with contextlib.AsyncExitStack() as stack:
        target = target or await stack.enter_async_context(Target().running())
        stage = Stage(log=log, clock=clock, target=target)
        stage.http = HttpClient(
            targets=Targets(allow_private=open_targets),
            resolve=target.resolve,
            pools_max=pools_max,
        )
        store = open_schemas(settings)
        stack.push_async_callback(store.aclose)

        def producing(topics: Topics) -> Producing:
            assert found is not None
            intake = open_intake(
                settings=settings.intake,
                catalogue=lambda: found,
                schemas=store,
                log=log,
                metrics=stage.metrics,
                turns=Turns(),
                stop_in_s=lambda: 0.0,
            )
            return Producing(
                intake=intake,
                log=log,
                schemas=store,
                configs=lambda: found.configs,
                topic_of=topics.to_produce,
            )

        known = set(found.topics) if found is not None else set()
        stage.service = Propagation(
            loaded=loaded,
            catalogue=found,
            log=log,
            open_source=embedded_sources(
                log=log,
                positions=positions or MemoryPositions(),
                known_topics=known,
                names=sorted(known),
                look_every_s=look_every_s,
            ),
            state=MemoryState() if state is None else state,
            producing=producing if produces(loaded) else None,
            metrics=stage.metrics,
            clock=clock,
            http=stage.http,
            chance=lambda: 0.0,
        )
        if make_topics:
            for rule in loaded.rules:
                for topic in stage.service.topics.subscription(rule).topics:
                    await log.create_topic(topic, 1)
        await stack.enter_async_context(stage.service.running())
        async with asyncio.timeout(PATIENCE_S):
            await stage.service.started()
        yield stage


@contextlib.asynccontextmanager
async def running_file(name: str) -> AsyncGenerator[Stage]:
    """Run the rules of a file in the folder `rules`, with its catalogue and schemas."""
    loaded = await asyncio.to_thread(load_rules, RULES / name)
    schemas = RULES.parent / "schemas"
    async with running(loaded, catalogue=RULES / "streams.yaml", schemas=schemas) as stage:
        yield stage


def event(stream: str = "simple_topic", **more: Any) -> dict[str, Any]:
    """Return an event like those in the tests of change-propagation."""
    return {
        "meta": {
            "stream": stream,
            "uri": "/sample/uri",
            "request_id": "request-1",
            "domain": "en.wikipedia.org",
            "dt": "2023-11-14T22:13:20Z",
        },
        **more,
    }


def partition(topic: str, number: int = 0) -> Partition:
    return Partition(topic, number)
