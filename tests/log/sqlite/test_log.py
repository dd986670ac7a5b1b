"""Guarantees of the embedded log alone: transactions, limits, retention, shared files."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import (
    ExitStack,
    aclosing,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import (
    AppendRefused,
    LogUnavailable,
    OffsetOutOfRange,
    UnknownPartition,
)
from eventstreams.log.base import Follower
from eventstreams.log.sqlite.file import LogFile
from eventstreams.log.sqlite.limits import SqliteLimits
from eventstreams.log.sqlite.log import SqliteFollower, SqliteLog
from eventstreams.log.sqlite.reader import Reader
from eventstreams.model.event import Bounds, Event, Partition, Record
from eventstreams.model.frame import Frame, encode
from tests.support.sqlite_files import T0, opened
from tests.support.strategies import event_texts
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio

T1 = Partition("t", 1)
PLENTY = 1 << 20


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
    offset, end = (await log.bounds([partition]))[partition]
    events: list[Event] = []
    while offset < end:
        found = await log.read(partition, offset, PLENTY)
        events.extend(found.events)
        offset = found.next
    return events


def count_transactions(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    transactions: list[None] = []
    transaction = LogFile.transaction

    def counted(file: LogFile) -> Any:
        transactions.append(None)
        return transaction(file)

    monkeypatch.setattr(LogFile, "transaction", counted)
    return transactions


# Group commit


async def test_waiting_appends_share_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as log:
        await log.create_topic("t", 1)
        transactions = count_transactions(monkeypatch)
        async with asyncio.TaskGroup() as group, write_lock(tmp_path):
            transactions.clear()
            tasks = [group.create_task(log.append([Record("t", b"x")])) for _ in range(50)]
            while log._waiting_bytes < 50 * 200:
                await asyncio.sleep(0)
        assert sorted(task.result()[0].offset for task in tasks) == list(range(50))
        assert len(transactions) <= 2, "the first append may have a transaction of its own"


async def test_a_failed_transaction_refuses_all_its_appends(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as log:
        await log.append([Record("t", b"before")])
        await limit_pages(log, 20)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(outcome(log, [Record("t", b"x" * 50_000), Record("new", b"y")]))
                for _ in range(10)
            ]
        refused = [task.result() for task in tasks if isinstance(task.result(), Exception)]
        assert refused
        assert all(isinstance(error, AppendRefused) for error in refused)
        assert len({id(error) for error in refused}) == len(refused)
        kept = 10 - len(refused)
        await limit_pages(log, 2**30)
        assert (await log.bounds([T0])) == {T0: Bounds(0, 1 + kept)}
        (placed,) = await log.append([Record("t", b"after")])
        assert placed.offset == 1 + kept
        assert [len(e.value or b"") for e in await read_all(log, T0)] == [6, *[50_000] * kept, 5]


async def test_a_refused_append_does_not_affect_others_in_its_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.create_topic("t", 1)
        batches = [
            [Record("t", b"a")],
            [Record("t", b"lost"), Record("t", b"lost", partition=7)],
            [Record("\ud800", b"lost")],
            [Record("t", b"b")],
        ]
        async with asyncio.TaskGroup() as group, write_lock(tmp_path):
            tasks = [group.create_task(outcome(log, batch)) for batch in batches]
            while log._waiting_bytes < 5 * 200:
                await asyncio.sleep(0)
        kinds = [type(task.result()) for task in tasks]
        assert kinds == [list, UnknownPartition, AppendRefused, list]
        assert [event.value for event in await read_all(log, T0)] == [b"a", b"b"]


async def outcome(log: SqliteLog, records: list[Record]) -> object:
    try:
        return await log.append(records)
    except Exception as error:
        return error


async def limit_pages(log: SqliteLog, pages: int) -> None:
    """Make SQLite return SQLITE_FULL, as on a full disk."""
    connection = log._writer._file.connection
    await asyncio.to_thread(connection.execute, f"PRAGMA max_page_count = {pages}")


# Limits


async def test_a_record_that_is_too_large_is_named_and_nothing_is_stored(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, record_bytes_max=10) as log:
        await log.append([Record("t", b"12345", b"12345")])
        with pytest.raises(AppendRefused, match="record 1 has 11 bytes; at most 10"):
            await log.append([Record("t", b"ok"), Record("t", b"123456", b"12345")])
        with pytest.raises(AppendRefused, match="record 0 has a timestamp out of range"):
            await log.append([Record("t", b"ok", timestamp_ms=-(2**63) - 1)])
        assert await log.bounds([T0]) == {T0: Bounds(0, 1)}


async def test_appends_wait_for_room_in_order_despite_cancellations(
    tmp_path: Path,
) -> None:
    async def append(*numbers: int) -> None:
        for number in numbers:
            await log.append([Record("t", b"%03d" % number + b"x" * 797)])

    async with opened(tmp_path, SqliteLimits(waiting_bytes_max=2_000)) as log:
        await log.create_topic("t", 1)
        async with asyncio.TaskGroup() as group, write_lock(tmp_path):
            group.create_task(append(0, 10))
            tasks = [group.create_task(append(number)) for number in range(1, 10)]
            for _ in range(50):
                await asyncio.sleep(0)
            assert 2_000 <= log._waiting_bytes <= 3_000
            tasks[4].cancel()
        values = [int((event.value or b"")[:3]) for event in await read_all(log, T0)]
        assert values == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
        assert log._waiting_bytes == 0


@pytest.mark.parametrize(("sync", "level"), [("full", 2), ("normal", 1)])
async def test_the_setting_decides_whether_commits_reach_the_disk(
    tmp_path: Path, sync: str, level: int
) -> None:
    async with opened(tmp_path, sync=sync) as log:
        connection = log._writer._file.connection
        (found,) = await asyncio.to_thread(
            lambda: connection.execute("PRAGMA synchronous").fetchone()
        )
        assert found == level


# Retention


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
            while log._waiting_bytes < 50 * 200:
                await asyncio.sleep(0)
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


# Sharing (two logs over one file lock it as two processes do)


async def test_a_follower_gets_events_of_another_log_exactly_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as log, opened(tmp_path) as other, asyncio.timeout(PATIENCE_S):
        await log.create_topic("t", 1)
        follower = log.follow({T0: 0})
        for number in range(10):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(follower.next())
                while not follower.changed._waiters:  # it has read the file and found nothing
                    await asyncio.sleep(0)
                await other.append([Record("t", b"%d" % number)])
            [slice_] = task.result()
            assert (slice_.partition, slice_.next) == (T0, number + 1)
            assert [event.value for event in slice_.events] == [b"%d" % number]
        await follower.aclose()


async def follow_on(follower: Follower, got: dict[Partition, list[Event]], count: int) -> None:
    """Add what the follower returns to `got`, until that holds `count` events."""
    while sum(map(len, got.values())) < count:
        for slice_ in await follower.next():
            got[slice_.partition] += slice_.events
            assert [event.offset for event in got[slice_.partition]] == [*range(slice_.next)]


STEPS = st.lists(
    st.tuples(st.sampled_from(["own", "other", "both"]), st.integers(1, 4), st.booleans()),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(STEPS, st.sampled_from([1, 1_000, 2**20]))
def test_a_follower_gets_its_own_and_other_processes_events_in_order(
    steps: list[tuple[str, int, bool]], bytes_max: int
) -> None:
    """This must not depend on reads between the appends, or on how many events it keeps."""

    async def check() -> None:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name)
            limits = SqliteLimits(appended_bytes_max=bytes_max)
            async with opened(path, limits) as own, opened(path) as other, asyncio.timeout(60):
                await own.create_topic("t", 2)
                follower = own.follow({T0: 0, T1: 0})
                got: dict[Partition, list[Event]] = {T0: [], T1: []}
                appended = 0
                for number, (who, count, reads) in enumerate(steps):
                    records = [Record("t", b"%d" % number, None, 5, n % 2) for n in range(count)]
                    writers = {"own": [own], "other": [other], "both": [own, other]}[who]
                    await asyncio.gather(*(writer.append(records) for writer in writers))
                    appended += count * len(writers)
                    if reads:
                        await follow_on(follower, got, appended)
                await follow_on(follower, got, appended)
                assert got == {p: await read_all(other, p) for p in (T0, T1)}
                await follower.aclose()

    asyncio.run(check())


async def test_a_follower_gets_events_of_its_process_without_a_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as log, asyncio.timeout(PATIENCE_S):
        await log.create_topic("t", 2)
        follower = log.follow({T0: 0, T1: 0})
        async with asyncio.TaskGroup() as group:
            task = group.create_task(follower.next())
            while not follower.changed._waiters:  # it has read the file and found nothing
                await asyncio.sleep(0)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Reader, "news", lambda *_: pytest.fail("read"))
                records = [Record("t", b'{"meta":{"n":1}}', partition=n % 2) for n in range(4)]
                await log.append(records)
                slices = await task
                await log.append(records[:1])
                slices += await follower.next()
        found = {p: [e for s in slices if s.partition == p for e in s.events] for p in (T0, T1)}
        assert found == {p: await read_all(log, p) for p in (T0, T1)}
        await follower.aclose()


async def test_a_moved_follower_reads_events_that_it_had_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as log, asyncio.timeout(PATIENCE_S):
        await log.create_topic("t", 1)
        follower = log.follow({T0: 0})
        await log.append([Record("t", b"%d" % n, partition=0) for n in range(4)])
        follower.assign({T0: 1})
        [slice_] = await follower.next()
        assert [event.offset for event in slice_.events] == [1, 2, 3]
        await follower.aclose()


def test_a_process_notices_transactions_of_others_and_not_its_own(tmp_path: Path) -> None:
    with ExitStack() as stack:
        files = [LogFile(tmp_path, SqliteSettings()) for _ in range(2)]
        for file in files:
            file.open()
            stack.callback(file.close)
            file.was_written()
        mine, others = files
        for file, is_new in ((others, True), (mine, False), (others, True)):
            with file.transaction():
                assert not mine.was_written(), "nothing has been committed"
            assert mine.was_written() is is_new
            assert not mine.was_written(), "only once"
        with suppress(ValueError), others.transaction():
            raise ValueError
        assert not mine.was_written(), "it was rolled back"


async def test_an_event_that_was_read_before_it_is_passed_on_is_not_looked_for_again(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as log, opened(tmp_path) as other, asyncio.timeout(PATIENCE_S):
        await log.append([Record("t", b"{}")])
        follower = other.follow({T0: 0})
        [found] = await follower.next()
        follower._must_look = False
        follower.changed.clear()
        follower.add(found.events)
        assert not follower._must_look
        assert not follower.changed.is_set()
        follower.add([Event(T0, 1, 1, b"{}")])
        assert [event.offset for event in (await follower.next())[0].events] == [1]


async def test_a_follower_gets_events_of_others_while_the_writing_thread_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a busy event loop, even a thread without work waits for the interpreter's lock."""
    busy, done = threading.Event(), threading.Event()

    def check() -> None:
        busy.set()
        done.wait(PATIENCE_S)

    async with opened(tmp_path) as log, opened(tmp_path) as other:
        await log.create_topic("t", 1)
        follower = other.follow({T0: 0})
        monkeypatch.setattr(other._writer, "_check", check)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.to_thread(busy.wait, PATIENCE_S)
                following = asyncio.create_task(follower.next())
                while follower._must_look:
                    await asyncio.sleep(0)
                await other.news({T0: 0})  # the thread that reads has finished what came before
                await log.append([Record("t", b"{}")])
                [found] = await following
        finally:
            done.set()
        assert [event.offset for event in found.events] == [0]


