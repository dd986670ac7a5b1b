"""Clients of a log that was restored from a backup get a gap in place of the lost events."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from eventstreams.config.settings import SqliteSettings
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.log.sqlite.restore import restore
from eventstreams.model.event import Partition, Record
from tests.support.fanout import Client, joined, serving

pytestmark = pytest.mark.anyio

SETTINGS = SqliteSettings(sync="normal", retention_age_s=None)
KEPT, LOST, NEW = 4, 3, 9
FIRST_MS = 1_700_000_000_000


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(directory=folder, settings=SETTINGS)
    await log.start()
    try:
        yield log
    finally:
        await log.aclose()


def records(name: str, count: int, first_ms: int | None) -> list[Record]:
    return [
        Record("t", b'{"name":"%s %d"}' % (name.encode(), n), None, first_ms and first_ms + n, 0)
        for n in range(count)
    ]


async def restored(folder: Path) -> Path:
    """Return the folder of a log that was restored without the events after its backup."""
    before, after, copy = folder / "before", folder / "after", folder / "backup.sqlite3"
    async with opened(before) as log:
        await log.append(records("kept", KEPT, FIRST_MS))
        with (
            closing(sqlite3.connect(before / "log.sqlite3")) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        await log.append(records("lost", LOST, FIRST_MS + KEPT))
    assert await asyncio.to_thread(restore, copy, after, SETTINGS) == [Partition("t", 0)]
    return after


def id_after(count: int) -> str:
    """Return the id that a client has which read so many events of the log before."""
    place = {"topic": "t", "partition": 0, "offset": count, "timestamp": FIRST_MS + count - 1}
    return json.dumps([place])


def story(client: Client) -> list[str]:
    documents = [(frame.event, json.loads(frame.data)) for frame in client.socket.frames]
    return [
        document["name"] if event == "message" else f"{event}: {document['partitions'][0]['cause']}"
        for event, document in documents
    ]


@pytest.mark.parametrize("new", [0, NEW])
async def test_every_client_that_resumes_gets_one_gap(tmp_path: Path, new: int) -> None:
    folder = await restored(tmp_path)
    async with opened(folder) as log:
        await log.append(records("new", new, None))
        async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
            followed = [f"new {n}" for n in range(new)]
            for read in range(1, KEPT + LOST + 1):
                client = Client(gateway, "t", last_event_id=id_after(read))
                tasks.create_task(client.serve())
                kept = [f"kept {n}" for n in range(read, KEPT)]
                gap = (await client.frames(len(kept) + 1 + new))[len(kept)]
                assert story(client) == [*kept, "gap: restored", *followed]
                back = Client(gateway, "t", last_event_id=gap.id)
                tasks.create_task(back.serve())
                await joined(gateway, back)
                assert story(back) == followed
                for each in (client, back):
                    each.socket.hang_up()
                    await each.ended()
        assert gateway.count("gaps_total", cause="restored") == KEPT + LOST


async def test_a_restored_log_is_complete_and_its_backup_unchanged(tmp_path: Path) -> None:
    folder = await restored(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["log.sqlite3"]
    async with opened(folder) as log:
        found = await log.read(Partition("t", 0), 0, 1 << 20)
    values = [json.loads(event.value or b"").get("name") for event in found.events]
    assert values == [*(f"kept {n}" for n in range(KEPT)), None]
    again = tmp_path / "again"
    await asyncio.to_thread(restore, tmp_path / "backup.sqlite3", again, SETTINGS)
    async with opened(again) as log:
        assert (await log.bounds([Partition("t", 0)]))[Partition("t", 0)] == (0, KEPT + 1)


async def test_the_files_of_a_killed_gateway_are_a_backup(tmp_path: Path) -> None:
    """Copied without a checkpoint, most of them is in the write-ahead log."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    copy.mkdir()
    async with opened(source) as log:
        await log.append(records("kept", KEPT, FIRST_MS))
        for suffix in ("", "-wal"):
            shutil.copyfile(source / f"log.sqlite3{suffix}", copy / f"log.sqlite3{suffix}")
    await asyncio.to_thread(restore, copy / "log.sqlite3", tmp_path / "after", SETTINGS)
    async with opened(tmp_path / "after") as log:
        assert (await log.bounds([Partition("t", 0)]))[Partition("t", 0)].end == KEPT + 1
