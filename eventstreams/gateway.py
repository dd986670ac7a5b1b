"""Builds everything from Settings; starts it and stops it in order."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from eventstreams.declarations import Declarations
from eventstreams.demo import DemoFeed
from eventstreams.errors import ConfigError, LogError
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.start import Starter
from eventstreams.intake.canary import Canary
from eventstreams.intake.error_events import ErrorEvents
from eventstreams.intake.gate import Gate
from eventstreams.intake.intake import Intake
from eventstreams.log.base import Log
from eventstreams.log.kafka import KafkaLog
from eventstreams.log.memory import MemoryLog
from eventstreams.log.sqlite import SqliteLog
from eventstreams.memory import give_back
from eventstreams.metrics import Metrics
from eventstreams.model.stream import Catalogue
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.store import SchemaStore
from eventstreams.settings import LogSettings, Settings
from eventstreams.tasks import background
from eventstreams.web.address import Proxies
from eventstreams.web.answers import common_headers
from eventstreams.web.app import App
from eventstreams.web.events import Events
from eventstreams.web.explain import Explain
from eventstreams.web.health import Health
from eventstreams.web.limits import Limits
from eventstreams.web.streams import Streams

_log = logging.getLogger(__name__)


class Gateway(NamedTuple):
    """A gateway that runs."""

    app: App
    hub: Hub
    log: Log
    metrics: Metrics
    declarations: Declarations
    intake: Intake | None


def open_log(settings: LogSettings) -> Log:
    """The log that the settings name, not started."""
    match settings.backend:
        case "memory":
            return MemoryLog()
        case "sqlite":
            return SqliteLog(directory=Path(settings.data_dir), settings=settings.sqlite)
        case "kafka":
            return KafkaLog(settings=settings.kafka)


@contextlib.asynccontextmanager
async def running(
    settings: Settings, catalogue: Catalogue, catalogue_path: Path | None = None
) -> AsyncGenerator[Gateway]:
    """A gateway from start to stop. `catalogue_path`: the file to watch for changes.

    Raises LogError where an embedded log can't be opened, ConfigError where the settings ask for
    what the catalogue or the schemas do not have. Kafka may be out of reach at start: the gateway
    is not ready then, and goes on trying.
    """
    metrics = Metrics()
    log = open_log(settings.log)
    embedded = settings.log.backend != "kafka"
    declarations = Declarations(
        catalogue,
        path=catalogue_path,
        metrics=metrics,
        accept=lambda changed: _problems(settings, changed),
    )
    schemas = open_schemas(settings)
    serves_streams = settings.only != "intake"
    try:
        if embedded:
            await log.start()
            await _make_topics(settings, log, catalogue)
        hub = Hub(
            log=log,
            topics=catalogue.topics if serves_streams else (),
            settings=settings.fanout,
            metrics=metrics,
            started=embedded,
        )
        hub.redact(catalogue.redactions)
        async with contextlib.AsyncExitStack() as stack:
            intake = None
            if settings.only != "gateway":
                intake, canary = _intake(settings, declarations, schemas, log, metrics)
                await stack.enter_async_context(intake.running())
                await stack.enter_async_context(background(_when_well(hub, canary.run)))
            app = _app(
                settings=settings,
                declarations=declarations,
                schemas=schemas,
                hub=hub,
                intake=intake,
                metrics=metrics,
            )
            await stack.enter_async_context(hub.running())
            await stack.enter_async_context(
                background(
                    give_back(lambda: hub.ended),
                    declarations.watch(settings.catalogue_refresh_s),
                    _follow_changes(settings, declarations, hub if serves_streams else None, log),
                )
            )
            await stack.enter_async_context(_demo(settings, catalogue, log))
            yield Gateway(app, hub, log, metrics, declarations, intake)
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


def _intake(
    settings: Settings,
    declarations: Declarations,
    schemas: SchemaStore,
    log: Log,
    metrics: Metrics,
) -> tuple[Intake, Canary]:
    section = settings.intake
    gate = Gate(
        configs=lambda: declarations.configs,
        schemas=schemas,
        topic_prefix=section.topic_prefix,
    )
    error_events = None
    if section.error_stream is not None:
        error_events = ErrorEvents(
            stream=section.error_stream,
            emitter_id=section.emitter_id,
            per_s=section.error_events_per_s,
            gate=gate,
            schemas=schemas,
        )
    intake = Intake(
        log=log, gate=gate, error_events=error_events, settings=section, metrics=metrics
    )
    canary = Canary(
        intake=intake,
        configs=lambda: declarations.configs,
        schemas=schemas,
        every_s=section.canary_every_s,
        metrics=metrics,
    )
    return intake, canary


async def _when_well(hub: Hub, run: Callable[[], Awaitable[None]]) -> None:
    """Once the log has been reached."""
    await hub.feed.well.wait()
    await run()


async def _follow_changes(
    settings: Settings, declarations: Declarations, hub: Hub | None, log: Log
) -> None:
    """Streams that are declared while this runs can be read and posted to. Those that are not any
    more are refused; who reads one already goes on."""
    while True:
        await declarations.changed.wait()
        declarations.changed.clear()
        try:
            if settings.log.backend != "kafka":
                await _make_topics(settings, log, declarations.catalogue)
        except LogError as error:
            _log.error("topics of the new catalogue could not be made: %s", error)
        if hub is not None:
            hub.redact(declarations.catalogue.redactions)
            hub.feed.add(declarations.catalogue.topics)


async def _make_topics(settings: Settings, log: Log, catalogue: Catalogue) -> None:
    for topic in sorted(catalogue.topics):
        await log.create_topic(topic, settings.log.sqlite.partitions_per_topic)


def static_folder() -> Path:
    """The pages: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parent
    inside = package / "static"
    return inside if inside.is_dir() else package.parent / "static"


