"""The embedded log as a whole: its start and end, and what its reads load."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import LogUnavailable
from eventstreams.log.sqlite.file import LogFile
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.log.sqlite.reader import Reader
from eventstreams.model.event import Record
from tests.support.sqlite_files import PLENTY, T0, opened, write_lock
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


async def test_a_log_that_is_not_open_is_unavailable(tmp_path: Path) -> None:
    log = SqliteLog(directory=tmp_path, settings=SqliteSettings())
    for _ in range(2):
        follower = log.follow({T0: 0})
        for call in (
            log.append([Record("t", b"x")]),
            log.create_topic("t", 1),
            log.read(T0, 0, 1),
            log.bounds([T0]),
            log.partitions(["t"]),
            follower.next(),
        ):
            with pytest.raises(LogUnavailable, match="not open"):
                await call
        await log.start()
        await log.aclose()


async def test_closing_finishes_waiting_appends(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        requests = log._writer._requests
        async with asyncio.TaskGroup() as group, write_lock(tmp_path):
            tasks = [group.create_task(log.append([Record("t", b"x")]))]
            await until(lambda: log._waiting_bytes and not requests.qsize())
            tasks += [group.create_task(log.append([Record("t", b"x")])) for _ in range(19)]
            await until(lambda: requests.qsize() >= 19)
            group.create_task(log.aclose())
            await until(lambda: requests.qsize() >= 20)
        assert sorted(task.result()[0].offset for task in tasks) == list(range(20))


async def test_closing_ends_all_threads_and_removes_temporary_files(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"x")])
        assert len(log_threads()) == 4
    assert log_threads() == []
    assert {path.name for path in tmp_path.iterdir()} == {"log.sqlite3", "log.sqlite3-lock"}


def log_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("log-")]


async def test_a_failed_start_leaves_nothing_open_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteLog(directory=tmp_path, settings=SqliteSettings())
    reader = LogFile.reader
    readers: list[sqlite3.Connection] = []

    def two_readers(file: LogFile) -> sqlite3.Connection:
        if len(readers) == 2:
            raise LogUnavailable("too many open files")
        readers.append(reader(file))
        return readers[-1]

    with monkeypatch.context() as patch:
        patch.setattr(LogFile, "reader", two_readers)
        with pytest.raises(LogUnavailable):
            await log.start()
    assert log_threads() == []
    for connection in readers:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            await asyncio.to_thread(connection.execute, "SELECT 1")
    await log.start()
    await log.append([Record("t", b"x")])
    await log.aclose()


async def test_a_log_whose_start_was_cancelled_can_be_closed(tmp_path: Path) -> None:
    log = SqliteLog(directory=tmp_path, settings=SqliteSettings())
    start = asyncio.ensure_future(log.start())
    await asyncio.sleep(0)
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    await log.aclose()
    assert log_threads() == []


async def test_a_read_takes_the_same_statements_for_any_number_of_records(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"x")] * 1_000)
    file = tmp_path / "log.sqlite3"
    with closing(sqlite3.connect(file, check_same_thread=False)) as connection:
        reader = Reader(connection, tmp_path)
        steps: list[str] = []
        await asyncio.to_thread(reader.read, T0, 0, 1)
        connection.set_trace_callback(steps.append)
        assert len((await asyncio.to_thread(reader.read, T0, 0, 1)).events) == 1
        few = len(steps)
        assert len((await asyncio.to_thread(reader.read, T0, 0, PLENTY)).events) == 1_000
        assert len(steps) == 2 * few


async def test_a_read_does_not_load_later_large_records(tmp_path: Path) -> None:
    """Their sizes are read without their values."""
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"first"), *(Record("t", bytes(2**20)) for _ in range(30))])
    async with opened(tmp_path) as log:
        before = bytes_read()
        slice_ = await log.read(T0, 0, 1)
        assert [event.value for event in slice_.events] == [b"first"]
        assert bytes_read() - before < 2**20


def bytes_read() -> int:
    """Return how many bytes this process has read."""
    with Path("/proc/self/io").open() as file:
        return int(file.readline().removeprefix("rchar: "))
