"""The embedded log when its process is killed or its file is locked, damaged, full or read-only."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import LogCorrupt, LogError, LogUnavailable, LogUnwritable, RecordsDamaged
from eventstreams.log.sqlite.file import APPLICATION_ID, LAYOUT, translated
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Bounds, Partition, Record
from tests.log.sqlite import child as sqlite_child
from tests.support.sqlite_files import T0, opened, overwrite_table, place_of_table, write_at

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
SHARED = [Partition(sqlite_child.TOPIC, number) for number in range(sqlite_child.PARTITIONS)]
PLENTY = 1 << 20


@asynccontextmanager
async def child(directory: Path, *options: object) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", sqlite_child.__name__, str(directory), *map(str, options)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def values_by_place(log: SqliteLog) -> dict[tuple[int, int], str]:
    values: dict[tuple[int, int], str] = {}
    for partition, bounds in (await log.bounds(SHARED)).items():
        offset = bounds.oldest
        while offset < bounds.end:
            found = await log.read(partition, offset, PLENTY)
            assert found.events[0].offset == offset
            for event in found.events:
                values[partition.number, event.offset] = (event.value or b"").decode()
            offset = found.next
    return values


def acknowledged(lines: bytes) -> dict[tuple[int, int], str]:
    whole = lines[: lines.rfind(b"\n") + 1].decode()
    split = [line.split() for line in whole.splitlines()]
    return {(int(number), int(offset)): value for number, offset, value in split}


# kill -9


@pytest.mark.parametrize("retention_bytes", [None, 4_000])
async def test_kill_9_loses_no_acknowledged_record_and_reuses_no_offset(
    tmp_path: Path, retention_bytes: int | None
) -> None:
    options = ("--retention-bytes", retention_bytes) if retention_bytes else ()
    moments = random.Random(7)  # where in a transaction that is depends on the machine
    all_acknowledged: dict[tuple[int, int], str] = {}
    for run in range(6):
        async with child(tmp_path, "--name", run, *options) as process:
            assert process.stdout
            lines = b""
            for _ in range(moments.choice([1, 5, 30, 200, 900])):
                lines += await process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            lines += await process.stdout.read()
            await process.wait()
        new = acknowledged(lines)
        assert new
        assert not new.keys() & all_acknowledged.keys(), "an offset was used twice"
        all_acknowledged |= new
        async with opened(tmp_path, retention_bytes=None) as log:
            kept = await values_by_place(log)
            bounds = await log.bounds(SHARED)
            for (number, offset), value in all_acknowledged.items():
                assert offset < bounds[SHARED[number]].end
                if offset >= bounds[SHARED[number]].oldest:
                    assert kept[number, offset] == value
            if retention_bytes is None:
                assert len(kept) == sum(end for _, end in bounds.values())


# Other processes


async def test_a_follower_gets_all_events_of_concurrent_processes_once(
    tmp_path: Path,
) -> None:
    count = 60
    async with opened(tmp_path, partitions_per_topic=sqlite_child.PARTITIONS) as log:
        await log.create_topic(sqlite_child.TOPIC, sqlite_child.PARTITIONS)
        follower = log.follow(dict.fromkeys(SHARED, 0))
        followed: dict[tuple[int, int], str] = {}
        own: dict[tuple[int, int], str] = {}
        async with (
            child(tmp_path, "--name", "a", "--count", count) as first,
            child(tmp_path, "--name", "b", "--count", count) as second,
        ):
            for n in range(count):
                ((partition, offset),) = await log.append(
                    [Record(sqlite_child.TOPIC, b"own-%d" % n)]
                )
                own[partition.number, offset] = f"own-{n}"
            while len(followed) < 7 * count:
                for partition, events, *_ in await follower.next():
                    for event in events:
                        place = partition.number, event.offset
                        assert place not in followed
                        followed[place] = (event.value or b"").decode()
            outputs = [(await process.communicate())[0] for process in (first, second)]
        await follower.aclose()
        everything = acknowledged(outputs[0]) | acknowledged(outputs[1]) | own
        assert len(everything) == 7 * count, "no offset was used twice"
        assert followed == everything
        assert await values_by_place(log) == everything


# Locked


async def test_a_locked_file_is_readable_but_cannot_be_started_or_appended_to(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, busy_timeout_s=0.05) as log:
        await log.append([Record("t", b"before")])
        for lock in (sqlite_lock, lock_file):
            release = await asyncio.to_thread(lock, tmp_path)
            with pytest.raises(LogUnavailable, match=r"log\.sqlite3 is locked by another process"):
                await log.append([Record("t", b"lost")])
            late = SqliteLog(directory=tmp_path, settings=SqliteSettings(busy_timeout_s=0.05))
            with pytest.raises(LogUnavailable, match=r"log\.sqlite3 is locked by another process"):
                await late.start()
            assert (await log.read(T0, 0, 1)).events[0].value == b"before"
            await asyncio.to_thread(release)
            await late.start()
            await late.aclose()
        (placed,) = await log.append([Record("t", b"after")])
        assert placed.offset == 1


def sqlite_lock(directory: Path) -> Callable[[], None]:
    connection = sqlite3.connect(
        directory / "log.sqlite3", isolation_level=None, check_same_thread=False
    )
    connection.execute("BEGIN IMMEDIATE")
    return connection.close


def lock_file(directory: Path) -> Callable[[], None]:
    lock = (directory / "log.sqlite3-lock").open()
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock.close


# Damaged


def garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database, whatever its name says " * 1000)


def short_garbage(path: Path) -> None:
    path.write_bytes(b"{}\n")


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_to_its_header(path: Path) -> None:
    os.truncate(path, 100)


def cut_off_a_little(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def database_of_another_program(path: Path) -> None:
    path.unlink()
    edit(path, "CREATE TABLE notes (text)")


def database_of_another_program_with_a_version(path: Path) -> None:
    path.unlink()
    edit(path, "CREATE TABLE partitions (text); PRAGMA user_version = 1")


def newer_layout(path: Path) -> None:
    edit(path, f"PRAGMA user_version = {LAYOUT + 1}")


def a_table_is_missing(path: Path) -> None:
    edit(path, "DROP TABLE blocks")


def newest_records_are_missing(path: Path) -> None:
    edit(path, "DELETE FROM events WHERE id > (SELECT max(id) - 5 FROM events)")


def oldest_records_are_missing(path: Path) -> None:
    edit(path, "DELETE FROM events WHERE id < (SELECT min(id) + 5 FROM events)")


def index_of_partitions_is_overwritten(path: Path) -> None:
    overwrite_table(path, "partitions")


def blocks_are_overwritten(path: Path) -> None:
    overwrite_table(path, "blocks")


def blocks_are_out_of_order(path: Path) -> None:
    start, size = place_of_table(path, "blocks")
    page = bytearray(path.read_bytes()[start : start + size])
    page[8:12] = page[10:12] + page[8:10]  # the places of the first two rows
    write_at(path, start, page)


def events_are_overwritten(path: Path) -> None:
    overwrite_table(path, "events")


def edit(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(sql)


@pytest.mark.parametrize(
    "damage",
    [
        garbage,
        short_garbage,
        cut_in_half,
        cut_to_its_header,
        cut_off_a_little,
        database_of_another_program,
        database_of_another_program_with_a_version,
        newer_layout,
        a_table_is_missing,
        newest_records_are_missing,
        oldest_records_are_missing,
        index_of_partitions_is_overwritten,
        blocks_are_overwritten,
        blocks_are_out_of_order,
        events_are_overwritten,
    ],
)
async def test_start_refuses_a_foreign_or_damaged_file_and_keeps_it(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "log.sqlite3"
    async with opened(tmp_path) as log:
        for _ in range(20):
            await log.append([Record("t", b"x" * 1_000)] * 20)
    damage(path)
    before = path.read_bytes()
    log = SqliteLog(directory=tmp_path, settings=SqliteSettings())
    for _ in range(2):
        with pytest.raises(LogCorrupt, match=r"log\.sqlite3 (is|has)"):
            await log.start()
    await log.aclose()
    assert path.read_bytes() == before


async def test_missing_records_are_reported_as_damage(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"x" * 1_000)] * 300)
    edit(tmp_path / "log.sqlite3", "DELETE FROM events WHERE (id & 255) BETWEEN 100 AND 103")
    async with opened(tmp_path) as log:
        follower = log.follow({T0: 0})
        assert (await log.read(T0, 0, PLENTY)).next == 100
        assert [each.next for each in await follower.next()] == [100]
        for call in (lambda: log.read(T0, 100, PLENTY), follower.next):
            with pytest.raises(RecordsDamaged) as caught:
                await call()
            assert (caught.value.offset, caught.value.next) == (100, 104)
        await follower.aclose()
        assert (await log.read(T0, 104, PLENTY)).next == 300


async def test_a_new_file_has_our_application_id(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    header = (tmp_path / "log.sqlite3").read_bytes()[:100]
    assert int.from_bytes(header[68:72], "big") == APPLICATION_ID


async def test_a_start_after_an_interrupted_first_start_works(tmp_path: Path) -> None:
    edit(tmp_path / "log.sqlite3", "PRAGMA journal_mode = WAL")
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"x")])


# Full and read-only


async def append_until_refused(log: SqliteLog) -> tuple[int, LogUnwritable]:
    """Return how many appends were acknowledged, and the error. Values begin with their number."""
    for number in range(100_000):
        try:
            await log.append([Record("t", b"%06d" % number + b"x" * 1_000)])
        except LogUnwritable as error:
            assert number > 10
            return number, error
    raise AssertionError("nothing was refused")


async def test_appends_on_a_full_disk_are_refused_and_lose_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        connection = log._writer._file.connection
        await asyncio.to_thread(connection.execute, "PRAGMA max_page_count = 30")
        kept, error = await append_until_refused(log)
        assert "log.sqlite3 cannot grow: the disk is full" in str(error)
        assert await log.bounds([T0]) == {T0: Bounds(0, kept)}
        with pytest.raises(LogUnwritable):
            await log.append([Record("t", b"x" * 100_000)])
        await asyncio.to_thread(connection.execute, "PRAGMA max_page_count = 1000000")
        (placed,) = await log.append([Record("t", b"y")])
        assert placed.offset == kept


async def test_appends_to_a_file_that_may_not_grow_are_refused(
    tmp_path: Path,
) -> None:
    async with child(tmp_path, "--file-bytes-max", 300_000) as process:
        output, _ = await process.communicate()
    lines = output.splitlines(keepends=True)
    accepted = acknowledged(b"".join(line for line in lines if not line.startswith(b"refused")))
    assert process.returncode == 1
    assert any(line.startswith(b"refused LogUnwritable: ") for line in lines)
    assert accepted
    async with opened(tmp_path) as log:
        kept = await values_by_place(log)
        assert accepted.items() <= kept.items()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", directory]
        if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", directory], check=True)


async def test_no_acknowledged_record_is_lost_on_a_full_disk(small_disk: Path) -> None:
    async with opened(small_disk) as log:
        accepted, _ = await append_until_refused(log)
        with pytest.raises(LogUnwritable):
            await log.append([Record("t", b"x" * 1_000_000)])
    async with opened(small_disk) as log:
        offset = 0
        while offset < accepted:
            for event in (await log.read(T0, offset, PLENTY)).events:
                assert int((event.value or b"")[:6]) == offset
                offset += 1
        assert await log.bounds([T0]) == {T0: Bounds(0, accepted)}


async def test_a_full_disk_is_reported_at_start(small_disk: Path) -> None:
    with suppress(OSError), (small_disk / "other").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    log = SqliteLog(directory=small_disk, settings=SqliteSettings())
    with pytest.raises(LogUnavailable, match=r"full|space"):
        await log.start()
    (small_disk / "other").unlink()
    await log.start()
    await log.append([Record("t", b"x")])
    await log.aclose()


async def test_an_unwritable_directory_is_reported_at_start() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        user = ("--user", 65534) if os.getuid() == 0 else ()
        directory.chmod(0o555)
        async with child(directory, *user) as process:
            output, _ = await process.communicate()
        directory.chmod(0o755)
    assert output.startswith(b"refused LogUnavailable: ")
    assert b"cannot be written: Permission denied" in output


async def test_an_unwritable_file_is_reported_at_start() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with opened(directory):
            pass
        directory.chmod(0o777)
        (directory / "log.sqlite3").chmod(0o444)
        (directory / "log.sqlite3-lock").chmod(0o666)
        user = ("--user", 65534) if os.getuid() == 0 else ()
        async with child(directory, *user) as process:
            output, _ = await process.communicate()
    assert output.startswith(b"refused LogUnavailable: ")
    assert b"cannot be written: read-only" in output


async def test_an_impossible_directory_is_reported_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        log = SqliteLog(directory=directory, settings=SqliteSettings())
        with pytest.raises(LogUnavailable, match="cannot be written"):
            await log.start()
    (tmp_path / "log.sqlite3").mkdir()
    log = SqliteLog(directory=tmp_path, settings=SqliteSettings())
    with pytest.raises(LogUnavailable, match="cannot be opened"):
        await log.start()


# Errors

OURS = {"ERROR", "INTERNAL", "ABORT", "INTERRUPT", "NOTFOUND", "EMPTY", "SCHEMA", "MISUSE", "RANGE"}
NO_ERRORS = {"OK", "ROW", "DONE", "NOTICE", "WARNING", "DENY", "IGNORE"}


def test_every_error_of_sqlite_is_translated_or_a_bug() -> None:
    codes = {
        name.removeprefix("SQLITE_"): code
        for name, code in vars(sqlite3).items()
        if name.startswith("SQLITE_") and name.removeprefix("SQLITE_") in PRIMARY
    }
    assert len(codes) > 25
    for name, code in codes.items():
        error = sqlite3.OperationalError("why")
        error.sqlite_errorcode = code | 7 << 8  # extended codes mean what their primary ones do
        for appending in (False, True):
            meaning = translated(error, Path("p"), appending=appending)
            assert (meaning is None) == (name in OURS), name
            assert meaning is None or isinstance(meaning, LogError)
    assert translated(sqlite3.ProgrammingError("closed"), Path("p"), appending=True) is None


PRIMARY = {
    *OURS,
    *("PERM", "BUSY", "LOCKED", "NOMEM", "READONLY", "IOERR", "CORRUPT", "FULL", "CANTOPEN"),
    *("PROTOCOL", "TOOBIG", "CONSTRAINT", "MISMATCH", "NOLFS", "AUTH", "FORMAT", "NOTADB"),
}


async def test_a_damaged_log_refuses_events_until_it_is_opened_again(tmp_path: Path) -> None:
    """That the files are at their paths does not mean that their content is intact."""
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"before")])
        log._set_trouble(LogCorrupt("a page is damaged"))
        log._set_trouble(None)
        with pytest.raises(LogCorrupt, match="a page is damaged"):
            await log.append([Record("t", b"after")])
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"after")])