def _app(
    *,
    settings: Settings,
    declarations: Declarations,
    schemas: SchemaStore,
    hub: Hub,
    intake: Intake | None,
    metrics: Metrics,
) -> App:
    headers = common_headers(settings.http)
    patience_s = min(settings.fanout.log_patience_s, settings.log.kafka.request_timeout_s)
    starter = Starter(hub=hub, patience_s=patience_s)
    compression = settings.http.compression
    proxies = Proxies(settings.http.trusted_proxies)
    explain = streams = events = None
    if settings.only != "intake":
        explain = Explain(
            declarations=declarations,
            starter=starter,
            hub=hub,
            headers=headers,
            compression=compression,
        )
        streams = Streams(
            declarations=declarations,
            starter=starter,
            hub=hub,
            limits=Limits(settings.limits),
            proxies=proxies,
            metrics=metrics,
            headers=headers,
            compression=compression,
        )
    if intake is not None:
        events = Events(intake=intake, proxies=proxies, metrics=metrics, headers=headers)
    return App(
        streams=streams,
        explain=explain,
        events=events,
        declarations=declarations,
        schemas=schemas,
        health=Health(hub),
        settings=settings.http,
        static=static_folder(),
        headers=headers,
    )


def _problems(settings: Settings, catalogue: Catalogue) -> list[str]:
    """What the settings name must be there."""
    problems = _demo_problems(settings, catalogue)
    name = settings.intake.error_stream
    if settings.only != "gateway" and name and catalogue.configs.get(name) is None:
        problems.append(f"intake.error_stream: {name} is not in the catalogue")
    return problems


def _demo_problems(settings: Settings, catalogue: Catalogue) -> list[str]:
    name = settings.demo.stream
    if name is None or name in catalogue.names:
        return []
    return [f"demo.stream: {name} is not in the catalogue"]


@contextlib.asynccontextmanager
async def _demo(settings: Settings, catalogue: Catalogue, log: Log) -> AsyncGenerator[None]:
    name = settings.demo.stream
    if name is None or settings.demo.rate == 0:
        yield
        return
    if problems := _demo_problems(settings, catalogue):
        raise ConfigError(problems)
    feed = DemoFeed(log=log, stream=catalogue.get(name), rate=settings.demo.rate)
    async with background(feed.run()):
        yield
