"""Damaged records are reported and never delivered. Later records are."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import LogError, RecordsDamaged
from eventstreams.log.base import Log
from eventstreams.log.sqlite.file import checksum
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Bounds, Event, Partition, Record
from tests.support.backends import Backend, Memory, Sqlite
from tests.support.kafka_tools import read_all
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio
over_both = pytest.mark.parametrize("kind", [Memory, Sqlite])
PLENTY = 1 << 20
INT64 = st.integers(-(2**63), 2**63 - 1)
BLOBS = st.none() | st.binary(max_size=40)
SPANS = st.none() | st.integers(0, 2**31 - 1)


async def filled(backend: Backend, log: Log, count: int) -> Partition:
    topic = await backend.topic(log, 1)
    await log.append([Record(topic, b"value-%d" % n, b"k", 1_000 + n) for n in range(count)])
    return Partition(topic, 0)


async def walk(log: Log, partition: Partition) -> tuple[list[Event], list[tuple[int, int]]]:
    """Return the readable events, and the (offset, next) of the damaged records."""
    bounds = (await log.bounds([partition]))[partition]
    events: list[Event] = []
    damaged: list[tuple[int, int]] = []
    offset = bounds.oldest
    while offset < bounds.end:
        try:
            found = await log.read(partition, offset, PLENTY)
        except RecordsDamaged as error:
            damaged.append((error.offset, error.next))
            offset = max(error.next, offset + 1)
        else:
            events += found.events
            offset = found.next
    return events, damaged


@over_both
async def test_readers_get_all_but_the_damaged_records(backend: Backend, log: Log) -> None:
    partition = await filled(backend, log, 10)
    whole = await read_all(log, partition)
    for offset in (0, 4, 5, 6, 9):
        await backend.damage(log, partition, offset)
    events, damaged = await walk(log, partition)
    assert events == [whole[n] for n in (1, 2, 3, 7, 8)]
    assert damaged == [(0, 1), (4, 7), (9, 10)]
    with pytest.raises(RecordsDamaged) as caught:
        await log.read(partition, 5, PLENTY)
    assert (caught.value.next, caught.value.bounds) == (7, Bounds(0, 10))


@over_both
async def test_a_follower_reports_damage_and_can_continue_after_it(
    backend: Backend, log: Log
) -> None:
    partition, other = await filled(backend, log, 4), await filled(backend, log, 2)
    await backend.damage(log, partition, 1)
    await backend.damage(log, partition, 2)
    follower = log.follow({partition: 0, other: 0})
    seen: dict[Partition, list[int]] = {partition: [], other: []}
    damaged: list[tuple[Partition, int, int]] = []
    async with asyncio.timeout(PATIENCE_S):
        while seen != {partition: [0, 3], other: [0, 1]}:
            try:
                slices = await follower.next()
            except RecordsDamaged as error:
                damaged.append((error.partition, error.offset, error.next))
                follower.assign({partition: error.next})
            else:
                for each in slices:
                    seen[each.partition] += [event.offset for event in each.events]
    await follower.aclose()
    assert damaged == [(partition, 1, 3)]


@given(INT64, INT64, BLOBS, BLOBS, SPANS, st.data())
def test_any_change_of_one_bit_changes_the_checksum(  # noqa: PLR0917
    id_: int,
    timestamp_ms: int,
    key: bytes | None,
    value: bytes | None,
    span: int | None,
    data: st.DataObject,
) -> None:
    before = checksum(id_, timestamp_ms, key, value, span)
    assert before in range(2**32)
    where = data.draw(st.sampled_from(["id", "timestamp", "key", "value", "span"]))
    bit = data.draw(st.integers(0, 62))
    if where == "id":
        id_ ^= 1 << bit
    elif where == "timestamp":
        timestamp_ms ^= 1 << bit
    elif where == "key":
        key = flipped(key, bit)
    elif where == "value":
        value = flipped(value, bit)
    else:
        span = 0 if span is None else data.draw(st.just(None) | st.just(span ^ 1 << bit % 31))
    assert checksum(id_, timestamp_ms, key, value, span) != before


def flipped(content: bytes | None, bit: int) -> bytes:
    """Return the content with one bit changed; missing content becomes empty."""
    if not content:
        return b"" if content is None else b"\0"
    at = bit % len(content)
    return content[:at] + bytes([content[at] ^ 1 << bit % 8]) + content[at + 1 :]


async def _after_a_flip(path: Path, at: int, bit: int) -> list[Event] | None:
    """Return the readable events after a change of one bit, or None if the file does not open."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
    log = SqliteLog(directory=path.parent, settings=SqliteSettings())
    try:
        await log.start()
        return (await walk(log, Partition("t", 0)))[0]
    except LogError:
        return None
    finally:
        await log.aclose()
        path.with_name("log.sqlite3-wal").unlink(missing_ok=True)
        path.with_name("log.sqlite3-shm").unlink(missing_ok=True)


