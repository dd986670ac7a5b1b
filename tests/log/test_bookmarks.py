"""Checks each sentence of the protocol of bookmarks, over every backend."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from eventstreams.errors import AppendRefused, BookmarkLost, UnknownPartition
from eventstreams.log.base import Log
from eventstreams.model.event import Partition, Record
from tests.support.backends import Backend, Sqlite, over_all_backends

pytestmark = pytest.mark.anyio

PLENTY = 1 << 20


def records(topic: str, *values: str, number: int = 0) -> list[Record]:
    return [Record(topic, value.encode(), partition=number) for value in values]


async def state_of(log: Log, name: str) -> bytes | None:
    bookmark = await log.claim(name)
    await bookmark.aclose()
    return bookmark.state


async def values(log: Log, topic: str, number: int = 0) -> list[bytes | None]:
    partition = Partition(topic, number)
    offset, found = 0, []
    end = (await log.bounds([partition]))[partition].end
    while offset < end:
        _, events, offset, _ = await log.read(partition, offset, PLENTY)
        found += [event.value for event in events]
    return found


@over_all_backends
async def test_records_and_state_are_written_together_and_kept(kind: type[Backend]) -> None:
    async with kind.place() as backend:
        log = await backend.open()
        topic, name = await backend.topic(log, 2), backend.topic_name()
        bookmark = await log.claim(name)
        assert bookmark.state is None
        await bookmark.append([*records(topic, "a"), *records(topic, "b", number=1)], b"1")
        await bookmark.append([], b"2")
        for n in range(3, 40):
            await bookmark.append(records(topic, str(n)), b"%d" % n)
        assert bookmark.state == b"39"
        expected = [b"a", *(b"%d" % n for n in range(3, 40))]
        assert (await values(log, topic), await values(log, topic, 1)) == (expected, [b"b"])
        await bookmark.aclose()
        if backend.durable:
            await log.aclose()
            log = await backend.open()
        again = await log.claim(name)
        assert again.state == b"39"
        assert await state_of(log, backend.topic_name()) is None
        await again.append(records(topic, "z"), b"40")
        assert await values(log, topic) == [*expected, b"z"]
        await again.aclose()
        await log.aclose()


@over_all_backends
async def test_a_previous_owner_can_no_longer_append(kind: type[Backend]) -> None:
    async with kind.place() as backend:
        log = await backend.open()
        topic, name = await backend.topic(log, 1), backend.topic_name()
        first = await log.claim(name)
        await first.append(records(topic, "a"), b"1")
        second = await log.claim(name)
        assert second.state == b"1"
        with pytest.raises(BookmarkLost):
            await first.append(records(topic, "b"), b"2")
        await second.append(records(topic, "c"), b"3")
        assert await values(log, topic) == [b"a", b"c"]
        assert await state_of(log, name) == b"3"
        await first.aclose()
        await second.aclose()
        await log.aclose()


async def test_a_refused_append_changes_neither_records_nor_state() -> None:
    async with Sqlite.place() as backend:
        log = await backend.open()
        bookmark = await log.claim("r")
        await bookmark.append(records("t", "a"), b"1")
        with pytest.raises(UnknownPartition):
            await bookmark.append([*records("t", "b"), *records("t", "c", number=9)], b"2")
        with pytest.raises(AppendRefused):
            await bookmark.append([Record("t", b"x" * (17 << 20), partition=0)], b"3")
        assert bookmark.state == b"1"
        assert await state_of(log, "r") == b"1"
        assert await values(log, "t") == [b"a"]
        await log.aclose()


_CHILD = """
import asyncio, sys
from pathlib import Path
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Record
from eventstreams.config.settings import SqliteSettings

async def main():
    log = SqliteLog(directory=Path(sys.argv[1]), settings=SqliteSettings())
    await log.start()
    bookmark = await log.claim("r")
    n = int(bookmark.state or b"0")
    while True:
        two = [Record(t, b"%d" % n, partition=0) for t in ("t", "u")]
        n += 1
        await bookmark.append(two, b"%d" % n)
        print(n, flush=True)

asyncio.run(main())
"""


async def test_records_and_state_agree_after_kill_9() -> None:
    async with Sqlite.place() as backend:
        assert isinstance(backend, Sqlite)
        for kill in range(1, 6):
            child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(backend.directory)], stdout=subprocess.PIPE
            )
            assert child.stdout is not None
            for _ in range(7 * kill):
                assert child.stdout.readline()
            os.kill(child.pid, signal.SIGKILL)
            child.stdout.close()
            child.wait()
            log = await backend.open()
            state = int(await state_of(log, "r") or b"0")
            assert state >= 7 * kill
            expected = [b"%d" % n for n in range(state)]
            assert await values(log, "t") == await values(log, "u") == expected
            await log.aclose()
