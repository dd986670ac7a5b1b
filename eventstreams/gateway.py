"""Builds everything from Settings; starts it and stops it in order."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NamedTuple

from eventstreams.demo import DemoFeed
from eventstreams.errors import ConfigError
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.start import Starter
from eventstreams.log.base import Log
from eventstreams.log.kafka import KafkaLog
from eventstreams.log.memory import MemoryLog
from eventstreams.log.sqlite import SqliteLog
from eventstreams.memory import give_back
from eventstreams.metrics import Metrics
from eventstreams.model.stream import Catalogue
from eventstreams.settings import LogSettings, Settings
from eventstreams.tasks import background
from eventstreams.web.answers import common_headers
from eventstreams.web.app import App
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
async def running(settings: Settings, catalogue: Catalogue) -> AsyncGenerator[Gateway]:
    """A gateway from start to stop. Raises LogError where an embedded log can't be opened.

    Kafka may be out of reach at start: the gateway is not ready then, and goes on trying.
    """
    metrics = Metrics()
    log = open_log(settings.log)
    embedded = settings.log.backend != "kafka"
    try:
        if embedded:
            await log.start()
            for topic in sorted(catalogue.topics):
                await log.create_topic(topic, settings.log.sqlite.partitions_per_topic)
        hub = Hub(
            log=log,
            topics=catalogue.topics,
            settings=settings.fanout,
            metrics=metrics,
            started=embedded,
        )
        app = _app(settings, catalogue, hub, metrics)
        async with (
            hub.running(),
            background(give_back(lambda: hub.ended)),
            _demo(settings, catalogue, log),
        ):
            yield Gateway(app, hub, log, metrics)
    finally:
        await log.aclose()


def static_folder() -> Path:
    """The pages: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parent
    inside = package / "static"
    return inside if inside.is_dir() else package.parent / "static"


def _app(settings: Settings, catalogue: Catalogue, hub: Hub, metrics: Metrics) -> App:
    headers = common_headers(settings.http)
    patience_s = min(settings.fanout.log_patience_s, settings.log.kafka.request_timeout_s)
    starter = Starter(hub=hub, patience_s=patience_s)
    return App(
        explain=Explain(
            catalogue=catalogue,
            starter=starter,
            hub=hub,
            headers=headers,
            compression=settings.http.compression,
        ),
        streams=Streams(
            catalogue=catalogue,
            starter=starter,
            hub=hub,
            limits=Limits(settings.limits),
            metrics=metrics,
            headers=headers,
            compression=settings.http.compression,
        ),
        catalogue=catalogue,
        health=Health(hub),
        settings=settings.http,
        static=static_folder(),
        headers=headers,
    )


@contextlib.asynccontextmanager
async def _demo(settings: Settings, catalogue: Catalogue, log: Log) -> AsyncGenerator[None]:
    name = settings.demo.stream
    if name is None or settings.demo.rate == 0:
        yield
        return
    if name not in catalogue.names:
        raise ConfigError([f"demo.stream: {name} is not in the catalogue"])
    feed = DemoFeed(log=log, stream=catalogue.get(name), rate=settings.demo.rate)
    async with background(feed.run()):
        yield
