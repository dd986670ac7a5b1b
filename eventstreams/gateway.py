"""Builds everything from Settings; starts it and stops it in order."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from eventstreams.declarations import Declarations
from eventstreams.demo import DemoFeed
from eventstreams.errors import ConfigError, LogError
from eventstreams.fanout.hub import Hub
from eventstreams.intake.canary import Canary
from eventstreams.intake.error_events import ErrorEventRate, ErrorEvents
from eventstreams.intake.gate import Gate
from eventstreams.intake.intake import Intake
from eventstreams.ledger.desk import Line
from eventstreams.ledger.ledger import Ledger
from eventstreams.legacy.beacon import Beacon
from eventstreams.legacy.conversion import Converter
from eventstreams.log.base import Log
from eventstreams.log.future import FutureLimit
from eventstreams.log.kafka import KafkaLog
from eventstreams.log.memory import MemoryLog
from eventstreams.log.sqlite import SqliteLog
from eventstreams.memory import give_back
from eventstreams.metrics import Metrics
from eventstreams.model.stream import Catalogue
from eventstreams.opening import (
    open_keys,
    open_shared,
    open_tokens,
    problems_between,
    problems_of,
)
from eventstreams.policies import Policies
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.store import SchemaStore
from eventstreams.settings import IntakeSettings, LegacySettings, LogSettings, Settings
from eventstreams.tasks import background
from eventstreams.turns import Turns
from eventstreams.web.app import App
from eventstreams.web.assembly import assemble
from eventstreams.web.open_streams import OpenStreams

_log = logging.getLogger(__name__)
_PARENT_TIMEOUT_S = 1.0


class Gateway(NamedTuple):
    """A gateway that runs."""

    app: App
    hub: Hub
    log: Log
    metrics: Metrics
    declarations: Declarations
    policies: Policies
    intake: Intake | None
    turns: Turns

    def reload(self) -> None:
        """Has catalogue and settings read again soon."""
        self.declarations.poke()
        self.policies.poke()


def open_log(settings: LogSettings, metrics: Metrics | None = None) -> Log:
    """The log that the settings name, not started."""
    limit = FutureLimit(future_max_s=settings.future_max_s, metrics=metrics)
    match settings.backend:
        case "memory":
            return MemoryLog(future_limit=limit)
        case "sqlite":
            return SqliteLog(
                directory=Path(settings.data_dir), settings=settings.sqlite, future_limit=limit
            )
        case "kafka":
            return KafkaLog(settings=settings.kafka, future_limit=limit)


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    catalogue: Catalogue,
    catalogue_path: Path | None = None,
    line: socket.socket | None = None,
    reread: Callable[[], Settings] | None = None,
) -> AsyncGenerator[Gateway]:
    """A gateway from start to stop. `catalogue_path`: the file to watch for changes. `line`: to
    the process that other workers share with this one. `reread`: the settings as they are in their
    file by now.

    Raises LogError where an embedded log can't be opened, ConfigError where the settings ask for
    what the catalogue or the files they name do not have. Kafka may be out of reach at start: the
    gateway is not ready then, and goes on trying.
    """
    metrics = Metrics()
    turns = Turns()
    log = open_log(settings.log, metrics)
    embedded = settings.log.backend != "kafka"
    declarations = Declarations(
        catalogue,
        path=catalogue_path,
        metrics=metrics,
        accept=lambda changed: problems_between(settings, changed),
    )
    schemas = open_schemas(settings)
    serves_streams = settings.only != "intake"
    if problems := problems_of(settings, catalogue):
        raise ConfigError(problems)
    policies = Policies(settings, reread=reread, metrics=metrics)
    keys = open_keys(settings.access)
    tokens = open_tokens(settings.access, keys)
    to_parent = None if line is None else Line(line, _PARENT_TIMEOUT_S)
    ledger = Ledger(open_shared(settings.shared, to_parent), metrics)
    try:
        if embedded:
            await log.start()
            await _make_topics(settings, log, catalogue)
        hub = Hub(
            log=log,
            topics=catalogue.topics if serves_streams else (),
            settings=settings.fanout,
            metrics=metrics,
            turns=turns,
            started=embedded,
        )
        hub.redact(catalogue.redactions)
        hub.silence.declare(catalogue.streams if serves_streams else {})
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(keys.aclose)
            if to_parent is not None:
                stack.callback(to_parent.close)
                to_parent.on_lost = _start_anew
            await stack.enter_async_context(ledger.running())
            intake = beacon = None
            if settings.only != "gateway":
                intake, canary = _intake(
                    settings=settings,
                    declarations=declarations,
                    schemas=schemas,
                    log=log,
                    metrics=metrics,
                    turns=turns,
                    hub=hub,
                )
                await stack.enter_async_context(intake.running())
                beacon = _beacon(settings.legacy, declarations, intake)
                await stack.enter_async_context(background(_when_well(hub, canary.run)))
            open_streams = OpenStreams(
                hub,
                metrics,
                catalogue=lambda: declarations.catalogue,
                log=settings.http.access_log,
                whole_addresses=settings.http.client_addresses == "whole",
            )
            app = assemble(
                settings=settings,
                declarations=declarations,
                schemas=schemas,
                hub=hub,
                open_streams=open_streams,
                intake=intake,
                beacon=beacon,
                metrics=metrics,
                ledger=ledger,
                tokens=tokens,
                policy=policies.now,
                line=to_parent,
                turns=turns,
            )
            await stack.enter_async_context(hub.running())
            await stack.enter_async_context(
                background(
                    give_back(lambda: hub.ended),
                    declarations.watch(settings.catalogue_refresh_s),
                    policies.watch(),
                    _follow_changes(
                        settings, declarations, hub if serves_streams else None, log, open_streams
                    ),
                )
            )
            await stack.enter_async_context(_demo(settings, catalogue, log))
            yield Gateway(app, hub, log, metrics, declarations, policies, intake, turns)
    finally:
        await schemas.aclose()
        await log.aclose()


def open_schemas(settings: Settings) -> SchemaStore:
    """The schemas that the settings name, not read."""
    return SchemaStore(
        SchemaRepository([Path(folder) for folder in settings.schemas]),
        retry_s=settings.intake.schema_retry_s,
        lenient_formats=settings.intake.compatibility == "eventgate",
    )


def open_intake(
    *,
    settings: IntakeSettings,
    catalogue: Callable[[], Catalogue],
    schemas: SchemaStore,
    log: Log,
    metrics: Metrics,
    turns: Turns,
    stop_in_s: Callable[[], float],
) -> Intake:
    """The intake that appends to this log, not running."""
    gate = Gate(
        configs=lambda: catalogue().configs, schemas=schemas, topic_prefix=settings.topic_prefix
    )
    error_events = None
    if settings.error_stream is not None:
        error_events = ErrorEvents(
            stream=settings.error_stream,
            emitter_id=settings.emitter_id,
            rate=ErrorEventRate(settings.error_events_per_s),
            gate=gate,
            schemas=schemas,
            catalogue=catalogue,
        )
    return Intake(
        log=log,
        gate=gate,
        error_events=error_events,
        settings=settings,
        metrics=metrics,
        turns=turns,
        stop_in_s=stop_in_s,
    )


def _intake(
    *,
    settings: Settings,
    declarations: Declarations,
    schemas: SchemaStore,
    log: Log,
    metrics: Metrics,
    turns: Turns,
    hub: Hub,
) -> tuple[Intake, Canary]:
    intake = open_intake(
        settings=settings.intake,
        catalogue=lambda: declarations.catalogue,
        schemas=schemas,
        log=log,
        metrics=metrics,
        turns=turns,
        stop_in_s=lambda: settings.fanout.drain_s - hub.draining_for_s,
    )
    canary = Canary(
        intake=intake,
        configs=lambda: declarations.configs,
        schemas=schemas,
        every_s=settings.intake.canary_every_s,
        metrics=metrics,
    )
    return intake, canary


def _beacon(settings: LegacySettings, declarations: Declarations, intake: Intake) -> Beacon | None:
    """None where the settings list no schema of EventLogging."""
    if not settings.schemas:
        return None
    return Beacon(
        intake=intake,
        converter=Converter(settings.schemas, configs=lambda: declarations.configs),
        receiver=socket.gethostname(),
        query_bytes_max=settings.query_bytes_max,
    )


def _start_anew() -> None:
    """What workers share can't be asked any more: another worker in the place of this one can."""
    _log.error("the line to the parent process is lost; this worker ends")
    signal.raise_signal(signal.SIGTERM)


