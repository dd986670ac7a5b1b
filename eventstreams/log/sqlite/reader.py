"""Reads the embedded log: the queries, and the threads that run them.

Two statements with one row each return many records. With a row for each record, the sqlite3 module
would release the interpreter's lock at every row, and beside a busy event loop get it back only
milliseconds later (measured: 20,000 records/s this way, 1,000 by rows).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from eventstreams.errors import (
    LogError,
    OffsetOutOfRange,
    RecordsDamaged,
    UnknownPartition,
    UnknownTopic,
)
from eventstreams.log.base import Slice
from eventstreams.log.sqlite.file import BLOCK_BITS, OFFSET_BITS, checksum, translated
from eventstreams.model.event import Bounds, Event, EventRun, Partition

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_Stored = tuple[int, int | None, int | None, int | None, int | None]
"""A record before its bytes are read: (timestamp in ms, checksum, place span, bytes of the value,
bytes of the key). The checksum is None for a record of layout 1. Decoding named tuples would take
three times as long."""

_REPORTS_MAX = 1000
_OFFSET_MAX = 2**OFFSET_BITS - 1
_TIME_MAX_MS = 2**63 - 1
_ROWS_MIN = 64
_ROWS_MAX = 4096  # in one slice
_NEWS_BYTES_MAX = 4 * 2**20  # in one answer to a follower
_NEWS_PARTITION_BYTES_MAX = 2**20

_HEADS = "SELECT json_group_array(json_array(topic, number, id, oldest, next)) FROM partitions"
_SIZES = f"""
SELECT p.oldest, p.next, (
  SELECT json_group_array(json_array(timestamp_ms, checksum, place_span, value_bytes, key_bytes))
  FROM (
    SELECT timestamp_ms, checksum, place_span,
      length(value) AS value_bytes, length(key) AS key_bytes
    FROM events
    WHERE id >= (p.id << {OFFSET_BITS} | :offset) AND id < (p.id << {OFFSET_BITS} | p.next)
    ORDER BY id LIMIT :rows))
