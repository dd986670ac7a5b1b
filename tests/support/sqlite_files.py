"""An embedded log in a folder, what it holds, its lock, and ways to damage its file."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from eventstreams.config.settings import SqliteSettings
from eventstreams.log.sqlite.file import LogFile
from eventstreams.log.sqlite.limits import SqliteLimits
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Event, Partition

T0 = Partition("t", 0)
T1 = Partition("t", 1)
PLENTY = 1 << 20  # bytes: more than a test appends


@asynccontextmanager
async def opened(
    directory: Path, limits: SqliteLimits | None = None, **settings: Any
) -> AsyncIterator[SqliteLog]:
    """Open an embedded log with these limits and these SqliteSettings."""
    log = SqliteLog(directory=directory, settings=SqliteSettings(**settings), limits=limits)
    await log.start()
    try:
        yield log
    finally:
        await log.aclose()


@asynccontextmanager
async def write_lock(directory: Path) -> AsyncIterator[None]:
    """Hold the lock that a process holds while it writes."""
    file = LogFile(directory, SqliteSettings())
    await asyncio.to_thread(file.open)
    transaction = file.transaction()
    await asyncio.to_thread(transaction.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(transaction.__exit__, None, None, None)
        await asyncio.to_thread(file.close)


async def read_all(log: SqliteLog, partition: Partition) -> list[Event]:
    """Return all events that the partition holds."""
    offset, end = (await log.bounds([partition]))[partition]
    events: list[Event] = []
    while offset < end:
        found = await log.read(partition, offset, PLENTY)
        events.extend(found.events)
        offset = found.next
    return events


def count_transactions(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that grows by one item with each transaction from now on."""
    transactions: list[None] = []
    transaction = LogFile.transaction

    def counted(file: LogFile) -> Any:
        transactions.append(None)
        return transaction(file)

    monkeypatch.setattr(LogFile, "transaction", counted)
    return transactions


def overwrite_table(path: Path, table: str) -> None:
    start, size = place_of_table(path, table)
    write_at(path, start, random.Random(1).randbytes(size))


def place_of_table(path: Path, table: str) -> tuple[int, int]:
    """Return the offset and the length in the file of the table's first page."""
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    return (page - 1) * size, size


def write_at(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)
