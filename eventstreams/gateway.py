"""Builds all parts of a gateway from its settings, and starts and stops them in order."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from eventstreams.access.builder import open_keys, open_policy, open_tokens
from eventstreams.access.policy import Policy
from eventstreams.access.tickets import Tickets
from eventstreams.access.tokens import Tokens
from eventstreams.config.reloader import CatalogueWatcher, LiveSettings
from eventstreams.config.settings import (
    IntakeSettings,
    LogSettings,
    Settings,
)
from eventstreams.demo.feed import DemoFeed
from eventstreams.errors import ConfigError, LogError
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.start import StartResolver
from eventstreams.intake.canary import Canary
from eventstreams.intake.error_events import ErrorEventRate, ErrorEvents
from eventstreams.intake.intake import Intake
from eventstreams.intake.router import EventRouter
from eventstreams.legacy.beacon import Beacon
from eventstreams.legacy.conversion import Converter
from eventstreams.log.base import Log
from eventstreams.log.future import FutureLimit
from eventstreams.log.memory import MemoryLog
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.problems import problems_between, problems_of
from eventstreams.process_memory import give_back
from eventstreams.quota.builder import open_shared
from eventstreams.quota.quota import Quota
from eventstreams.quota.workers import QuotaClient
from eventstreams.relay.builder import open_relay
from eventstreams.relay.relay import Relay
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.store import SchemaStore
from eventstreams.tasks import background
from eventstreams.turns import Turns
from eventstreams.web.access import Access, ticket_routes
from eventstreams.web.activity import StreamActivity
from eventstreams.web.address import Proxies
from eventstreams.web.admin import Admin
from eventstreams.web.answers import common_headers
from eventstreams.web.app import App
from eventstreams.web.beacon import BeaconPage
from eventstreams.web.cursor import cursor_routes
from eventstreams.web.events import Events
from eventstreams.web.explain import Explain
from eventstreams.web.field_warnings import FieldWarnings
from eventstreams.web.limits import Limits
from eventstreams.web.open_streams import OpenStreams
from eventstreams.web.openapi import OpenApi
from eventstreams.web.operators import Operators, figures_of
from eventstreams.web.pages import Health, page_routes
from eventstreams.web.schemas import schema_routes
from eventstreams.web.selftest import SelfTest
from eventstreams.web.stream_configs import stream_config_routes
from eventstreams.web.streams import Streams
from eventstreams.web.usage import Usage

_log = logging.getLogger(__name__)
_PARENT_TIMEOUT_S = 1.0


class Gateway(NamedTuple):
    """A running gateway."""

    app: App
    hub: Hub
    log: Log
    metrics: Metrics
    catalogue_watcher: CatalogueWatcher
    live_settings: LiveSettings[Policy]
    intake: Intake | None
    turns: Turns
    quota: Quota

    def reload(self) -> None:
        """Request a reload of the catalogue and the settings."""
        self.catalogue_watcher.request_reload()
        self.live_settings.request_reload()


def open_log(
    settings: LogSettings, metrics: Metrics | None = None, turns: Turns | None = None
) -> Log:
    """Return the log that the settings name, not started.

    `turns` delays the work of clients while an embedded log reads new events, or writes while
    other processes write to it too.
    """
    limit = FutureLimit(future_max_s=settings.future_max_s, metrics=metrics)
    match settings.backend:
        case "memory":
            return MemoryLog(future_limit=limit)
        case "sqlite":
            return SqliteLog(
                directory=Path(settings.data_dir),
                settings=settings.sqlite,
                future_limit=limit,
                undisturbed=contextlib.nullcontext if turns is None else turns.hold_back,
            )
        case "kafka":
            from eventstreams.log.kafka.log import KafkaLog  # noqa: PLC0415 - loads much

            return KafkaLog(settings=settings.kafka, future_limit=limit)


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """The parts from which the intake, the pages and the background tasks are built."""

    settings: Settings
    metrics: Metrics
    turns: Turns
    log: Log
    hub: Hub
    schemas: SchemaStore
    catalogue_watcher: CatalogueWatcher
    live_settings: LiveSettings[Policy]
    tokens: Tokens
    quota: Quota
    quota_client: QuotaClient | None
    """The connection to the parent process, if workers share their limits through it."""
    open_streams: OpenStreams


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    catalogue: Catalogue,
    catalogue_path: Path | None = None,
    line: socket.socket | None = None,
    reread: Callable[[], Settings] | None = None,
) -> AsyncGenerator[Gateway]:
    """Run a gateway for the length of the block.

    `catalogue_path` is watched for changes. `line` is a socket to the parent process, through which
    workers share counters. `reread` returns the current settings from their file.

    Raises LogError if an embedded log cannot be opened, and ConfigError if the settings conflict
    with the catalogue or with the files that they name. If Kafka is unreachable at the start, the
    gateway is not ready and retries.
    """
    if problems := problems_of(settings, catalogue):
        raise ConfigError(problems)
    metrics, turns = Metrics(), Turns()
    log = open_log(settings.log, metrics, turns)
    schemas = open_schemas(settings)
    embedded = settings.log.backend != "kafka"
    serves_streams = settings.only != "intake"
    keys = open_keys(settings.access)
    live_settings = LiveSettings(settings, build=open_policy, reread=reread, metrics=metrics)
    quota_client = None if line is None else QuotaClient(line, _PARENT_TIMEOUT_S)
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
            filters_share=lambda: live_settings.now().limits.filters_share,
        )
        catalogue_watcher = CatalogueWatcher(
            catalogue,
            path=catalogue_path,
            metrics=metrics,
            accept=lambda changed: problems_between(settings, changed),
        )
        parts = _Parts(
            settings=settings,
            metrics=metrics,
            turns=turns,
            log=log,
            hub=hub,
            schemas=schemas,
            catalogue_watcher=catalogue_watcher,
            live_settings=live_settings,
            tokens=open_tokens(settings.access, keys),
            quota=Quota(open_shared(settings.shared, quota_client), metrics),
            quota_client=quota_client,
            open_streams=OpenStreams(
                hub,
                metrics,
                catalogue=lambda: catalogue_watcher.catalogue,
                log=settings.http.access_log,
                whole_addresses=settings.http.client_addresses == "whole",
            ),
        )
        hub.redact(catalogue.redactions)
        if serves_streams:
            hub.declare(catalogue.streams)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(keys.aclose)
            if quota_client is not None:
                stack.callback(quota_client.close)
                quota_client.on_lost = _end_worker
            await stack.enter_async_context(parts.quota.running())
            intake = None
            if settings.only != "gateway":
                intake = _intake(parts)
                await stack.enter_async_context(intake.running())
                await stack.enter_async_context(background(_send_canaries(parts, intake)))
            app = _app(parts, intake)
            await stack.enter_async_context(hub.running())
            await stack.enter_async_context(
                background(
                    give_back(lambda: hub.ended),
                    catalogue_watcher.poll(settings.catalogue_refresh_s),
                    parts.live_settings.watch(),
                    _follow_changes(parts),
                )
            )
            await stack.enter_async_context(_demo(settings, catalogue, log))
            await stack.enter_async_context(_relays(parts, catalogue))
            yield Gateway(
                app=app,
                hub=hub,
                log=log,
                metrics=metrics,
                catalogue_watcher=catalogue_watcher,
                live_settings=parts.live_settings,
                intake=intake,
                turns=turns,
                quota=parts.quota,
            )
    finally:
        await schemas.aclose()
        await log.aclose()


def open_schemas(settings: Settings) -> SchemaStore:
    """Return a store of the schemas that the settings name, which are read on demand."""
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
    """Return an intake that appends to this log, not running."""
    router = EventRouter(
        configs=lambda: catalogue().configs, schemas=schemas, topic_prefix=settings.topic_prefix
    )
    error_events = None
    if settings.error_stream is not None:
        error_events = ErrorEvents(
            stream=settings.error_stream,
            emitter_id=settings.emitter_id,
            rate=ErrorEventRate(settings.error_events_per_s),
            router=router,
            schemas=schemas,
            catalogue=catalogue,
        )
    return Intake(
        log=log,
        router=router,
        error_events=error_events,
        settings=settings,
        metrics=metrics,
        turns=turns,
        stop_in_s=stop_in_s,
        finds_spans=isinstance(log, SqliteLog),
    )


def _intake(parts: _Parts) -> Intake:
    settings, hub = parts.settings, parts.hub
    return open_intake(
        settings=settings.intake,
        catalogue=lambda: parts.catalogue_watcher.catalogue,
        schemas=parts.schemas,
        log=parts.log,
        metrics=parts.metrics,
        turns=parts.turns,
        stop_in_s=lambda: settings.fanout.drain_s - hub.draining_for_s,
    )


async def _send_canaries(parts: _Parts, intake: Intake) -> None:
    """Post canary events once the log can be reached, until cancelled."""
    canary = Canary(
        intake=intake,
        configs=lambda: parts.catalogue_watcher.configs,
        schemas=parts.schemas,
        every_s=parts.settings.intake.canary_every_s,
        metrics=parts.metrics,
    )
    await parts.hub.reachable.wait()
    await canary.run()


def _app(parts: _Parts, intake: Intake | None) -> App:
    """Return the application with the resources that the settings enable."""
    settings, metrics = parts.settings, parts.metrics
    headers = common_headers(settings.http, cookies=settings.access.cookie is not None)
    proxies = Proxies(settings.http.trusted_proxies)
    limits = Limits(parts.live_settings.now, parts.quota)
    routes = [
        *cursor_routes(),
        *SelfTest(limits=limits, proxies=proxies).routes(),
        *page_routes(
            openapi=OpenApi(parts.catalogue_watcher, parts.schemas),
            catalogue_watcher=parts.catalogue_watcher,
            health=Health(parts.hub),
            homepage=settings.http.homepage,
            static=static_folder(),
        ),
        *stream_config_routes(parts.catalogue_watcher),
        *Usage(settings=settings, limits=limits, proxies=proxies, intake=intake).routes(),
        *schema_routes(parts.schemas),
    ]
    streams = events = beacon = None
    if settings.only != "intake":
        access = Access(
            tokens=parts.tokens,
            tickets=Tickets(quota=parts.quota, ttl_s=settings.access.ticket_s),
            cookie=settings.access.cookie,
        )
        patience_s = min(settings.fanout.log_patience_s, settings.log.kafka.request_timeout_s)
        start_resolver = StartResolver(hub=parts.hub, turns=parts.turns, patience_s=patience_s)
        field_warnings = FieldWarnings(parts.catalogue_watcher, parts.schemas)
        explain = Explain(
            catalogue_watcher=parts.catalogue_watcher,
            start_resolver=start_resolver,
            hub=parts.hub,
            compression=settings.http.compression,
            access=access,
            limits=limits,
            proxies=proxies,
            turns=parts.turns,
            field_warnings=field_warnings,
        )
        admin = Admin(
            policy=parts.live_settings.now,
            open_streams=parts.open_streams,
            quota_client=parts.quota_client,
            figures=lambda: figures_of(
                hub=parts.hub,
                metrics=metrics,
                open_streams=parts.open_streams,
                catalogue_watcher=parts.catalogue_watcher,
                settings=settings,
            ),
        )
        operators = Operators(
            admin=admin,
            hub=parts.hub,
            quota=parts.quota,
            streams_max=lambda: parts.live_settings.now().limits.streams_max,
            propagation=settings.propagation,
            pages=static_folder(),
        )
        activity = StreamActivity(catalogue_watcher=parts.catalogue_watcher, hub=parts.hub)
        routes += [
            *activity.routes(),
            *explain.routes(),
            *ticket_routes(access, limits, proxies),
            *admin.routes(),
            *operators.routes(),
        ]
        streams = Streams(
            catalogue_watcher=parts.catalogue_watcher,
            start_resolver=start_resolver,
            hub=parts.hub,
            limits=limits,
            proxies=proxies,
            metrics=metrics,
            headers=headers,
            compression=settings.http.compression,
            access=access,
            event_source_refusals=settings.http.event_source_refusals == "stream",
            open_streams=parts.open_streams,
            turns=parts.turns,
            field_warnings=field_warnings,
        )
    if intake is not None:
        events = Events(
            intake=intake,
            proxies=proxies,
            metrics=metrics,
            policy=parts.live_settings.now,
            stall_timeout_s=settings.fanout.stall_timeout_s,
        )
        if settings.legacy.schemas:
            converter = Converter(
                settings.legacy.schemas, configs=lambda: parts.catalogue_watcher.configs
            )
            beacon = BeaconPage(
                beacon=Beacon(
                    intake=intake,
                    converter=converter,
                    receiver=socket.gethostname(),
                    query_bytes_max=settings.legacy.query_bytes_max,
                ),
                proxies=proxies,
                metrics=metrics,
            )
    return App(
        streams=streams,
        events=events,
        beacon=beacon,
        routes=routes,
        headers=headers,
        proxies=proxies,
        turns=parts.turns,
        metrics=metrics,
    )


def static_folder() -> Path:
    """Return the folder of the pages: beside the package in a checkout, inside it if installed."""
    package = Path(__file__).parent
    inside = package / "static"
    return inside if inside.is_dir() else package.parent / "static"


def _end_worker() -> None:
    """End this worker after its connection to the parent was lost; the parent restarts it."""
    _log.error("the connection to the parent process is lost; this worker ends")
    signal.raise_signal(signal.SIGTERM)


async def _follow_changes(parts: _Parts) -> None:
    """Apply each new catalogue, until cancelled.

    Streams that are declared while the process runs can be read and posted to. Streams that are
    no longer declared are refused; clients that already read one continue, unless the stream now
    requires a scope that they do not have.
    """
    settings, watcher, hub = parts.settings, parts.catalogue_watcher, parts.hub
    serves_streams = settings.only != "intake"
    while True:
        await watcher.changed.wait()
        watcher.changed.clear()
        catalogue = watcher.catalogue
        # First what clients may no longer see, because creating topics waits for the log.
        parts.open_streams.revoke()
        if serves_streams:
            hub.redact(catalogue.redactions)
        try:
            if settings.log.backend != "kafka":
                await _make_topics(settings, parts.log, catalogue)
        except LogError as error:
            _log.error("cannot create the topics of the new catalogue: %s", error)
        if serves_streams:
            hub.declare(catalogue.streams)


async def _make_topics(settings: Settings, log: Log, catalogue: Catalogue) -> None:
    for topic in sorted(catalogue.topics):
        await log.create_topic(topic, settings.log.sqlite.partitions_per_topic)


@contextlib.asynccontextmanager
async def _relays(parts: _Parts, catalogue: Catalogue) -> AsyncGenerator[None]:
    """Follow other gateways once the log can be reached."""
    relays = [
        open_relay(name, each, catalogue=catalogue, log=parts.log, metrics=parts.metrics)
        for name, each in parts.settings.relays.items()
    ]

    async def run(relay: Relay) -> None:
        await parts.hub.reachable.wait()
        await relay.run()

    async with background(*map(run, relays)):
        yield


@contextlib.asynccontextmanager
async def _demo(settings: Settings, catalogue: Catalogue, log: Log) -> AsyncGenerator[None]:
    name = settings.demo.stream
    if name is None or settings.demo.rate == 0:
        yield
        return
    new_pages = settings.demo.new_pages_stream
    feed = DemoFeed(
        log=log,
        stream=catalogue.get(name),
        new_pages=None if new_pages is None else catalogue.get(new_pages),
        rate=settings.demo.rate,
    )
    async with background(feed.run()):
        yield
