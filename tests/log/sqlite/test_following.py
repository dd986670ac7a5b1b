"""Followers of the embedded log, and logs that share a file.

Two logs over one file lock it as two processes do.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Generator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import LogUnavailable
from eventstreams.log.base import Follower
from eventstreams.log.sqlite.file import LogFile
from eventstreams.log.sqlite.limits import SqliteLimits
from eventstreams.log.sqlite.log import SqliteFollower, SqliteLog
from eventstreams.log.sqlite.reader import Reader
from eventstreams.model.event import Bounds, Event, Partition, Record
from tests.support.sqlite_files import T0, T1, opened, read_all
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


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


async def test_other_work_is_held_back_for_new_events_and_while_other_processes_wait(
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

        async def appends_held_back() -> bool:
            await other.append([Record("t", b"x", partition=0)])
            await log.append([Record("t", b"x", partition=0)])  # its transaction notices the other
            before = entered
            await log.append([Record("t", b"x", partition=0)])
            return entered > before

        await until(appends_held_back)
    assert ended == entered
