"""Several processes behind one port, for a log that processes can share.

The parent holds the port and the workers' lives: it passes signals on, starts a worker again that
died by itself, and ends when all have ended. The kernel spreads connections over the workers.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from types import FrameType

from eventstreams import signals
from eventstreams.ledger.book import Book
from eventstreams.ledger.desk import Desk

_log = logging.getLogger(__name__)

_AGAIN_S = 1.0
"""A worker that lived no longer than this is started again only after as long a pause."""

Work = Callable[[int, socket.socket, int, socket.socket], int]
"""Number of the worker, its listening socket, a file that ends when the parent does, its line to
what workers share -> status."""


def listener(host: str, port: int, backlog: int, *, shared: bool = False) -> socket.socket:
    """A bound socket, listening unless `backlog` is 0. Raises OSError.

    A `shared` address may be bound again by others who share it: by our workers, but also by a
    second gateway that was started by mistake, so the parent makes sure first that it is free.
    """
    info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(info[0], info[1])
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(info[4])
        if backlog:
            sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


class Workers:
    def __init__(self, *, count: int, host: str, port: int, backlog: int, work: Work) -> None:
        self._host = host
        self._backlog = backlog
        self._work = work
        listener(host, port, backlog=1).close()
        self._held = listener(host, port, backlog=0, shared=True)  # keeps the number
        self._port: int = self._held.getsockname()[1]
        self._alive, self._ends_with_us = os.pipe()
        self._processes: dict[int, ForkProcess] = {}
        self._started: dict[int, float] = {}
        self._book = Book()
        self._desks: dict[int, Desk] = {}
        self._count = count
        self._ending = False

    def run(self) -> int:
        """Returns 0 when all workers ended as they were told."""
        before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._pass_on)
        failed = False
        try:
            for number in range(self._count):
                if not self._ending:
                    self._start(number)
            while self._processes:
                lines = {desk.line: number for number, desk in self._desks.items()}
                ready = wait([*(p.sentinel for p in self._processes.values()), *lines])
                for line, number in lines.items():
                    if line in ready and not self._desks[number].answer():
                        self._desks.pop(number).close()
                for number, process in list(self._processes.items()):
                    if not process.is_alive():
                        failed |= self._ended(number, process)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._held.close()
            os.close(self._alive)
            os.close(self._ends_with_us)
            for desk in self._desks.values():
                desk.close()
        return 1 if failed else 0

    def _start(self, number: int) -> None:
        desk = Desk(self._book, str(number), self._desks.values)
        process = multiprocessing.get_context("fork").Process(
            target=self._child, args=(number, desk), name=f"worker {number}"
        )
        handled = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, handled)  # one that comes now is passed on after
        try:
            process.start()
            self._processes[number] = process
            self._started[number] = time.monotonic()
            self._desks[number] = desk
            desk.far.close()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)

    def _child(self, number: int, desk: Desk) -> None:
        for other in (desk, *self._desks.values()):
            other.line.close()
        os.setpgrp()  # Ctrl-C reaches the parent, which tells us
        signals.catch_early()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        os.close(self._ends_with_us)
        sock = listener(self._host, self._port, self._backlog, shared=True)
        os._exit(self._work(number, sock, self._alive, desk.far))

    def _ended(self, number: int, process: ForkProcess) -> bool:
        """Whether it failed while it was to end."""
        process.join()
        del self._processes[number]
        if desk := self._desks.pop(number, None):
            desk.close()
        if self._ending:
            return process.exitcode != 0
        _log.error("worker died", extra={"worker": number, "exit_status": process.exitcode})
        if time.monotonic() - self._started[number] < _AGAIN_S:
            time.sleep(_AGAIN_S)
        if not self._ending:
            self._start(number)
        return False

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True
        for process in self._processes.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        for process in self._processes.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)
