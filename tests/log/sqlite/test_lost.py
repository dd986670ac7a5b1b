"""The files of the embedded log are deleted, moved, replaced or truncated while it uses them."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventstreams.errors import LogCorrupt, LogFilesLost, LogUnavailable
from eventstreams.log.sqlite.file import FileWatch
from eventstreams.log.sqlite.limits import SqliteLimits
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Bounds, Placed, Record
from tests.support.sqlite_files import T0, opened, overwrite_table
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

NAME = "log.sqlite3"


def deleted(*suffixes: str) -> Callable[[Path], None]:
    def delete(directory: Path) -> None:
        for suffix in suffixes:
            (directory / f"{NAME}{suffix}").unlink()

    return delete


def replaced(suffix: str) -> Callable[[Path], None]:
    """Replace a file by a copy, as restoring a backup or `sed -i` does."""

    def replace(directory: Path) -> None:
        path = directory / f"{NAME}{suffix}"
        shutil.copy(path, directory / "copy")
        (directory / "copy").replace(path)

    return replace


def cut_short(suffix: str, size: int) -> Callable[[Path], None]:
    return lambda directory: os.truncate(directory / f"{NAME}{suffix}", size)


def directory_is_moved(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def directory_is_another(directory: Path) -> None:
    directory_is_moved(directory)
    shutil.copytree(directory.with_name("elsewhere"), directory)


FAULTS = {
    "everything is deleted": (deleted("", "-wal", "-shm", "-lock"), "deleted or moved away"),
    "the database is deleted": (deleted(""), "deleted or moved away"),
    "the write-ahead log is deleted": (deleted("-wal"), "deleted or moved away"),
    "the index is deleted": (deleted("-shm"), "deleted or moved away"),
    "the lock is deleted": (deleted("-lock"), "deleted or moved away"),
    "the directory is deleted": (shutil.rmtree, "deleted or moved away"),
    "the directory is moved": (directory_is_moved, "deleted or moved away"),
    "the directory is another": (directory_is_another, "replaced by another file"),
    "the database is replaced": (replaced(""), "replaced by another file"),
    "the write-ahead log is replaced": (replaced("-wal"), "replaced by another file"),
    "the database is emptied": (cut_short("", 0), "truncated from [0-9]+ to 0 bytes"),
    "the database is cut": (cut_short("", 16384), "truncated from [0-9]+ to 16384 bytes"),
    "the write-ahead log is emptied": (cut_short("-wal", 0), "truncated from [0-9]+ to 0 bytes"),
}
over_all_faults = pytest.mark.parametrize(
    ("fault", "message"), FAULTS.values(), ids=[name.replace(" ", "-") for name in FAULTS]
)


@over_all_faults
async def test_nothing_is_acknowledged_once_the_files_are_lost(
    fault: Callable[[Path], None], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "data"
    async with opened(directory) as log:
        for _ in range(30):  # enough for the database to have grown by a checkpoint
            await log.append([Record("t", b"x" * 9_000)] * 40)
        follower = log.follow({T0: 1200})
        fault(directory)
        with pytest.raises(LogFilesLost, match=message):
            await log.append([Record("t", b"x")])
        [outcome] = await log.offer([Record("t", b"x")])
        assert isinstance(outcome, LogFilesLost)
        with pytest.raises(LogUnavailable, match=message):
            await log.read(T0, 0, 1)
        with pytest.raises(LogUnavailable, match=message):
            await follower.next()
        await follower.aclose()
    reported = [r for r in caplog.records if "rejects events" in r.message]
    assert {r.levelname for r in reported} == {"CRITICAL"}
    # A fault of several steps may be detected between two of them, with another message.
    assert len({r.message for r in reported}) == len(reported), "each fault is reported once"


def test_a_file_truncated_after_it_grew_is_lost(tmp_path: Path) -> None:
    database = tmp_path / "log.sqlite3"
    for suffix in ("", "-wal", "-shm", "-lock"):
        Path(f"{database}{suffix}").write_bytes(b"x" * 100)
    watch = FileWatch(database)
    watch.start()
    database.write_bytes(b"x" * 300)
    watch.check(is_writer=True)
    os.truncate(database, 200)
    with pytest.raises(LogFilesLost, match="truncated from 300 to 200 bytes"):
        watch.check(is_writer=True)


async def test_lost_files_are_detected_without_appends(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"x")])
        follower = log.follow({T0: 1})
        deleted("", "-wal", "-shm")(tmp_path)
        said = ""
        async with asyncio.timeout(PATIENCE_S):
            while "deleted or moved away" not in said:  # at first it may be an I/O error
                try:
                    await follower.next()
                except LogUnavailable as error:
                    said = str(error)
        await follower.aclose()


async def test_restored_files_are_used_again(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    async with opened(directory) as log:
        await log.append([Record("t", b"0")])
        directory_is_moved(directory)
        with pytest.raises(LogFilesLost):
            await log.append([Record("t", b"refused")])
        (tmp_path / "elsewhere").rename(directory)
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance((await log.offer([Record("t", b"1")]))[0], Placed):
                await asyncio.sleep(0.01)
        follower = log.follow({T0: 0})
        async with asyncio.timeout(PATIENCE_S):
            values = [event.value for each in await follower.next() for event in each.events]
        assert values[0] == b"0"
        assert values[-1] == b"1"
        await follower.aclose()


async def test_records_acknowledged_before_the_loss_of_the_wal_are_kept(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"%d" % n) for n in range(10)])
        deleted("-wal")(tmp_path)
        with pytest.raises(LogFilesLost):
            await log.append([Record("t", b"refused")])
    async with opened(tmp_path) as log:
        assert (await values_of(log))[:10] == [b"%d" % n for n in range(10)]


async def test_truncation_by_another_user_of_the_log_is_not_a_loss(tmp_path: Path) -> None:
    limits = SqliteLimits(wal_bytes_max=100_000)
    async with opened(tmp_path, limits) as one, opened(tmp_path, limits) as other:
        for n in range(60):
            for log in (one, other):
                await log.append([Record("t", b"%d" % n + b"x" * 9_000)] * 3)
        assert await one.bounds([T0]) == await other.bounds([T0]) == {T0: Bounds(0, 360)}
        assert (tmp_path / f"{NAME}-wal").stat().st_size < 1_000_000


async def test_a_malformed_database_refuses_appends_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"x" * 3_000)] * 300)
        follower = log.follow({T0: 300})
        with closing(sqlite3.connect(tmp_path / NAME)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        overwrite_table(tmp_path / NAME, "events")
        errors = [await refusal(log) for _ in range(3)]
        assert all(isinstance(error, LogCorrupt) for error in errors)
        assert "database disk image is malformed" in str(errors[-1])
        with pytest.raises(LogUnavailable, match="malformed"):
            await follower.next()
        with pytest.raises(LogCorrupt, match="malformed"):
            await log.read(T0, 0, 1)
        await follower.aclose()
    assert sum("rejects events" in record.message for record in caplog.records) == 1


async def refusal(log: SqliteLog) -> object:
    [outcome] = await log.offer([Record("t", b"x" * 3_000)])
    return outcome


async def values_of(log: SqliteLog) -> list[bytes | None]:
    return [event.value for event in (await log.read(T0, 0, 1 << 20)).events]


async def test_files_lost_during_a_transaction_are_detected_before_the_answer(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"x")])
        with pytest.raises(LogFilesLost, match="deleted or moved away"):
            await log._write(lambda _: deleted("")(tmp_path))
