"""From settings to a process that serves, or several: runs a gateway until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
import uvloop

from eventstreams import gateway, signals
from eventstreams.errors import ConfigError, LogError
from eventstreams.memory import check_address_space, keep_objects
from eventstreams.model.stream import Catalogue
from eventstreams.server.acceptor import TlsAcceptor, protocol_class
from eventstreams.server.drain import Server
from eventstreams.server.protocol import Protocol
from eventstreams.server.sockets import raise_file_limit
from eventstreams.server.tls import Certificate
from eventstreams.settings import Settings
from eventstreams.web.app import App
from eventstreams.workers import Workers, listener

_log = logging.getLogger(__name__)

SWITCH_S = 0.001
_CLOSE_S = 2.0
_PORT_MAX = 65535


def serve(
    settings: Settings,
    catalogue: Catalogue,
    catalogue_path: Path,
    *,
    workers: int,
    reread: Callable[[], Settings],
) -> int:
    """Runs a gateway until it is told to stop; returns the exit status of the process.

    A changed catalogue is read again from its path, at once on SIGHUP; so are the settings then,
    by `reread`.

    Raises ConfigError where the log can't be shared by so many workers, or the certificate is not a
    good one.
    """
    if workers > 1 and settings.log.backend != "kafka":
        raise ConfigError(
            [
                f"--workers {workers}: the {settings.log.backend} log is embedded in one process; "
                "more than one worker needs log.backend: kafka"
            ]
        )
    metrics_port = settings.metrics.port
    if metrics_port and metrics_port + workers - 1 > _PORT_MAX:
        raise ConfigError(
            [f"metrics.port: {metrics_port} leaves no port for each of {workers} workers"]
        )
    http = settings.http
    certificate = Certificate.of(http)
    connections_max = raise_file_limit(settings.limits)
    check_address_space()

    def run(
        number: int,
        sock: socket.socket,
        parent: int | None = None,
        line: socket.socket | None = None,
    ) -> int:
        return _run(
            lambda: _serve(
                settings=_of_worker(settings, number),
                catalogue=catalogue,
                catalogue_path=catalogue_path,
                certificate=certificate,
                connections_max=connections_max,
                sock=sock,
                parent=parent,
                line=line,
                reread=lambda: _of_worker(reread(), number),
            )
        )

    try:
        if workers == 1:
            with listener(http.host, http.port, http.backlog) as sock:
                return run(0, sock)
        return Workers(
            count=workers, host=http.host, port=http.port, backlog=http.backlog, work=run
        ).run()
    except OSError as error:
        _cannot_listen(http.host, http.port, error)
        return 1


def _cannot_listen(host: str, port: int, error: OSError) -> None:
    _log.error("can't listen on %s:%d: %s", host, port, error.strerror or error)


def _of_worker(settings: Settings, number: int) -> Settings:
    """Each worker answers scrapes on a port of its own; the first one sends the canaries."""
    if number:
        intake = msgspec.structs.replace(settings.intake, canary_every_s=None)
        settings = msgspec.structs.replace(settings, intake=intake)
    metrics = settings.metrics
    if metrics.port:
        metrics = msgspec.structs.replace(metrics, port=metrics.port + number)
    return msgspec.structs.replace(settings, metrics=metrics)


def _run(serving: Callable[[], Coroutine[Any, Any, int]]) -> int:
    # Threads that read the embedded log wait this long for a loop that is busy rendering.
    sys.setswitchinterval(SWITCH_S)
    status = 1
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        status = runner.run(serving())
    except asyncio.CancelledError:  # by a signal, before it served
        status = 0
    except LogError as error:
        _log.error("can't open the log: %s", error)
    finally:
        with _ending(status):
            runner.close()
    return status


@contextmanager
def _ending(status: int) -> Generator[None]:
    """All is served and closed. What is left is to wait for threads of the system that may take
    minutes, like one that looks up the name of a broker: the process does not."""
    over = threading.Timer(_CLOSE_S, os._exit, (status,))
    over.daemon = True
    over.start()
    try:
        yield
    finally:
        over.cancel()


async def _serve(
    *,
    settings: Settings,
    catalogue: Catalogue,
    catalogue_path: Path,
    certificate: Certificate | None,
    connections_max: int,
    sock: socket.socket,
    parent: int | None,
    line: socket.socket | None,
    reread: Callable[[], Settings],
) -> int:
    task = asyncio.current_task()
    assert task is not None
    with signals.during_start(task.cancel):
        async with gateway.running(settings, catalogue, catalogue_path, line, reread) as running:
            host, port = settings.metrics.host, settings.metrics.port
            if port is not None:
                try:
                    running.metrics.serve(host, port)
                except OSError as error:
                    _cannot_listen(host, port, error)
                    return 1
            protocol = protocol_class(
                settings,
                connections_max=connections_max,
                certificate=certificate,
                turns=running.turns,
                count=lambda code: running.metrics.refused.labels(code).inc(),
            )
            config = uvicorn_config(settings, running.app, protocol)
            server = Server(
                config,
                hub=running.hub,
                drain_s=settings.fanout.drain_s,
                notice_s=settings.fanout.drain_notice_s,
                reload=running.reload,
            )
            if parent is not None:
                server.end_with(parent)
            keep_objects()
            await server.serve([sock])
            return 0 if server.started else 1


def uvicorn_config(
    settings: Settings, app: App, protocol: type[Protocol | TlsAcceptor]
) -> uvicorn.Config:
    """How uvicorn is told to serve the app."""
    return uvicorn.Config(
        app,
        host=settings.http.host,
        port=settings.http.port,
        backlog=settings.http.backlog,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
