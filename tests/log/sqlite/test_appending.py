"""Appends to the embedded log: transactions that they share, limits, and lines made for readers."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.errors import AppendRefused, UnknownPartition
from eventstreams.log.sqlite.limits import SqliteLimits
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Bounds, Event, Record
from eventstreams.model.frame import Frame, encode
from tests.support.sqlite_files import T0, count_transactions, opened, read_all, write_lock
from tests.support.strategies import event_texts
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


async def test_waiting_appends_share_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as log:
        await log.create_topic("t", 1)
        transactions = count_transactions(monkeypatch)
        async with asyncio.TaskGroup() as group, write_lock(tmp_path):
            transactions.clear()
            tasks = [group.create_task(log.append([Record("t", b"x")])) for _ in range(50)]
            await until(lambda: log._waiting_bytes >= 50 * 200)
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
            await until(lambda: log._waiting_bytes >= 4 * 200)
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


async def test_a_record_that_is_too_large_is_named_and_nothing_is_stored(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, record_bytes_max=10) as log:
        await log.append([Record("t", b"12345", b"12345")])
        with pytest.raises(AppendRefused, match="record 1 has 11 bytes; the limit is 10"):
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


async def test_every_append_releases_its_room(tmp_path: Path) -> None:
    limits = SqliteLimits(waiting_bytes_max=2_000)
    async with opened(tmp_path, limits) as log, asyncio.timeout(PATIENCE_S):
        for n in range(10):
            [placed] = await log.append([Record("t", b"x" * 800)])
            assert placed.offset == n


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