async def _when_well(hub: Hub, run: Callable[[], Awaitable[None]]) -> None:
    """Once the log has been reached."""
    await hub.feed.well.wait()
    await run()


async def _follow_changes(
    settings: Settings,
    declarations: Declarations,
    hub: Hub | None,
    log: Log,
    open_streams: OpenStreams,
) -> None:
    """Streams that are declared while this runs can be read and posted to. Those that are not any
    more are refused; who reads one already goes on, unless it needs a scope now that this one has
    not."""
    while True:
        await declarations.changed.wait()
        declarations.changed.clear()
        try:
            if settings.log.backend != "kafka":
                await _make_topics(settings, log, declarations.catalogue)
        except LogError as error:
            _log.error("topics of the new catalogue could not be made: %s", error)
        open_streams.revoke()
        if hub is not None:
            hub.redact(declarations.catalogue.redactions)
            hub.silence.declare(declarations.catalogue.streams)
            hub.feed.add(declarations.catalogue.topics)


async def _make_topics(settings: Settings, log: Log, catalogue: Catalogue) -> None:
    for topic in sorted(catalogue.topics):
        await log.create_topic(topic, settings.log.sqlite.partitions_per_topic)


@contextlib.asynccontextmanager
async def _demo(settings: Settings, catalogue: Catalogue, log: Log) -> AsyncGenerator[None]:
    name = settings.demo.stream
    if name is None or settings.demo.rate == 0:
        yield
        return
    feed = DemoFeed(log=log, stream=catalogue.get(name), rate=settings.demo.rate)
    async with background(feed.run()):
        yield
