"""Retention of the embedded log: what it drops, when it runs, and the size of the files."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventstreams.errors import OffsetOutOfRange
from eventstreams.log.sqlite.file import LogFile
from eventstreams.log.sqlite.limits import SqliteLimits
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.log.sqlite.reader import Reader
from eventstreams.model.event import Bounds, Record
from tests.support.sqlite_files import (
    PLENTY,
    T0,
    T1,
    count_transactions,
    opened,
    read_all,
    write_lock,
)
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


async def test_an_emptied_partition_reuses_no_offsets(tmp_path: Path) -> None:
    async with opened(tmp_path, retention_age_s=10) as log:
        await log.append([Record("t", b"x")] * 300)
        await log.retain(now_ms=2**50)
        assert await log.bounds([T0]) == {T0: Bounds(300, 300)}
        assert await log.offset_at({T0: 0}) == {T0: None}
    async with opened(tmp_path) as log:
        assert await log.bounds([T0]) == {T0: Bounds(300, 300)}
        (placed,) = await log.append([Record("t", b"y", timestamp_ms=7)])
        assert placed.offset == 300
        assert await log.offset_at({T0: 0}) == {T0: 300}
        assert await log.offset_at({T0: 8}) == {T0: None}


async def test_retention_by_age_uses_the_time_of_appending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000.0]
    monkeypatch.setattr("eventstreams.log.sqlite.transaction.time.time", lambda: clock[0])
    async with opened(tmp_path, retention_age_s=100, partitions_per_topic=2) as log:
        for clock[0] in (1_000.0, 1_050.0, 1_100.0):
            for partition in (0, 1):
                await log.append([Record("t", b"x", timestamp_ms=5, partition=partition)] * 10)
        await log.retain(now_ms=1_100_000)
        assert set((await log.bounds([T0, T1])).values()) == {Bounds(0, 30)}
        await log.retain(now_ms=1_100_001)
        assert set((await log.bounds([T0, T1])).values()) == {Bounds(10, 30)}
        await log.retain(now_ms=1_200_000)
        assert set((await log.bounds([T0, T1])).values()) == {Bounds(20, 30)}


async def test_retention_by_bytes_drops_the_oldest_of_all_partitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000.0]
    monkeypatch.setattr("eventstreams.log.sqlite.transaction.time.time", lambda: clock[0])
    settings: dict[str, Any] = {
        "retention_age_s": None,
        "retention_bytes": 10_000,
        "partitions_per_topic": 2,
    }
    async with opened(tmp_path, **settings) as log:
        for clock[0], partition in ((1.0, 0), (2.0, 1), (3.0, 0)):
            await log.append([Record("t", b"x" * 100, partition=partition)] * 50)
        await log.retain(now_ms=0)
        assert await log.bounds([T0, T1]) == {T0: Bounds(50, 100), T1: Bounds(0, 50)}
        await log.append([Record("t", b"x" * 150, partition=0)])
        await log.append([Record("t", None, b"tombstone", partition=0)])
        await log.retain(now_ms=0)
        assert await log.bounds([T0, T1]) == {T0: Bounds(50, 102), T1: Bounds(2, 50)}
    async with opened(tmp_path, **{**settings, "retention_bytes": 1_000}) as log:
        await log.retain(now_ms=0)
        assert await log.bounds([T0, T1]) == {T0: Bounds(92, 102), T1: Bounds(50, 50)}


async def test_retention_runs_periodically_during_appends(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"retention_bytes": 1_000, "retention_every_s": 0.001}
    async with opened(tmp_path, **settings) as log, asyncio.timeout(PATIENCE_S):
        for number in range(500):
            await log.append([Record("t", b"%9d." % number)])
        while (await log.bounds([T0]))[T0].oldest < 400:
            pass
        events = await read_all(log, T0)
        assert [event.value for event in events] == [b"%9d." % event.offset for event in events]


async def test_retention_runs_while_appends_are_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = SqliteLimits(group_bytes_max=1)
    waiting: list[int] = []
    transaction = LogFile.transaction

    def noting(file: LogFile) -> Any:
        waiting.append(log._writer._requests.qsize())
        return transaction(file)

    async with opened(tmp_path, limits, retention_every_s=1e-6, sync="normal") as log:
        await log.create_topic("t", 1)
        async with asyncio.TaskGroup() as group, write_lock(tmp_path):
            for _ in range(50):
                group.create_task(log.append([Record("t", b"x")]))
            await until(lambda: log._waiting_bytes >= 50 * 200)
            monkeypatch.setattr(LogFile, "transaction", noting)
        assert sum(1 for requests in waiting if requests) > 60, "retention did not run"


async def test_large_drops_take_several_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = SqliteLimits(drop_rows_max=100, drop_bytes_max=1_000)
    async with opened(tmp_path, limits, retention_age_s=1) as log:
        await log.append([Record("t", b"")] * 500)
        await log.append([Record("t", b"x" * 500)] * 10)
        transactions = count_transactions(monkeypatch)
        await log.retain(now_ms=2**50)
        assert await log.bounds([T0]) == {T0: Bounds(510, 510)}
        assert len(transactions) >= 5 + 5


async def test_the_space_of_dropped_records_is_reused(tmp_path: Path) -> None:
    async with opened(tmp_path, sync="normal") as log:
        for _ in range(10):
            await log.append([Record("t", b"x" * 1_000)] * 2_000)
            await log.forget_before(T0, (await log.bounds([T0]))[T0].end)
    assert (tmp_path / "log.sqlite3").stat().st_size < 4 * 2_000_000


async def test_the_write_ahead_log_stays_bounded(tmp_path: Path) -> None:
    """SQLite's own checkpoints, which would hide ours, are turned off."""
    limits = SqliteLimits(checkpoint_pages=2**30, wal_bytes_max=500_000)
    async with opened(tmp_path, limits, sync="normal") as log:
        for _ in range(20):
            await log.append([Record("t", b"x" * 1_000)] * 200)
            assert (tmp_path / "log.sqlite3-wal").stat().st_size < 1_500_000


async def test_retention_between_two_statements_is_detected(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"x")] * 20)
        for offset, overtaken in ((0, True), (10, False)):
            file = tmp_path / "log.sqlite3"
            with closing(sqlite3.connect(file, check_same_thread=False)) as connection:
                reader = Reader(Interrupted(connection, log, 10), tmp_path)  # type: ignore[arg-type]
                read = asyncio.to_thread(reader.read, T0, offset, PLENTY)
                if overtaken:
                    with pytest.raises(OffsetOutOfRange):
                        await read
                else:
                    assert len((await read).events) == 10


class Interrupted:
    """A connection that drops records between the first statement and the others."""

    def __init__(self, connection: sqlite3.Connection, log: SqliteLog, offset: int) -> None:
        self._connection = connection
        self._drop = lambda: asyncio.run_coroutine_threadsafe(
            log.forget_before(T0, offset), log._loop
        ).result(30)

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if "group_concat" in sql:
            self._drop()
        return self._connection.execute(sql, *arguments)
