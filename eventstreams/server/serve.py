"""Runs a gateway in one or several processes until it is stopped."""

from __future__ import annotations

import asyncio
import errno
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

from eventstreams import gateway
from eventstreams.config.settings import Settings
from eventstreams.errors import ConfigError, LogError, LogUnavailable
from eventstreams.model.catalogue import Catalogue
from eventstreams.process_memory import check_address_space, kept_objects
from eventstreams.server import signals
from eventstreams.server.acceptor import TlsAcceptor, protocol_class
from eventstreams.server.drain import Server
from eventstreams.server.http1 import HttpConnection
from eventstreams.server.sockets import raise_file_limit
from eventstreams.server.sole import sole_user
from eventstreams.server.tls import Certificate
from eventstreams.server.workers import Workers, listener
from eventstreams.web.app import App

_log = logging.getLogger(__name__)

SWITCH_S = 0.0002
"""How long a thread waits for the interpreter's lock before its holder must release it, in s.

Reading a new event from the embedded log needs the lock several times. Beside a busy event loop it
took 15 to 30 ms when this was 1 ms, and takes 4 to 10 ms now; posts take 1.5 % more instructions.
"""
_CLOSE_S = 2.0
_PORT_MAX = 65535
_CANNOT_OPEN = "cannot open the log: %s"


def serve(
    settings: Settings,
    catalogue: Catalogue,
    catalogue_path: Path,
    *,
    workers: int,
    reread: Callable[[], Settings],
) -> int:
    """Run a gateway until a signal stops it; return the exit status of the process.

    The catalogue is reloaded from its path when it changes, and at once on SIGHUP. On SIGHUP the
    settings are reloaded as well, with `reread`.

    Raises ConfigError if the log cannot be shared by several workers, or the certificate is
    invalid.
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
            with listener(http.host, http.port, http.backlog) as sock, sole_user(settings):
                return run(0, sock)
        return Workers(
            count=workers, host=http.host, port=http.port, backlog=http.backlog, work=run
        ).run()
    except OSError as error:
        _cannot_listen(
            http.host,
            http.port,
            error,
            "another gateway may be running; --port N chooses another port",
        )
        return 1
    except LogUnavailable as error:
        _log.error(_CANNOT_OPEN, error)
        return 1


def _cannot_listen(host: str, port: int, error: OSError, if_taken: str) -> None:
    why = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        why += f"; {if_taken}"
    _log.error("cannot listen on %s:%d: %s", host, port, why)


def _of_worker(settings: Settings, number: int) -> Settings:
    """Return the settings of one worker.

    Each worker serves metrics on its own port. Only the first sends canary events and runs relays.
    """
    if number:
        intake = msgspec.structs.replace(settings.intake, canary_every_s=None)
        settings = msgspec.structs.replace(settings, intake=intake, relays={})
    metrics = settings.metrics
    if metrics.port:
        metrics = msgspec.structs.replace(metrics, port=metrics.port + number)
    return msgspec.structs.replace(settings, metrics=metrics)


def _run(serving: Callable[[], Coroutine[Any, Any, int]]) -> int:
    sys.setswitchinterval(SWITCH_S)
    status = 1
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        status = runner.run(serving())
    except asyncio.CancelledError:  # a signal arrived before the server started
        status = 0
    except LogError as error:
        _log.error(_CANNOT_OPEN, error)
    finally:
        with _ending(status):
            runner.close()
    return status


@contextmanager
def _ending(status: int) -> Generator[None]:
    """Exit after _CLOSE_S at the latest, although system threads may still run.

    A thread that looks up the name of a broker, for example, may take minutes.
    """
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
                    _cannot_listen(host, port, error, "metrics.port sets another port")
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
            with kept_objects():
                await server.serve([sock])
            return 0 if server.started else 1


def uvicorn_config(
    settings: Settings, app: App, protocol: type[HttpConnection | TlsAcceptor]
) -> uvicorn.Config:
    """Return uvicorn's configuration for the app."""
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