async def test_no_flipped_bit_in_a_page_of_records_changes_what_is_read(tmp_path: Path) -> None:
    log = SqliteLog(directory=tmp_path, settings=SqliteSettings())
    await log.start()
    records = [Record("t", b"v" * 90 + b"%d" % n, b"key", 10**12 + n) for n in range(40)]
    records += [Record("t", b'{"meta":{"n":%d}}' % n, None, 10**12) for n in range(40)]
    await log.append([*records, Record("t", None), Record("t", b"", b"")])
    whole = await read_all(log, Partition("t", 0))
    await log.aclose()
    path = tmp_path / "log.sqlite3"
    good = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'events'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    used = [n for n in range((page - 1) * size, page * size) if good[n]]
    chance = random.Random(12)
    partly = 0
    for at in chance.sample(used, 60):
        path.write_bytes(good)
        found = await _after_a_flip(path, at, chance.randrange(8))
        for event in found or ():
            assert event == whole[event.offset]
        partly += found is not None
    assert partly > 30, "most flips leave most records readable"


_LAYOUT_1 = """
CREATE TABLE partitions (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, number INTEGER NOT NULL,
  oldest INTEGER NOT NULL, next INTEGER NOT NULL, bytes INTEGER NOT NULL, UNIQUE (topic, number));
CREATE TABLE events (id INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL,
  appended_ms INTEGER NOT NULL, key BLOB, value BLOB);
CREATE TABLE blocks (id INTEGER PRIMARY KEY, timestamp_max_ms INTEGER NOT NULL);
INSERT INTO partitions VALUES (1, 't', 0, 0, 2, 2);
INSERT INTO events VALUES (1 << 40, 5, 5, NULL, CAST('a' AS BLOB)),
  (1 << 40 | 1, 6, 6, CAST('k' AS BLOB), CAST('b' AS BLOB));
INSERT INTO blocks VALUES (1 << 32, 6);
PRAGMA application_id = 0x45765374;
PRAGMA user_version = 1;
"""


async def test_a_file_of_layout_1_opens_and_its_new_records_are_checked() -> None:
    with tempfile.TemporaryDirectory() as name:
        backend = Sqlite(Path(name))
        with closing(sqlite3.connect(Path(name) / "log.sqlite3")) as connection:
            connection.executescript(_LAYOUT_1)
        t0 = Partition("t", 0)
        old = [Event(t0, 0, 5, b"a"), Event(t0, 1, 6, b"b", b"k")]
        log = await backend.open()
        assert await walk(log, t0) == (old, [])
        await log.append([Record("t", b"c", None, 7), Record("t", b"d", b"k", 8)])
        await log.aclose()
        log = await backend.open()
        await backend.damage(log, t0, 3)
        assert await walk(log, t0) == ([*old, Event(t0, 2, 7, b"c")], [(3, 4)])
        await backend.damage(log, t0, 0)
        events, damaged = await walk(log, t0)
        assert (events[0].value, damaged) == (b"\x01", [(3, 4)]), "old records are unchecked"
        await log.aclose()


async def test_a_file_of_layout_3_opens_and_finds_spans_for_new_records() -> None:
    with tempfile.TemporaryDirectory() as name:
        backend = Sqlite(Path(name))
        log = await backend.open()
        value = b'{"meta":{"id":1}}'
        await log.append([Record("t", value, None, 5)])
        await log.aclose()
        with closing(sqlite3.connect(Path(name) / "log.sqlite3")) as connection, connection:
            connection.execute("ALTER TABLE events DROP COLUMN place_span")
            old = checksum(1 << 40, 5, None, value, None)
            connection.execute("UPDATE events SET checksum = ?", (old,))
            connection.execute("PRAGMA user_version = 3")
        log = await backend.open()
        await log.append([Record("t", value, None, 6)])
        events, damaged = await walk(log, Partition("t", 0))
        await log.aclose()
        assert [event.value for event in events] == [value, value]
        assert [event.place_span is None for event in events] == [True, False]
        assert not damaged
