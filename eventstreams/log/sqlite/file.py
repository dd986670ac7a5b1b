"""Opens, checks and locks the file of the embedded log, and translates SQLite's errors.

A lock file beside the database lets only one process write at a time. SQLite before 3.51.3 can lose
a commit when one process checkpoints while another writes (sqlite.org/wal.html, "The WAL-Reset
Bug"), and its own lock waits so long between attempts that one busy process starves the others.
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
from zlib import crc32

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import (
    AppendRefused,
    LogCorrupt,
    LogError,
    LogFilesLost,
    LogUnavailable,
    LogUnwritable,
)
from eventstreams.log.sqlite.limits import SqliteLimits

APPLICATION_ID = 0x45765374
LAYOUT = 4
_BOOKMARKS = "CREATE TABLE bookmarks (name TEXT PRIMARY KEY, owner INTEGER NOT NULL, state BLOB)"
_UPGRADES = {
    1: "ALTER TABLE events ADD COLUMN checksum INTEGER",
    2: _BOOKMARKS,
    3: "ALTER TABLE events ADD COLUMN place_span INTEGER",
}
"""Statements from each earlier layout to the next. Each is fast, however large the file is."""

# events.id is partition << 40 | offset, so a partition's records are stored together, in order.
# blocks hold the highest timestamp of every 256 offsets (id = events.id >> 8), so that looking up
# a time reads few pages, and is correct when timestamps descend and when old records are dropped.
# events.checksum is NULL for records of layout 1, which had none: they are read unchecked.
# events.place_span is that of model/place.py; NULL if there is none, as before layout 4.
# Both precede the value, so that reading them does not read the pages of a large value. (A file
# that was upgraded has them behind the value. Large values have no span, and NULL takes no page.)
# bookmarks.owner counts the claims of a bookmark: only the newest owner may write.
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
  place_span INTEGER,
  key BLOB,
  value BLOB
);
CREATE TABLE blocks (id INTEGER PRIMARY KEY, timestamp_max_ms INTEGER NOT NULL);
{_BOOKMARKS};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {LAYOUT};
COMMIT;
"""
_ENDS_MISSING = f"""
SELECT count(*) FROM partitions p WHERE next > oldest AND (
  NOT EXISTS (SELECT 1 FROM events e WHERE e.id = (p.id << {OFFSET_BITS} | p.oldest))
  OR NOT EXISTS (SELECT 1 FROM events e WHERE e.id = (p.id << {OFFSET_BITS} | p.next - 1)))
"""  # noqa: S608 - of our own names

_PAGE_BYTES = 8192  # reads history 1.5 times as fast as 4096, for records of 1 KB
_WAL_WAIT_MS = 100
_LOCK_RETRY_S = 0.001

_PASSING = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another process",
    sqlite3.SQLITE_PROTOCOL: "is locked by another process",
}
_TOO_LARGE = {
    sqlite3.SQLITE_TOOBIG: "cannot store a record this large",
}
_UNWRITABLE = {
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_IOERR: "cannot be read or written: input/output error",
    sqlite3.SQLITE_READONLY: "cannot be written: read-only",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_PERM: "cannot be opened: permission denied",
    sqlite3.SQLITE_AUTH: "cannot be opened: permission denied",
    sqlite3.SQLITE_NOMEM: "cannot be used: out of memory",
    sqlite3.SQLITE_NOLFS: "cannot grow: the file system does not allow larger files",
}
_DAMAGED = {
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is not a database",
    sqlite3.SQLITE_FORMAT: "is not a database",
    sqlite3.SQLITE_CONSTRAINT: "is damaged: its contents are inconsistent",
    sqlite3.SQLITE_MISMATCH: "is damaged: its contents are inconsistent",
}


def translated(error: sqlite3.Error, path: Path, *, appending: bool) -> LogError | None:
    """Return the error to raise instead of SQLite's, or None if it is a fault of this program."""
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


