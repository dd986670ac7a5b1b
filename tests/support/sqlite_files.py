"""An embedded log in a folder, and ways to damage its file."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from eventstreams.config.settings import SqliteSettings
from eventstreams.log.sqlite.limits import SqliteLimits
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Partition

T0 = Partition("t", 0)


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
