"""The embedded log's file: opening, checking, locking it, and what SQLite's errors mean.

One writer at a time over all processes, by a lock file beside the database: SQLite before 3.51.3
can lose a commit when one process checkpoints while another writes (sqlite.org/wal.html, "The
WAL-Reset Bug"), and its own lock backs off so long that a busy neighbour starves the others.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from eventstreams.errors import AppendRefused, LogCorrupt, LogError, LogUnavailable, LogUnwritable
from eventstreams.log.sqlite_watch import FileWatch
from eventstreams.settings import SqliteSettings

APPLICATION_ID = 0x45765374
LAYOUT = 2
_UPGRADES = {1: "ALTER TABLE events ADD COLUMN checksum INTEGER"}
"""From each earlier layout to the next. Each takes a moment, however large the file is."""

# events.id is partition << 40 | offset: a partition's records lie together, in offset order.
# blocks hold the highest timestamp of every 256 offsets (id = events.id >> 8), so that looking up
# a time reads few pages and stays right when timestamps go back and when old records are dropped.
# events.checksum is NULL for records of layout 1, which had none: they are read unchecked. It comes
# before the value, so that no page of a large value is read for it.
OFFSET_BITS = 40
BLOCK_BITS = 8
_SCHEMA = f"""
BEGIN;
CREATE TABLE partitions (
  id INTEGER PRIMARY KEY,
  topic TEXT NOT NULL,
  number INTEGER NOT NULL,
  oldest INTEGER NOT NULL,
  next INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  UNIQUE (topic, number)
);
CREATE TABLE events (
  id INTEGER PRIMARY KEY,
  timestamp_ms INTEGER NOT NULL,
  appended_ms INTEGER NOT NULL,
  checksum INTEGER,
  key BLOB,
  value BLOB
);
CREATE TABLE blocks (id INTEGER PRIMARY KEY, timestamp_max_ms INTEGER NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {LAYOUT};
COMMIT;
"""
_ENDS_MISSING = f"""
SELECT count(*) FROM partitions p WHERE next > oldest AND (
  NOT EXISTS (SELECT 1 FROM events e WHERE e.id = (p.id << {OFFSET_BITS} | p.oldest))
  OR NOT EXISTS (SELECT 1 FROM events e WHERE e.id = (p.id << {OFFSET_BITS} | p.next - 1)))
"""  # noqa: S608 - of our own names

_PAGE_BYTES = 8192  # at 1 KB a record, history reads half as fast again as with 4096
_CHECKPOINT_PAGES = 1000
_WAL_BYTES_MAX = 64 * 2**20
_WAL_WAIT_MS = 100
_LOCK_RETRY_S = 0.001

_PASSING = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another process",
    sqlite3.SQLITE_PROTOCOL: "is locked by another process",
}
_TOO_LARGE = {
    sqlite3.SQLITE_TOOBIG: "can't hold a record this large",
}
_UNWRITABLE = {
    sqlite3.SQLITE_FULL: "can't grow: the disk is full",
    sqlite3.SQLITE_IOERR: "can't be read or written: input/output error",
    sqlite3.SQLITE_READONLY: "can't be written: read-only",
    sqlite3.SQLITE_CANTOPEN: "can't be opened",
    sqlite3.SQLITE_PERM: "can't be opened: permission denied",
    sqlite3.SQLITE_AUTH: "can't be opened: permission denied",
    sqlite3.SQLITE_NOMEM: "can't be used: out of memory",
    sqlite3.SQLITE_NOLFS: "can't grow: the file system allows no larger files",
}
_DAMAGED = {
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is not a database",
    sqlite3.SQLITE_FORMAT: "is not a database",
    sqlite3.SQLITE_CONSTRAINT: "is damaged: it contradicts itself",
    sqlite3.SQLITE_MISMATCH: "is damaged: it contradicts itself",
}


def translated(error: sqlite3.Error, path: Path, *, appending: bool) -> LogError | None:
    """What SQLite's error means to a caller; None when it's a fault of ours."""
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF
    for meaning, kind in (
        (_PASSING, LogUnavailable),
        (_TOO_LARGE, AppendRefused if appending else LogUnavailable),
        (_UNWRITABLE, LogUnwritable if appending else LogUnavailable),
        (_DAMAGED, LogCorrupt),
    ):
        if code in meaning:
            return kind(f"{path} {meaning[code]} ({error})")
    return None


class LogFile:
    """`open`, then `transaction` from one thread at a time, then `close`."""

    def __init__(self, directory: Path, settings: SqliteSettings) -> None:
        self.path = directory / "log.sqlite3"
        self._settings = settings
        self._wal = Path(f"{self.path}-wal")
        self._wal_bytes_max = _WAL_BYTES_MAX
        self.watch = FileWatch(self.path)
        self._open = ExitStack()

    def open(self) -> None:
        """Makes the file if there is none. Raises LogUnavailable, LogCorrupt; may be tried again.

        Takes the write lock for a moment: what can't be written is found out now.
        """
        with ExitStack() as stack:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._lock = os.open(f"{self.path}-lock", flags, 0o666)
            except OSError as error:
                why = error.strerror or str(error)
                raise LogUnavailable(f"{self.path.parent} can't be written: {why}") from error
            stack.callback(os.close, self._lock)
            try:
                self.connection = self._connect()
                stack.callback(self.connection.close)
                with self._exclusive():
                    self._prepare()
                    self.watch.start()
            except sqlite3.Error as error:
                raise translated(error, self.path, appending=False) or error from error
            self._open = stack.pop_all()

    def reader(self) -> sqlite3.Connection:
        """One more connection, for reading; the caller closes it. Raises LogUnavailable."""
        with ExitStack() as stack:
            try:
                connection = self._connect()
                stack.callback(connection.close)
                connection.execute("PRAGMA query_only = ON")
            except sqlite3.Error as error:
                raise translated(error, self.path, appending=False) or error from error
            stack.pop_all()
            return connection

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Commits, durably, when the block ends; an error rolls back.

        Raises LogUnavailable; it does so behind the commit, too, where that went into files that
        are not those at their paths any more.
        """
        connection = self.connection
        with self._exclusive():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            self.watch.check(is_writer=True)
            self._bound_wal()

    def close(self) -> None:
        self._open.close()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path,
            timeout=self._settings.busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )

    @contextmanager
    def _exclusive(self) -> Generator[None, None, None]:
        deadline = time.monotonic() + self._settings.busy_timeout_s
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"{self.path} is locked by another process") from None
                time.sleep(_LOCK_RETRY_S)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _prepare(self) -> None:
        """Looks before it touches: a file that isn't ours stays as it is."""
        application = self._scalar("PRAGMA application_id")
        layout = self._scalar("PRAGMA user_version")
        new = not (application or layout or self._scalar("SELECT count(*) FROM sqlite_master"))
        if not new and application != APPLICATION_ID:
            raise LogCorrupt(f"{self.path} is a database of another program")
        if not new and layout != LAYOUT and layout not in _UPGRADES:
            raise LogCorrupt(f"{self.path} has layout {layout}; this program knows layout {LAYOUT}")
        if new:
            self.connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        mode = self._scalar("PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise LogUnavailable(f"{self.path}: this file system allows no write-ahead log")
        self.connection.execute(f"PRAGMA synchronous = {self._settings.sync}")
        self.connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        if new:
            self.connection.executescript(_SCHEMA)
        else:
            self._check()
            self._touch()
            self._upgrade(layout)

    def _check(self) -> None:
        """As much as can be looked at before the gateway must be ready, however large the file."""
        try:
            for table in ("partitions", "blocks"):
                verdict = self._scalar(f"PRAGMA quick_check({table})")
                if verdict != "ok":
                    raise LogCorrupt(f"{self.path} is damaged: {verdict}")
            missing = self._scalar(_ENDS_MISSING)
            size = self._scalar(
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
            )
            whole = self._wal.stat().st_size or self.path.stat().st_size >= size
            if not whole:  # SQLite takes half a page for a whole one, full of nothing
                raise LogCorrupt(f"{self.path} is damaged: its end is missing")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            raise LogCorrupt(f"{self.path} is damaged: {error}") from error
        if missing:
            raise LogCorrupt(f"{self.path} is damaged: records of {missing} partitions are missing")

    def _touch(self) -> None:
        """Fails if the file can't be written: a mere BEGIN IMMEDIATE would not."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("PRAGMA user_version = 0")
        self.connection.execute("ROLLBACK")

    def _upgrade(self, layout: int) -> None:
        while layout != LAYOUT:
            statement = _UPGRADES[layout]
            layout += 1
            self.connection.executescript(
                f"BEGIN IMMEDIATE; {statement}; PRAGMA user_version = {layout}; COMMIT;"
            )

    def _scalar(self, sql: str) -> Any:
        return self.connection.execute(sql).fetchone()[0]

    def _bound_wal(self) -> None:
        """SQLite reuses the write-ahead log only when no reader stands in it; this waits for that.

        What has been committed stays committed, so nothing here may fail the transaction.
        """
        with suppress(sqlite3.Error, OSError):
            if self._wal.stat().st_size <= self._wal_bytes_max:
                return
            self.connection.execute(f"PRAGMA busy_timeout = {_WAL_WAIT_MS}")
            try:
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self.watch.expect_short_wal()
                busy_ms = int(self._settings.busy_timeout_s * 1000)
                self.connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
            self._wal_bytes_max = max(_WAL_BYTES_MAX, 2 * self._wal.stat().st_size)