async def test_a_follower_gets_events_of_programs_that_leave_no_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as log, opened(tmp_path) as other:
        await log.create_topic("t", 1)
        async with asyncio.timeout(PATIENCE_S):
            follower = other.follow({T0: 0})
            monkeypatch.setattr(LogFile, "_mark_written", lambda _: None)
            await log.append([Record("t", b"{}")])
            [found] = await follower.next()
        assert [event.offset for event in found.events] == [0]


async def test_logs_that_share_a_file_agree_on_topics_and_offsets(tmp_path: Path) -> None:
    async with opened(tmp_path) as log, opened(tmp_path) as other:
        for number in range(10):
            for appender in (log, other, other):
                await appender.append([Record(f"t{number}", b"x"), Record("t", b"x")])
            await other.create_topic("t", number + 1)
        await log.append([Record("t", b"", partition=9)])
        partitions = (await log.partitions(["t"]))["t"]
        bounds = await other.bounds(partitions)
        assert sum(bound.end for bound in bounds.values()) == 31
        assert await log.bounds([Partition("t7", 0)]) == {Partition("t7", 0): Bounds(0, 3)}
        assert await log.bounds(partitions) == bounds


# Closing and following


async def test_closing_finishes_waiting_appends(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        requests = log._writer._requests
        async with asyncio.TaskGroup() as group, write_lock(tmp_path):
            tasks = [group.create_task(log.append([Record("t", b"x")]))]
            while not log._waiting_bytes or requests.qsize():
                await asyncio.sleep(0)
            tasks += [group.create_task(log.append([Record("t", b"x")])) for _ in range(19)]
            while requests.qsize() < 19:
                await asyncio.sleep(0)
            group.create_task(log.aclose())
            while requests.qsize() < 20:
                await asyncio.sleep(0)
        assert sorted(task.result()[0].offset for task in tasks) == list(range(20))


async def test_a_partition_moved_during_a_read_continues_at_its_new_offset(
    tmp_path: Path,
) -> None:
    gate = threading.Event()
    async with opened(tmp_path) as log, asyncio.timeout(PATIENCE_S):
        await log.append([Record("t", b"%d" % number) for number in range(10)])
        follower = log.follow({T0: 2})
        async with asyncio.TaskGroup() as group:
            group.create_task(log._live.run(lambda _: gate.wait(30)))
            task = group.create_task(follower.next())
            await asyncio.sleep(0)
            follower.assign({T0: 7})
            gate.set()
        [slice_] = task.result()
        assert ([event.offset for event in slice_.events], slice_.next) == ([7, 8, 9], 10)
        await follower.aclose()


async def test_a_partition_with_a_long_backlog_does_not_delay_the_others(
    tmp_path: Path,
) -> None:
    partitions = [Partition("t", number) for number in range(6)]
    async with opened(tmp_path, partitions_per_topic=6, sync="normal") as log:
        for number in range(6):
            await log.append([Record("t", b"x" * 500_000, partition=number)] * 5)
        follower = log.follow(dict.fromkeys(partitions, 0))
        first, second = await follower.next(), await follower.next()
        assert len(first) < 6, "the size of a result is bounded"
        assert {slice_.partition for slice_ in first + second} == set(partitions)
        await follower.aclose()


async def test_other_work_stands_aside_for_new_events_and_while_other_processes_wait(
    tmp_path: Path,
) -> None:
    entered = ended = 0

    @contextmanager
    def undisturbed() -> Generator[None]:
        nonlocal entered, ended
        entered += 1
        yield
        ended += 1

    log = SqliteLog(directory=tmp_path, settings=SqliteSettings(), undisturbed=undisturbed)
    await log.start()
    async with aclosing(log), opened(tmp_path) as other:
        await log.create_topic("t", 1)
        await log.append([Record("t", b"x", partition=0)])
        assert entered == 0
        await follow_on(log.follow({T0: 0}), {T0: []}, 1)
        assert entered > 0

        async def appends_aside() -> bool:
            await other.append([Record("t", b"x", partition=0)])
            await log.append([Record("t", b"x", partition=0)])  # its transaction notices the other
            before = entered
            await log.append([Record("t", b"x", partition=0)])
            return entered > before

        await until(appends_aside)
    assert ended == entered


# Life


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


async def test_closing_wakes_a_follower_that_waits(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.create_topic("t", 1)
        follower = log.follow({T0: 0})
        async with asyncio.TaskGroup() as group:
            task = group.create_task(waits(follower))
            await asyncio.sleep(0)
            await log.aclose()
        assert isinstance(task.result(), LogUnavailable)


async def waits(follower: SqliteFollower) -> Exception | None:
    try:
        await follower.next()
    except LogUnavailable as error:
        return error
    return None


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


async def test_every_append_releases_its_room(tmp_path: Path) -> None:
    limits = SqliteLimits(waiting_bytes_max=2_000)
    async with opened(tmp_path, limits) as log, asyncio.timeout(PATIENCE_S):
        for n in range(10):
            [placed] = await log.append([Record("t", b"x" * 800)])
            assert placed.offset == n


# Lines made at the time of appending


@settings(max_examples=25, deadline=None)
@given(st.lists(event_texts(), min_size=1, max_size=20))
def test_lines_made_from_spans_equal_encoded_lines(values: list[bytes]) -> None:
    async def check() -> None:
        with tempfile.TemporaryDirectory() as name:
            async with opened(Path(name), partitions_per_topic=1) as log:
                await log.append([Record("t", value, None, 5) for value in values])
                events = await read_all(log, T0)
        plain = [Event(T0, n, 5, value) for n, value in enumerate(values)]
        assert [event.value for event in events] == values
        assert [Frame(event).data for event in events] == [encode(event) for event in plain]

    asyncio.run(check())
