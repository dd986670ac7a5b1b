"""Runs several worker processes behind one port, for a log that processes can share.

The parent process reserves the port, passes signals on to its workers, restarts workers that died,
and exits when all have exited. The kernel distributes connections over the workers.
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

from eventstreams.quota.counters import QuotaCounters
from eventstreams.quota.workers import QuotaServer
from eventstreams.server import signals

_log = logging.getLogger(__name__)

_AGAIN_S = 1.0
"""A worker that died within this many seconds is restarted after a pause of the same length."""

Work = Callable[[int, socket.socket, int, socket.socket], int]
"""The function that a worker runs. Its arguments are the worker's number, its listening socket, a
pipe that closes when the parent ends, and the socket to the shared counters. It returns the exit
status."""


def listener(host: str, port: int, backlog: int, *, shared: bool = False) -> socket.socket:
    """Return a bound socket, which listens unless `backlog` is 0. Raises OSError.

    Several sockets can bind the same `shared` address: those of the workers, but also those of a
    second gateway that was started by mistake. Therefore the parent first checks that it is free.
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
    """The worker processes of a gateway, and the counters that they share."""

    def __init__(self, *, count: int, host: str, port: int, backlog: int, work: Work) -> None:
        self._host = host
        self._backlog = backlog
        self._work = work
        listener(host, port, backlog=1).close()
        self._held = listener(host, port, backlog=0, shared=True)  # reserves the port
        self._port: int = self._held.getsockname()[1]
        self._parent_alive, self._parent_pipe = os.pipe()
        self._processes: dict[int, ForkProcess] = {}
        self._started: dict[int, float] = {}
        self._counters = QuotaCounters()
        self._quota_servers: dict[int, QuotaServer] = {}
        self._count = count
        self._ending = False

    def run(self) -> int:
        """Run until all workers have exited; return 0 if all exited cleanly, otherwise 1."""
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
                lines = {
                    quota_server.line: number
                    for number, quota_server in self._quota_servers.items()
                }
                ready = wait([*(p.sentinel for p in self._processes.values()), *lines])
                for line, number in lines.items():
                    if line in ready and not self._quota_servers[number].answer():
                        self._quota_servers.pop(number).close()
                for number, process in list(self._processes.items()):
                    if not process.is_alive():
                        failed |= self._ended(number, process)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._held.close()
            os.close(self._parent_alive)
            os.close(self._parent_pipe)
            for quota_server in self._quota_servers.values():
                quota_server.close()
        return 1 if failed else 0

    def _start(self, number: int) -> None:
        quota_server = QuotaServer(self._counters, str(number), self._quota_servers.values)
        process = multiprocessing.get_context("fork").Process(
            target=self._child, args=(number, quota_server), name=f"worker {number}"
        )
        handled = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(
            signal.SIG_BLOCK, handled
        )  # a signal that arrives now is passed on afterwards
        try:
            process.start()
            self._processes[number] = process
            self._started[number] = time.monotonic()
            self._quota_servers[number] = quota_server
            quota_server.far.close()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)

    def _child(self, number: int, quota_server: QuotaServer) -> None:
        for other in (quota_server, *self._quota_servers.values()):
            other.line.close()
        os.setpgrp()  # Ctrl-C reaches the parent, which passes it on
        signals.catch_early()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        os.close(self._parent_pipe)
        sock = listener(self._host, self._port, self._backlog, shared=True)
        os._exit(self._work(number, sock, self._parent_alive, quota_server.far))

    def _ended(self, number: int, process: ForkProcess) -> bool:
        """Handle the exit of a worker; return whether it failed while the gateway stops."""
        process.join()
        del self._processes[number]
        if quota_server := self._quota_servers.pop(number, None):
            quota_server.close()
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