FROM partitions p WHERE p.id = :id
"""  # noqa: S608 - of our own names
_BYTES = """
SELECT CAST(group_concat(value, '') AS BLOB), CAST(group_concat(key, '') AS BLOB)
FROM (SELECT value, key FROM events WHERE id >= ? AND id < ? ORDER BY id)
"""
_IDS = """
SELECT json_group_array(id) FROM
(SELECT id FROM events WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)
"""
# One statement, so that retention can't come between the blocks and their records.
_FIRST_AT = f"""
SELECT e.id FROM blocks b CROSS JOIN events e
ON e.id >= b.id << {BLOCK_BITS} AND e.id < (b.id + 1) << {BLOCK_BITS}
WHERE b.id >= :id << {OFFSET_BITS - BLOCK_BITS} AND b.id < (:id + 1) << {OFFSET_BITS - BLOCK_BITS}
AND b.timestamp_max_ms >= :time AND e.timestamp_ms >= :time ORDER BY b.id, e.id LIMIT 1
"""  # noqa: S608 - of our own names


class _Found(NamedTuple):
    """The records before the first damaged one, or else the number of damaged ones at the start.

    Both are empty if retention has dropped records since their sizes were read.
    """

    events: Sequence[Event]
    damaged: int


class Head(NamedTuple):
    topic: str
    number: int
    id: int
    oldest: int
    next: int


_heads = msgspec.json.Decoder(list[Head])
_ids = msgspec.json.Decoder(list[int])
_sizes = msgspec.json.Decoder(list[_Stored])


class Reader:
    """Runs the queries over a connection of its own. Use it from one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self.path = path
        self._ids: dict[Partition, int] = {}
        self._record_bytes = 1024.0
        self._reported: set[tuple[Partition, int]] = set()

    def partitions(self, topics: Collection[str]) -> dict[str, tuple[Partition, ...]]:
        numbers: dict[str, list[int]] = {}
        for head in self.heads().values():
            if head.topic in topics:
                numbers.setdefault(head.topic, []).append(head.number)
        return {
            topic: tuple(Partition(topic, number) for number in sorted(numbers[topic]))
            for topic in numbers
        }

    def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        heads = self.heads()
        found = {p: _known(heads, p) for p in partitions}
        return {p: Bounds(head.oldest, head.next) for p, head in found.items()}

    def offset_at(self, times: Mapping[Partition, int]) -> dict[Partition, int | None]:
        heads = self.heads()
        ids = {p: _known(heads, p).id for p in times}
        return {p: self._first_at(ids[p], time_ms) for p, time_ms in times.items()}

    def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        # Read a few more than are likely to fit, because sizes vary, and drop those that do not.
        rows = int(1.125 * max_bytes / self._record_bytes) + 1
        rows = min(max(rows, _ROWS_MIN), _ROWS_MAX)
        bounds = None
        for rows_max in (rows, 1):  # the first record alone if one of them is damaged
            try:
                bounds, stored = self._stored(partition, offset, rows_max)
                if not stored:
                    return Slice(partition, (), offset)
                found = self._events(partition, offset, _up_to(stored, max_bytes))
            except (msgspec.ValidationError, sqlite3.OperationalError) as error:
                if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR:
                    raise
                continue  # a column has a type that this program does not write
            if found.events:
                return Slice(partition, found.events, offset + len(found.events))
            if found.damaged:
                raise self._damaged(partition, offset, offset + found.damaged, bounds)
        bounds = bounds or self.bounds([partition])[partition]
        raise self._damaged(partition, offset, offset + 1, bounds)

    def _stored(self, partition: Partition, offset: int, rows: int) -> tuple[Bounds, list[_Stored]]:
        """Return the records stored from `offset` on; none at the end.

        Raises OffsetOutOfRange, or RecordsDamaged if the first record is missing.
        """
        id_ = self._id(partition)
        within = min(max(offset, 0), _OFFSET_MAX)
        asked = {"id": id_, "offset": within, "rows": rows}
        oldest, end, text = self.connection.execute(_SIZES, asked).fetchone()
        bounds = Bounds(oldest, end)
        if not oldest <= offset <= end:
            raise OffsetOutOfRange(partition, offset, bounds)
        stored = _sizes.decode(text) if offset < end else []
        if len(stored) == min(rows, end - offset):
            return bounds, stored
        row = id_ << OFFSET_BITS | offset
        (text,) = self.connection.execute(_IDS, (row, row + end - offset, rows)).fetchone()
        ids = _ids.decode(text)
        if not ids or ids[0] != row:
            following = offset + ids[0] - row if ids else end
            raise self._damaged(partition, offset, following, bounds)
        together = next((n for n, id_ in enumerate(ids) if id_ != row + n), len(ids))
        return bounds, stored[:together]

    def news(self, nexts: Mapping[Partition, int]) -> dict[Partition, Slice | LogError]:
        """Return the slices at these offsets, in their order, or the error if one is unreadable."""
        heads = self.heads()
        found: dict[Partition, Slice | LogError] = {}
        room = _NEWS_BYTES_MAX
        for partition, offset in nexts.items():
            try:
                head = _known(heads, partition)
                if offset != head.next and room > 0:
                    slice_ = self.read(partition, offset, min(room, _NEWS_PARTITION_BYTES_MAX))
                    if events := list(slice_.events):
                        found[partition] = slice_._replace(events=events)
                        room -= sum(len(event.value or b"") for event in events)
            except (UnknownTopic, UnknownPartition, OffsetOutOfRange, RecordsDamaged) as error:
                found[partition] = error
        return found

    def heads(self) -> dict[Partition, Head]:
        (text,) = self.connection.execute(_HEADS).fetchone()
        return {Partition(head.topic, head.number): head for head in _heads.decode(text)}

    def _id(self, partition: Partition) -> int:
        if partition not in self._ids:
            heads = self.heads()
            _known(heads, partition)
            self._ids = {p: head.id for p, head in heads.items()}
        return self._ids[partition]

    def _first_at(self, id_: int, time_ms: int) -> int | None:
        if time_ms > _TIME_MAX_MS:
            return None
        asked = {"id": id_, "time": max(time_ms, -_TIME_MAX_MS - 1)}
        row = self.connection.execute(_FIRST_AT, asked).fetchone()
        return row[0] & _OFFSET_MAX if row else None

    def _events(self, partition: Partition, offset: int, stored: list[_Stored]) -> _Found:
        row = self._id(partition) << OFFSET_BITS | offset
        values, keys = self.connection.execute(_BYTES, (row, row + len(stored))).fetchone()
        values, keys = values or b"", keys or b""
        self._record_bytes = 0.75 * self._record_bytes + 0.25 * (len(values) / len(stored) + 1)
        run = _as_run(partition, offset, row, stored, values)
        if run is not None:
            return _Found(run, 0)
        value_at = key_at = 0
        events: list[Event] = []
        damaged: list[int] = []
        for number, (timestamp_ms, expected, span, value_bytes, key_bytes) in enumerate(stored):
            value = key = None
            if value_bytes is not None:
                value = values[value_at : value_at + value_bytes]
                value_at += value_bytes
            if key_bytes is not None:
                key = keys[key_at : key_at + key_bytes]
                key_at += key_bytes
            if expected is not None and expected != checksum(
                row + number, timestamp_ms, key, value, span
            ):
                damaged.append(number)
            checked_span = None if expected is None else span
            events.append(Event(partition, offset + number, timestamp_ms, value, key, checked_span))
        if (value_at, key_at) != (len(values), len(keys)):
            return _Found([], 0)
        if not damaged or damaged[0] > 0:
            return _Found(events[: damaged[0]] if damaged else events, 0)
        return _Found([], next((n for n, at in enumerate(damaged) if n != at), len(damaged)))

    def _damaged(
        self, partition: Partition, offset: int, following: int, bounds: Bounds
    ) -> RecordsDamaged:
        """Return the error; log each place once, up to a limit."""
        error = RecordsDamaged(partition, offset, following, bounds)
        place = partition, offset
        if place not in self._reported and len(self._reported) < _REPORTS_MAX:
            self._reported.add(place)
            _logger.error("%s: %s; readers receive a gap", self.path, error)
        return error


