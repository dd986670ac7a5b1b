"""Appends records to the embedded log and drops old ones, within transactions.

`Transaction` remembers every partition's ends from one transaction to the next. If another process
has written, or a transaction has failed, its owner must call `reload`.

One statement inserts many records, or returns many sizes: at every statement and row, the sqlite3
module releases the interpreter's lock, and a busy event loop returns it only milliseconds later.
"""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Iterable, Sequence

import msgspec

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import AppendRefused, BookmarkLost
from eventstreams.log.embedded import Partitioner, entry_of
from eventstreams.log.sqlite.file import BLOCK_BITS, OFFSET_BITS, checksum
from eventstreams.log.sqlite.limits import SqliteLimits
from eventstreams.model.event import Event, Partition, Placed, Record
from eventstreams.model.frame import encode
from eventstreams.model.place import SPAN_VALUE_BYTES_MAX, find_span

_ROWS_MAX = 500  # in one statement; SQLite allows 32,766 parameters

_OLDEST_FIRST = f"""
SELECT p.topic, p.number FROM partitions p
JOIN events e ON e.id = (p.id << {OFFSET_BITS} | p.oldest) ORDER BY e.appended_ms LIMIT 1
"""  # noqa: S608 - of our own names
_AGES_AND_SIZES = """
SELECT json_group_array(json_array(appended_ms, ifnull(length(value), 0))) FROM
(SELECT appended_ms, value FROM events WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)
"""
_NEVER_MS = -(2**63) - 1
"""A time before every time that SQLite can store."""
_ages_and_sizes = msgspec.json.Decoder(list[tuple[int, int]])


class _Head:
    """The ends of one partition, and the size of its values in bytes."""

    __slots__ = ("bytes", "id", "next", "oldest", "partition")

    def __init__(self, id_: int, partition: Partition, oldest: int, next_: int, size: int) -> None:
        self.id = id_
        self.partition = partition
        self.oldest = oldest
        self.next = next_
        self.bytes = size

    def key(self, offset: int) -> int:
        return self.id << OFFSET_BITS | offset

    def row(self) -> tuple[object, ...]:
        return self.id, *self.partition, self.oldest, self.next, self.bytes


