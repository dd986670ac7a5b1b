"""Runs the rules of a file until the process is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import uvicorn
import uvloop

from eventstreams import gateway
from eventstreams.access.builder import open_policy
from eventstreams.config.settings import Settings
from eventstreams.errors import ConfigError, LogError
from eventstreams.gateway import open_intake, open_schemas
from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.propagation.producing import Producing
from eventstreams.propagation.rule_file import RuleFile
from eventstreams.propagation.service import (
    OpenSource,
    Propagation,
    Topics,
    embedded_sources,
    kafka_sources,
    produces,
)
from eventstreams.propagation.source import MemoryPositions, PositionFile
from eventstreams.propagation.state import MemoryState, SharedState
from eventstreams.quota.builder import redis_password
from eventstreams.server import signals
from eventstreams.server.workers import listener
from eventstreams.turns import Turns
from eventstreams.web.propagation import PropagationApp

_log = logging.getLogger(__name__)

_STOP_S = 5.0
_BACKLOG = 128


def propagate(
    loaded: RuleFile, settings: Settings, catalogue: Catalogue, *, host: str, port: int | None
) -> int:
    """Apply the rules until a signal stops the process; return its exit status.

    With a `port`, serve metrics and the admin pages there. Raises ConfigError.
    """
    sock = None
    if port is not None:
        try:
            sock = listener(host, port, _BACKLOG)
        except OSError as error:
            _log.error("cannot listen on %s:%d: %s", host, port, error.strerror or error)
            return 1
        _log.info("listening on %s:%d", *sock.getsockname()[:2])
    with contextlib.ExitStack() as stack:
        if sock is not None:
            stack.enter_context(sock)
        positions = _positions(loaded, settings)
        if isinstance(positions, PositionFile):
            stack.callback(positions.close)
        admin_key = open_policy(settings).admin_key
        password = redis_password(settings.shared)
        serving = _serve(
            loaded=loaded,
            settings=settings,
            catalogue=catalogue,
            positions=positions,
            password=password,
            admin_key=admin_key,
            sock=sock,
        )
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(serving)
        except asyncio.CancelledError:  # by a signal, before it ran
            return 0
        except LogError as error:
            _log.error("cannot open the log: %s", error)
            return 1


def _positions(loaded: RuleFile, settings: Settings) -> MemoryPositions:
    """Return where positions are stored. Raises ConfigError."""
    if settings.log.backend == "kafka":
        return MemoryPositions()  # the brokers store those of the consumer group
    if settings.log.backend == "memory":
        raise ConfigError(["log.backend: a log in memory has no events for this process"])
    name = f"propagation-{loaded.service}.json"
    return PositionFile(Path(settings.log.data_dir) / name)


async def _serve(
    *,
    loaded: RuleFile,
    settings: Settings,
    catalogue: Catalogue,
    positions: MemoryPositions,
    password: str | None,
    admin_key: bytes | None,
    sock: socket.socket | None,
) -> int:
    task = asyncio.current_task()
    assert task is not None
    metrics = Metrics()
    log = gateway.open_log(settings.log, metrics)
    with signals.during_start(task.cancel):
        try:
            await _started(log, settings)
            async with _service(
                loaded=loaded,
                settings=settings,
                catalogue=catalogue,
                log=log,
                positions=positions,
                password=password,
                metrics=metrics,
            ) as service:
                _log.info("acting on events", extra={"rules": list(service.workers)})
                if sock is None:
                    await _until_stopped()
                else:
                    app = PropagationApp(service=service, metrics=metrics, admin_key=admin_key)
                    await _Server(_uvicorn_config(app)).serve([sock])
            return 0
        finally:
            await log.aclose()


async def _started(log: Log, settings: Settings) -> None:
    """Start the log. Retries while Kafka is unreachable; an embedded log must open at once."""
    while True:
        try:
            await log.start()
        except LogError as error:
            if settings.log.backend != "kafka":
                raise
            _log.warning("waiting for the log: %s", error)
            await asyncio.sleep(1.0)
        else:
            return


@contextlib.asynccontextmanager
async def _service(
    *,
    loaded: RuleFile,
    settings: Settings,
    catalogue: Catalogue,
    log: Log,
    positions: MemoryPositions,
    password: str | None,
    metrics: Metrics,
) -> AsyncGenerator[Propagation]:
    schemas = open_schemas(settings)

    def producing(topics: Topics) -> Producing:
        intake = open_intake(
            settings=settings.intake,
            catalogue=lambda: catalogue,
            schemas=schemas,
            log=log,
            metrics=metrics,
            turns=Turns(),
            stop_in_s=lambda: _STOP_S,
        )
        return Producing(
            intake=intake,
            log=log,
            schemas=schemas,
            configs=lambda: catalogue.configs,
            topic_of=topics.to_produce,
        )

    names = sorted({*catalogue.names, *catalogue.topics})
    open_source: OpenSource
    if settings.log.backend == "kafka":
        open_source = kafka_sources(settings.log.kafka, names=names)
    else:
        open_source = embedded_sources(
            log=log, positions=positions, known_topics=sorted(catalogue.topics), names=names
        )
    service = Propagation(
        loaded=loaded,
        catalogue=catalogue,
        log=log,
        open_source=open_source,
        state=_state(settings, password),
        producing=producing if produces(loaded) else None,
        metrics=metrics,
    )
    try:
        await _make_topics(service)
        async with service.running():
            yield service
    finally:
        await schemas.aclose()


async def _make_topics(service: Propagation) -> None:
    """Create the service's topics. Failures are only logged, because the rights may be missing
    where an operator has created the topics."""
    try:
        await service.make_topics()
    except LogError as error:
        _log.warning("could not create the topics of retries and errors: %s", error)


def _state(settings: Settings, password: str | None) -> SharedState:
    shared = settings.shared
    if shared.redis_url is None:
        return MemoryState()
    from eventstreams.propagation.redis_state import RedisState  # noqa: PLC0415 - loads much

    return RedisState(
        url=shared.redis_url,
        password=password,
        prefix=f"{shared.prefix}propagation:",
        timeout_s=shared.timeout_s,
    )


class _Server(uvicorn.Server):
    """A server that returns on SIGTERM and SIGINT, so that its caller can clean up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Stop serving on a signal. A second one ends the process at once."""
        with signals.during_start(self._stop):
            yield

    def _stop(self) -> None:
        self.should_exit = True


def _uvicorn_config(app: PropagationApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )


async def _until_stopped() -> None:
    """Return on SIGTERM or SIGINT. Used without a port; otherwise uvicorn handles signals."""
    stopped = asyncio.Event()
    with signals.during_start(stopped.set):
        await stopped.wait()