_MARK_BYTES = 16
"""The size of a mark in the lock file: 8 bytes name the process, 8 count its transactions."""


class LogFile:
    """The database with its lock. Call `open` first and `close` last.

    Only one thread at a time may use `transaction`, and one, which may be another, `was_written`.
    """

    def __init__(
        self, directory: Path, settings: SqliteSettings, limits: SqliteLimits | None = None
    ) -> None:
        self.path = directory / "log.sqlite3"
        self._settings = settings
        self._wal = Path(f"{self.path}-wal")
        self._limits = limits or SqliteLimits()
        self._wal_bytes_max = self._limits.wal_bytes_max
        self.watch = FileWatch(self.path)
        self._open = ExitStack()
        self._name = os.urandom(_MARK_BYTES - 8)
        self._writes = 0
        self._mark = b""
        """The mark in the lock file when `was_written` last read it."""

    def open(self) -> None:
        """Open the file, or create it. May be called again after an error.

        Takes the write lock for a moment, so that a file that cannot be written is detected now.
        Raises LogUnavailable, LogCorrupt.
        """
        with ExitStack() as stack:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._lock = os.open(f"{self.path}-lock", flags, 0o666)
            except OSError as error:
                why = error.strerror or str(error)
                raise LogUnavailable(f"{self.path.parent} cannot be written: {why}") from error
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
        """Open another connection, for reading. The caller closes it. Raises LogUnavailable."""
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
        """Commit durably when the block ends, or roll back if it raises.

        Raises LogUnavailable, also after a commit to files that are no longer those at their paths.
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
            self._mark_written()
            self.watch.check(is_writer=True)
            self._bound_wal()

    def was_written(self) -> bool:
        """Return whether the newest transaction is of another process, and new since the last call.

        Transactions before one of this process are not noticed, nor are processes that do not use
        this class. Takes a few microseconds.
        """
        try:
            mark = os.pread(self._lock, _MARK_BYTES, 0)
        except OSError:
            return True
        is_new = mark != self._mark and not mark.startswith(self._name)
        self._mark = mark
        return is_new

    def _mark_written(self) -> None:
        """Write a new mark to the lock file, because reading it is faster than querying SQLite."""
        self._writes += 1
        mark = self._name + self._writes.to_bytes(8, "big")
        with suppress(OSError):  # the transaction has been committed, even if the disk is full
            os.pwrite(self._lock, mark, 0)

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
        """Check the file before writing to it. A file of another program stays unchanged."""
        application = self._scalar("PRAGMA application_id")
        layout = self._scalar("PRAGMA user_version")
        new = not (application or layout or self._scalar("SELECT count(*) FROM sqlite_master"))
        if not new and application != APPLICATION_ID:
            raise LogCorrupt(f"{self.path} is a database of a different program")
        if not new and layout != LAYOUT and layout not in _UPGRADES:
            raise LogCorrupt(f"{self.path} has layout {layout}; this program reads layout {LAYOUT}")
        if new:
            self.connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        mode = self._scalar("PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise LogUnavailable(
                f"{self.path}: this file system does not support a write-ahead log"
            )
        self.connection.execute(f"PRAGMA synchronous = {self._settings.sync}")
        self.connection.execute(f"PRAGMA wal_autocheckpoint = {self._limits.checkpoint_pages}")
        if new:
            self.connection.executescript(_SCHEMA)
        else:
            self._check()
            self._touch()
            self._upgrade(layout)

    def _check(self) -> None:
        """Make the checks that take little time even for a large file. Raises LogCorrupt."""
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
            if not whole:  # SQLite would read a page that was cut off as if it held zeros
                raise LogCorrupt(f"{self.path} is damaged: its end is missing")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            raise LogCorrupt(f"{self.path} is damaged: {error}") from error
        if missing:
            raise LogCorrupt(f"{self.path} is damaged: records of {missing} partitions are missing")

    def _touch(self) -> None:
        """Raise sqlite3.Error if the file cannot be written. BEGIN IMMEDIATE alone does not."""
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
        """Truncate the write-ahead log if it is too large, waiting briefly for its readers.

        SQLite reuses the log only while no connection reads from it. The transaction has been
        committed, so errors are ignored.
        """
        with suppress(sqlite3.Error, OSError):
            if self.watch.wal_bytes <= self._wal_bytes_max:
                return
            self.connection.execute(f"PRAGMA busy_timeout = {_WAL_WAIT_MS}")
            try:
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self.watch.expect_short_wal()
                busy_ms = int(self._settings.busy_timeout_s * 1000)
                self.connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
            self._wal_bytes_max = max(self._limits.wal_bytes_max, 2 * self._wal.stat().st_size)


def checksum(
    id_: int, timestamp_ms: int, key: bytes | None, value: bytes | None, place_span: int | None
) -> int:
    """Return the checksum of all parts of a record, including its place.

    `id_` is that of the row. CRC-32 does not depend on the number of leading zeros, so the lengths
    are part of its start value. There, a missing key or value differs from an empty one.
    """
    start = id_ ^ timestamp_ms
    if value is not None:
        start ^= len(value) + 1
    if key is not None:
        start ^= len(key) + 1 << 32
    if place_span is not None:
        start ^= place_span + 1 << 24
    start = (start ^ start >> 32) & 0xFFFFFFFF
    if key is not None:
        start = crc32(key, start)
    return start if value is None else crc32(value, start)


_SUFFIXES = ("", "-wal", "-shm", "-lock")


class FileWatch:
    """Detects that files were deleted, replaced or truncated while they are in use.

    Call `start` once all files are open, then `check`, from one thread at a time. The database
    never shrinks. The write-ahead log shrinks only when a process that uses this log truncates it.
    Call `expect_short_wal` after doing so, or if another process may have done so.
    """

    def __init__(self, database: Path) -> None:
        self._paths = [f"{database}{suffix}" for suffix in _SUFFIXES]
        self._identities: list[tuple[int, int]] = []
        self._sizes = [0, 0]
        """The largest sizes seen, in bytes: of the database and of its write-ahead log."""

    def start(self) -> None:
        """Record which files are at the paths. Raises LogFilesLost if one is missing."""
        try:
            found = [os.stat(path) for path in self._paths]
        except OSError as error:
            raise LogFilesLost(_why(error)) from error
        self._identities = [(each.st_dev, each.st_ino) for each in found]
        self._sizes = [each.st_size for each in found[:2]]

    @property
    def wal_bytes(self) -> int:
        """The size of the write-ahead log when a writer last checked it."""
        return self._sizes[1]

    def expect_short_wal(self) -> None:
        """Accept that the write-ahead log becomes smaller."""
        self._sizes[1] = 0

    def check(self, *, is_writer: bool) -> None:
        """Raise LogFilesLost if a file is not the one that is open, or has been truncated.

        `is_writer` says that no other process can write now. Only then is the size of the
        write-ahead log checked.
        """
        for number, path in enumerate(self._paths):
            try:
                found = os.stat(path)
            except OSError as error:
                raise LogFilesLost(_why(error)) from error
            if (found.st_dev, found.st_ino) != self._identities[number]:
                raise LogFilesLost(f"{path} was replaced by another file while it was in use")
            if number == 0 or (number == 1 and is_writer):
                if found.st_size < self._sizes[number]:
                    raise LogFilesLost(
                        f"{path} was truncated from {self._sizes[number]} to {found.st_size} bytes "
                        "by another program while it was in use"
                    )
                self._sizes[number] = found.st_size


def _why(error: OSError) -> str:
    path = error.filename
    if isinstance(error, FileNotFoundError):
        return f"{path} was deleted or moved away while it was in use"
    return f"{path} was in use and no longer exists: {error.strerror or error}"