class Transaction:
    """Changes the file within a transaction that its owner begins and commits."""

    def __init__(
        self, connection: sqlite3.Connection, settings: SqliteSettings, limits: SqliteLimits
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._limits = limits
        self._topics: dict[str, list[_Head]] = {}
        self._id_max = 0
        self._partitioner = Partitioner()
        self._rows: list[tuple[object, ...]] = []
        self._changed: dict[int, _Head] = {}
        self._blocks: dict[int, int] = {}
        self._appended: list[Event] = []

    @property
    def partitions(self) -> list[Partition]:
        """All partitions of the log, once it has been read."""
        return [head.partition for heads in self._topics.values() for head in heads]

    def reload(self) -> None:
        """Forget what has not been written, and read the partitions from the file."""
        self._rows, self._changed, self._blocks, self._appended = [], {}, {}, []
        self._topics, self._id_max = {}, 0
        sql = "SELECT id, topic, number, oldest, next, bytes FROM partitions ORDER BY number"
        for id_, topic, number, oldest, next_, size in self._connection.execute(sql):
            head = _Head(id_, Partition(topic, number), oldest, next_, size)
            self._topics.setdefault(topic, []).append(head)
            self._id_max = max(self._id_max, id_)

    def append(self, records: Sequence[Record]) -> list[Placed]:
        """Append the records. Raises UnknownPartition, AppendRefused; then none is appended."""
        heads = [self._choose(record) for record in records]
        now_ms = int(time.time() * 1000)
        return [self._place(*pair, now_ms) for pair in zip(heads, records, strict=True)]

    def claim(self, name: str) -> tuple[int, bytes | None]:
        """Make a new owner of the bookmark; return its number and the state."""
        insert = (
            "INSERT INTO bookmarks VALUES (?, 1, NULL)"
            " ON CONFLICT (name) DO UPDATE SET owner = owner + 1 RETURNING owner, state"
        )
        owner, state = self._connection.execute(insert, (name,)).fetchone()
        return owner, state

    def append_with(
        self, name: str, owner: int, records: Sequence[Record], state: bytes
    ) -> list[Placed]:
        """Append the records and replace the state of the bookmark.

        Raises BookmarkLost, and what `append` raises; then nothing of this call is kept.
        """
        found = self._connection.execute("SELECT owner FROM bookmarks WHERE name = ?", (name,))
        if found.fetchone() != (owner,):
            raise BookmarkLost(f"another owner has claimed the bookmark {name}")
        placed = self.append(records)
        self._connection.execute("UPDATE bookmarks SET state = ? WHERE name = ?", (state, name))
        return placed

    def grow(self, topic: str, partitions: int) -> None:
        """Create the topic or add partitions. Raises AppendRefused if the name is invalid."""
        try:
            topic.encode()
        except UnicodeEncodeError as error:
            raise AppendRefused(f"invalid topic name: {topic!r}") from error
        heads = self._topics.setdefault(topic, [])
        while len(heads) < partitions:
            self._id_max += 1
            head = _Head(self._id_max, Partition(topic, len(heads)), 0, 0, 0)
            heads.append(head)
            self._changed[head.id] = head

    def drop(self, partition: Partition, offset: int) -> bool:
        """Drop records below `offset`, a limited number; return whether more remain to be dropped.

        Raises UnknownTopic, UnknownPartition.
        """
        head = entry_of(partition, self._topics)
        below = min(offset, head.next)
        _, sizes = self._oldest(head)
        self._drop(head, min(below, head.oldest + len(sizes)))
        return head.oldest < below

    def retain(self, now_ms: int) -> bool:
        """Drop expired records, a limited number; return whether there may be more."""
        self.flush()
        oldest = self._connection.execute(_OLDEST_FIRST).fetchone()
        if oldest is None:
            return False
        head = entry_of(Partition(*oldest), self._topics)
        age_s, bytes_max = self._settings.retention_age_s, self._settings.retention_bytes
        expired_ms = now_ms - age_s * 1000 if age_s is not None else float("-inf")
        total = sum(head.bytes for heads in self._topics.values() for head in heads)
        excess = total - bytes_max if bytes_max is not None else 0
        offset = head.oldest
        for appended_ms, size in zip(*self._oldest(head), strict=True):
            if appended_ms >= expired_ms and excess <= 0:
                break
            excess -= size
            offset += 1
        more = offset > head.oldest
        self._drop(head, offset)
        return more

    def take_appended(self) -> list[Event]:
        """Return the events appended since the last call, in order."""
        appended, self._appended = self._appended, []
        return appended

    def flush(self) -> None:
        """Write the rows of placed records. Must be called before the transaction is committed."""
        self._insert(
            "INSERT INTO events"
            " (id, timestamp_ms, appended_ms, checksum, place_span, key, value) VALUES ",
            7,
            self._rows,
        )
        self._insert(
            "INSERT INTO partitions VALUES ",
            6,
            [head.row() for head in self._changed.values()],
            " ON CONFLICT (id) DO UPDATE SET"
            " oldest = excluded.oldest, next = excluded.next, bytes = excluded.bytes",
        )
        self._insert(
            "INSERT INTO blocks VALUES ",
            2,
            list(self._blocks.items()),
            " ON CONFLICT (id) DO UPDATE SET"
            " timestamp_max_ms = max(timestamp_max_ms, excluded.timestamp_max_ms)",
        )
        self._rows, self._changed, self._blocks = [], {}, {}

    def _choose(self, record: Record) -> _Head:
        heads = self._topics.get(record.topic)
        if heads is None:
            self.grow(record.topic, self._settings.partitions_per_topic)
            heads = self._topics[record.topic]
        return heads[self._partitioner.number(record, len(heads))]

    def _place(self, head: _Head, record: Record, now_ms: int) -> Placed:
        partition, offset = head.partition, head.next
        value, key, span = record.value, record.key, record.place_span
        stamp = now_ms if record.timestamp_ms is None else record.timestamp_ms
        if span is msgspec.UNSET:
            span = _span(Event(partition, offset, stamp, value, key))
        row_id = head.key(offset)
        check = checksum(row_id, stamp, key, value, span)
        self._appended.append(Event(partition, offset, stamp, value, key, span))
        self._rows.append((row_id, stamp, now_ms, check, span, key, value))
        block = row_id >> BLOCK_BITS
        if stamp > self._blocks.get(block, _NEVER_MS):
            self._blocks[block] = stamp
        head.next = offset + 1
        if value is not None:
            head.bytes += len(value)
        self._changed[head.id] = head
        return Placed(partition, offset)

    def _oldest(self, head: _Head) -> tuple[list[int], list[int]]:
        """Return the times of appending and the sizes of as many records as one step may drop."""
        self.flush()
        span = (head.key(head.oldest), head.key(head.next), self._limits.drop_rows_max)
        (text,) = self._connection.execute(_AGES_AND_SIZES, span).fetchone()
        ages: list[int] = []
        sizes: list[int] = []
        room = self._limits.drop_bytes_max
        for appended_ms, size in _ages_and_sizes.decode(text):
            if room <= 0:
                break
            room -= size
            ages.append(appended_ms)
            sizes.append(size)
        return ages, sizes

    def _drop(self, head: _Head, offset: int) -> None:
        if offset <= head.oldest:
            return
        span = (head.key(head.oldest), head.key(offset))
        gone = "SELECT ifnull(sum(length(value)), 0) FROM events WHERE id >= ? AND id < ?"
        head.bytes -= self._connection.execute(gone, span).fetchone()[0]
        self._connection.execute("DELETE FROM events WHERE id >= ? AND id < ?", span)
        self._connection.execute(
            "DELETE FROM blocks WHERE id >= ? AND id < ?", [key >> BLOCK_BITS for key in span]
        )
        head.oldest = offset
        self._changed[head.id] = head

    def _insert(
        self, insert: str, columns: int, rows: Sequence[Iterable[object]], then: str = ""
    ) -> None:
        for first in range(0, len(rows), _ROWS_MAX):
            chunk = rows[first : first + _ROWS_MAX]
            flat = [value for row in chunk for value in row]
            values = _parameters(len(chunk), columns)
            self._connection.execute(f"{insert}{values}{then}", flat)


@functools.lru_cache(maxsize=64)
def _parameters(rows: int, columns: int) -> str:
    return ",".join([f"({','.join('?' * columns)})"] * rows)


def _span(event: Event) -> int | None:
    """Return where the place goes in the value, so that readers need not parse it."""
    if event.key is not None or event.value is None or len(event.value) > SPAN_VALUE_BYTES_MAX:
        return None
    line = encode(event)
    return None if line is None else find_span(event, line)
