"""Runs the thread that writes to the embedded log. All waiting requests share one transaction.

A request is answered after COMMIT, never before. If the transaction fails, so do all its requests.
Within a transaction the thread detects whether other processes have written since the last one.
Between requests it drops old records, in steps so small that they hardly delay appends.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import LogCorrupt, LogError, LogFilesLost
from eventstreams.log.sqlite.file import LogFile, translated
from eventstreams.log.sqlite.limits import SqliteLimits
from eventstreams.log.sqlite.transaction import Transaction
from eventstreams.model.event import Event

_logger = logging.getLogger(__name__)

_SHARED_S = 1.0
"""For how long after a write another process counts as writing to the log."""
_GAP_S = 0.002
"""The pause between transactions while other processes write, which try to get the lock every
millisecond. Without it, they would hardly ever get the lock while one process is busy."""
_CHECK_EVERY_S = 1.0
"""How often to check, while nothing is appended, that the files still exist, and whether a program
that writes no mark to the lock file has changed the log."""


class Request:
    """Work for one transaction, and its result: `error` if that is set, otherwise `answer`.

    `future` belongs to the event loop; the thread does not touch it.
    """

    __slots__ = ("answer", "error", "future", "size", "work")

    def __init__(
        self, work: Callable[[Transaction], Any], size: int, future: asyncio.Future[Any]
    ) -> None:
        self.work = work
        self.size = size
        self.future = future
        self.answer: Any = None
        self.error: Exception | None = None


class SqliteWriter:
    """The thread, its queue, and its callbacks, which it calls from the thread.

    `answered` gets the requests of a finished transaction and the events that it has appended.
    `changed` reports that another process has written. `troubled` gets an error when the file
    becomes unusable, and None when it is usable again.
    """

    def __init__(
        self,
        *,
        file: LogFile,
        settings: SqliteSettings,
        limits: SqliteLimits,
        answered: Callable[[list[Request], list[Event]], None],
        changed: Callable[[], None],
        troubled: Callable[[LogError | None], None],
    ) -> None:
        self._file = file
        self._every_s = settings.retention_every_s
        self._limits = limits
        self._answered = answered
        self._changed = changed
        self._troubled = troubled
        self._trouble: LogError | None = None
        self._check_at = time.monotonic()
        self._records = Transaction(file.connection, settings, limits)
        self._stale = True
        self._version: int | None = None
        self._shared_until = -math.inf
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._retain_at = time.monotonic() + self._every_s

    def start(self) -> None:
        self._thread.start()

    def put(self, request: Request) -> None:
        """Add a request without blocking. Must not be called after `stop`."""
        self._requests.put(request)

    def stop(self) -> None:
        """Answer all requests, then end the thread and wait until it has ended."""
        self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group, stopping = self._group()
            if group:
                self._answered(group, self._commit(group))
                if self.is_shared:
                    time.sleep(_GAP_S)
            else:
                self._check()
            if not stopping and time.monotonic() >= self._retain_at:
                self._retain()

    def _group(self) -> tuple[list[Request], bool]:
        """Wait briefly for requests and return all of them, and whether the thread must end."""
        group: list[Request] = []
        size = 0
        size_max = self._limits.group_bytes_max
        if self.is_shared:
            size_max = min(size_max, self._limits.shared_group_bytes_max)
        wait_s = max(0.0, min(self._check_at, self._retain_at) - time.monotonic())
        try:
            while size < size_max:
                request = self._requests.get(timeout=wait_s)
                if request is None:
                    return group, True
                group.append(request)
                size += request.size
                wait_s = 0.0
        except queue.Empty:
            pass
        return group, False

    def _commit(self, group: list[Request]) -> list[Event]:
        """Carry out the requests in one transaction; return the events that are now durable."""
        try:
            with self._transaction():
                for request in group:
                    try:
                        request.answer = request.work(self._records)
                    except LogError as error:
                        request.error = error
        except Exception as error:
            for request in group:
                request.error = self._why(error)
            self._note(self._why(error))
            return []
        self._note(None)
        return self._records.take_appended()

    def _check(self) -> None:
        now = time.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + _CHECK_EVERY_S
        if self._look():  # another program has written
            self._changed()
        try:
            self._file.watch.check(is_writer=False)
        except LogFilesLost as error:
            self._note(error)
        else:
            self._note(None)

    def _note(self, error: Exception | None) -> None:
        """Report a change between usable and unusable. Temporary errors are not reported."""
        if error is not None and not isinstance(error, LogFilesLost | LogCorrupt):
            return
        if str(error) != str(self._trouble):
            self._trouble = error
            self._troubled(error)

    def _retain(self) -> None:
        """Take one step of retention. After the last one, the next is due after the interval."""
        more = False
        try:
            with self._transaction():
                more = self._records.retain(int(time.time() * 1000))
        except (sqlite3.Error, LogError) as error:
            why = self._why(error)
            _logger.warning("postponing retention: %s", why)
            self._note(why)
        if not more:
            self._retain_at = time.monotonic() + self._every_s

    @contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        try:
            with self._file.transaction():
                if self._look():
                    self._changed()
                self._file.watch.check(is_writer=True)
                if self._stale:
                    self._records.reload()
                    self._stale = False
                yield
                self._records.flush()
        except BaseException:
            self._stale = True
            raise

    def _why(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error):
            return translated(error, self._file.path, appending=True) or error
        return error

    def _look(self) -> bool:
        """Return whether another connection has committed since the last look."""
        try:
            version = self._data_version()
        except sqlite3.Error:
            return False  # a temporary error, or the next transaction raises it too
        if version == self._version:
            return False
        if self._version is not None:
            self._shared_until = time.monotonic() + _SHARED_S
        self._version = version
        self._stale = True
        self._file.watch.expect_short_wal()
        return True

    @property
    def is_shared(self) -> bool:
        """Whether other processes write to the log at present."""
        return time.monotonic() < self._shared_until

    def _data_version(self) -> int:
        """Return a number that changes when another connection commits, but not when ours does."""
        (version,) = self._file.connection.execute("PRAGMA data_version").fetchone()
        return int(version)