class ReaderPool:
    """Threads that run queries off the event loop. Each has its own Reader."""

    def __init__(self, name: str, connections: list[sqlite3.Connection], path: Path) -> None:
        self._work: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(
                target=self._run, args=(Reader(connection, path),), name=name, daemon=True
            )
            for connection in connections
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the queries in progress and in the queue, then end the threads."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    async def run(self, work: Callable[[Reader], T]) -> T:
        """Run `work` in a thread. Raises its errors; those of SQLite are translated."""
        task = _Task(work)
        self._work.put(task)
        answer: T = await task.future
        return answer

    def _run(self, reader: Reader) -> None:
        while (task := self._work.get()) is not None:
            if not task.future.cancelled():
                task.run(reader)


class _Task:
    def __init__(self, work: Callable[[Reader], Any]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def run(self, reader: Reader) -> None:
        answer: Any = None
        fault: Exception | None = None
        try:
            answer = self._work(reader)
        except sqlite3.Error as error:
            fault = translated(error, reader.path, appending=False) or error
        except Exception as error:
            fault = error
        with suppress(RuntimeError):  # the loop is closed, so nothing waits for the result
            self._loop.call_soon_threadsafe(self._set, answer, fault)

    def _set(self, answer: Any, fault: Exception | None) -> None:
        if self.future.done():
            return
        if fault is not None:
            self.future.set_exception(fault)
        else:
            self.future.set_result(answer)


def _known(heads: Mapping[Partition, Head], partition: Partition) -> Head:
    head = heads.get(partition)
    if head is not None:
        return head
    if any(head.topic == partition.topic for head in heads.values()):
        raise UnknownPartition(partition)
    raise UnknownTopic(partition.topic)


def _as_run(
    partition: Partition, offset: int, row: int, stored: list[_Stored], values: bytes
) -> EventRun | None:
    """Return the records as a run if they can form one and none is damaged.

    `row` is the id of the first one, and `values` holds all values one after the other. A record
    with a key is detected by its checksum, which differs from the one computed without a key.
    """
    times, checksums, spans, sizes, _ = zip(*stored, strict=True)
    if None in checksums or None in spans or None in sizes:
        return None
    ends = list(itertools.accumulate(sizes))
    if ends[-1] != len(values):
        return None
    each = [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    found = map(checksum, itertools.count(row), times, itertools.repeat(None), each, spans)
    return EventRun(partition, offset, times, each, spans) if tuple(found) == checksums else None


def _up_to(stored: list[_Stored], max_bytes: int) -> list[_Stored]:
    """Return the first records, until their values reach `max_bytes`; at least one."""
    taken = 0
    for count, (_, _, _, value_bytes, _) in enumerate(stored, 1):
        taken += value_bytes or 0
        if taken >= max_bytes:
            return stored[:count]
    return stored
