"""The embedded log's one writing thread: all that waits goes into one transaction.

A request is answered after COMMIT and never before; when the transaction fails, every request in
it is refused. Between requests the thread looks whether another process has written, and drops
old records in steps small enough that appends hardly notice.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from eventstreams.errors import LogCorrupt, LogError, LogFilesLost
from eventstreams.log.sqlite_file import LogFile, translated
from eventstreams.log.sqlite_ledger import Ledger
from eventstreams.settings import SqliteSettings

_logger = logging.getLogger(__name__)

_GROUP_BYTES_MAX = 16 * 2**20  # in one transaction, so that others get their turn at the file
_LOOK_EVERY_S = 0.025  # at what other processes append
_CHECK_EVERY_S = 1.0  # that the files are still there, while nothing is appended


class Request:
    """Work for one transaction, and what came of it: `answer`, or `error` if that is set.

    `future` belongs to the event loop; the thread only carries it.
    """

    __slots__ = ("answer", "error", "future", "size", "work")

    def __init__(
        self, work: Callable[[Ledger], Any], size: int, future: asyncio.Future[Any]
    ) -> None:
        self.work = work
        self.size = size
        self.future = future
        self.answer: Any = None
        self.error: Exception | None = None


class Writer:
    """`answered`, `changed` and `troubled` are called from the thread: with requests that are done
    (their transaction is over), when another process has written, and when the file begins or
    ceases to be of no use (an error, then None)."""

    def __init__(
        self,
        *,
        file: LogFile,
        settings: SqliteSettings,
        answered: Callable[[list[Request]], None],
        changed: Callable[[], None],
        troubled: Callable[[LogError | None], None],
    ) -> None:
        self._file = file
        self._every_s = settings.retention_every_s
        self._answered = answered
        self._changed = changed
        self._troubled = troubled
        self._trouble: LogError | None = None
        self._check_at = time.monotonic()
        self._ledger = Ledger(file.connection, settings)
        self._stale = True
        self._version: int | None = None
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._retain_at = time.monotonic() + self._every_s

    def start(self) -> None:
        self._thread.start()

    def put(self, request: Request) -> None:
        """Never blocks, so that an event loop may call it. Not to be called after `stop`."""
        self._requests.put(request)

    def stop(self) -> None:
        """Answers what has been put, then ends the thread and waits for that."""
        self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group, stopping = self._group()
            if group:
                self._commit(group)
                self._answered(group)
            else:
                self._look()
                self._check()
            if not stopping and time.monotonic() >= self._retain_at:
                self._retain()

    def _group(self) -> tuple[list[Request], bool]:
        """Waits a moment for requests and takes all there are; whether the thread is to end."""
        group: list[Request] = []
        size = 0
        wait_s = min(_LOOK_EVERY_S, max(0.0, self._retain_at - time.monotonic()))
        try:
            while size < _GROUP_BYTES_MAX:
                request = self._requests.get(timeout=wait_s)
                if request is None:
                    return group, True
                group.append(request)
                size += request.size
                wait_s = 0.0
        except queue.Empty:
            pass
        return group, False

    def _commit(self, group: list[Request]) -> None:
        try:
            with self._transaction():
                for request in group:
                    try:
                        request.answer = request.work(self._ledger)
                    except LogError as error:
                        request.error = error
        except Exception as error:
            for request in group:
                request.error = self._why(error)
            self._note(self._why(error))
        else:
            self._note(None)

    def _check(self) -> None:
        now = time.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + _CHECK_EVERY_S
        try:
            self._file.watch.check(is_writer=False)
        except LogFilesLost as error:
            self._note(error)
        else:
            self._note(None)

    def _note(self, error: Exception | None) -> None:
        """Reports a change. Errors that pass by themselves change nothing."""
        if error is not None and not isinstance(error, LogFilesLost | LogCorrupt):
            return
        if str(error) != str(self._trouble):
            self._trouble = error
            self._troubled(error)

    def _retain(self) -> None:
        """One step; when that was the last, the next one is due after the interval."""
        more = False
        try:
            with self._transaction():
                more = self._ledger.retain(int(time.time() * 1000))
        except (sqlite3.Error, LogError) as error:
            why = self._why(error)
            _logger.warning("retention is put off: %s", why)
            self._note(why)
        if not more:
            self._retain_at = time.monotonic() + self._every_s

    @contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        try:
            with self._file.transaction():
                self._look()
                self._file.watch.check(is_writer=True)
                if self._stale:
                    self._ledger.reload()
                    self._stale = False
                yield
                self._ledger.flush()
        except BaseException:
            self._stale = True
            raise

    def _why(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error):
            return translated(error, self._file.path, appending=True) or error
        return error

    def _look(self) -> None:
        try:
            version = self._data_version()
        except sqlite3.Error:
            return  # passing, or the next transaction says it
        if version != self._version:
            self._version = version
            self._stale = True
            self._file.watch.expect_short_wal()
            self._changed()

    def _data_version(self) -> int:
        """Changes when another connection has committed; ours leaves it alone."""
        (version,) = self._file.connection.execute("PRAGMA data_version").fetchone()
        return int(version)
