"""Keeps waiting events in an SQLite file, so that they survive the end of the process.

Events are on disk when `put` returns (write-ahead log, synced at each commit). An entry is removed
only after the intake has answered, so if the process dies in between, the event is sent again.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from eventstreams.errors import OutboxError
from eventstreams.producer.queue import OVERHEAD_BYTES, Entry, Loss

T = TypeVar("T")

_APPLICATION_ID = 0x65736F62  # "esob"
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE waiting (id INTEGER PRIMARY KEY AUTOINCREMENT, line BLOB NOT NULL);
CREATE TABLE lost (
    id INTEGER PRIMARY KEY, line BLOB NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL,
    at REAL NOT NULL
);
PRAGMA application_id = {_APPLICATION_ID};
COMMIT;
"""


class Outbox:
    """A `Storage` in a file that one process at a time can use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # SQLite has a single writer anyway, and one thread keeps calls in order.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._open = ExitStack()
        self._connection: sqlite3.Connection

    async def open(self) -> tuple[int, int]:
        try:
            return await self._run(self._prepare)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    async def put(self, entries: Sequence[Entry]) -> None:
        await self._run(lambda: self._insert(entries))

    async def head(self, count: int, size: int) -> list[Entry]:
        return await self._run(lambda: self._select(count, size))

    async def remove(self, entries: Collection[Entry], losses: Collection[Loss]) -> None:
        await self._run(lambda: self._remove(entries, losses))

    async def oldest(self) -> int | None:
        def look() -> int | None:
            row = self._connection.execute("SELECT min(id) FROM waiting").fetchone()
            return None if row[0] is None else int(row[0])

        return await self._run(look)

    async def losses(self) -> list[Loss]:
        """Return the losses in the order in which their events were put."""

        def look() -> list[Loss]:
            rows = self._connection.execute("SELECT id, line, kind, reason FROM lost ORDER BY id")
            return [Loss(Entry(id_, line), kind, reason) for id_, line, kind, reason in rows]

        return await self._run(look)

    async def put_losses_back(self) -> tuple[int, int]:
        """Queue the lost events again. Returns their number and their size in bytes."""

        def move() -> tuple[int, int]:
            count, size = self._measure("lost")
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute("INSERT INTO waiting SELECT id, line FROM lost")
                self._connection.execute("DELETE FROM lost")
            return count, size

        return await self._run(move)

    async def forget_losses(self) -> int:
        """Delete all losses. Returns how many there were."""

        def forget() -> int:
            return self._connection.execute("DELETE FROM lost").rowcount

        return await self._run(forget)

    async def close(self) -> None:
        try:
            await self._run(self._open.close)
        finally:
            self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                return call()
            except sqlite3.Error as error:
                raise OutboxError(f"{self._path}: {error}") from error

        # A call that has begun is finished, even if the caller stops waiting.
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, translated))

    def _prepare(self) -> tuple[int, int]:
        with ExitStack() as stack:
            self._lock(stack)
            self._connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False
            )
            stack.callback(self._connection.close)
            ours = self._scalar("PRAGMA application_id") == _APPLICATION_ID
            if not ours and self._scalar("SELECT count(*) FROM sqlite_master"):
                raise OutboxError(f"{self._path} is a database of a different program")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            if not ours:
                self._connection.executescript(_SCHEMA)
            _, size = self._measure("waiting")
            newest = self._scalar("SELECT max(seq) FROM sqlite_sequence") or 0
            self._open = stack.pop_all()
            return size, newest

    def _lock(self, stack: ExitStack) -> None:
        """Lock the file for this process. SQLite's own locks last only for a transaction."""
        try:
            lock = os.open(f"{self._path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutboxError(f"{self._path} cannot be written: {error.strerror}") from error
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutboxError(f"{self._path} is in use by another producer") from None

    def _scalar(self, query: str) -> int:
        row = self._connection.execute(query).fetchone()
        return row[0] if row else 0

    def _measure(self, table: str) -> tuple[int, int]:
        count, size = self._connection.execute(
            f"SELECT count(*), coalesce(sum(length(line)), 0) FROM {table}"  # noqa: S608 - of our own names
        ).fetchone()
        return count, size + count * OVERHEAD_BYTES

    def _insert(self, entries: Sequence[Entry]) -> None:
        rows = [(entry.id, entry.line) for entry in entries]
        with self._connection:  # rolls back on an error
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO waiting VALUES (?, ?)", rows)

    def _select(self, count: int, size: int) -> list[Entry]:
        found: list[Entry] = []
        query = "SELECT id, line FROM waiting ORDER BY id LIMIT ?"
        for id_, line in self._connection.execute(query, [count]):
            entry = Entry(id_, line)
            size -= entry.size
            if found and size < 0:
                break
            found.append(entry)
        return found

    def _remove(self, entries: Collection[Entry], losses: Collection[Loss]) -> None:
        now = time.time()
        rows = [(loss.entry.id, loss.entry.line, loss.kind, loss.reason, now) for loss in losses]
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO lost VALUES (?, ?, ?, ?, ?)", rows)
            self._connection.executemany(
                "DELETE FROM waiting WHERE id = ?", [(entry.id,) for entry in entries]
            )
