"""What one transaction of the embedded log does: places records, drops old ones.

The ledger remembers every partition's ends between transactions. It is right only while no other
process wrote and no transaction of ours failed; its owner then calls `reload`.

Records go in, and their sizes come out, by one statement for many: the sqlite3 module lets go of
the interpreter at every row, and gets it back from a busy event loop only milliseconds later.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Iterable, Sequence

import msgspec

from eventstreams.errors import AppendRefused, UnknownPartition, UnknownTopic
from eventstreams.log.sqlite_checksum import checksum
from eventstreams.log.sqlite_file import BLOCK_BITS, OFFSET_BITS
from eventstreams.model.event import Partition, Placed, Record
from eventstreams.settings import SqliteSettings

_ROWS_MAX = 500  # in one statement; SQLite allows 32,766 parameters
_DROP_ROWS_MAX = 4096  # in one step
_DROP_BYTES_MAX = 16 * 2**20

_OLDEST_FIRST = f"""
SELECT p.topic, p.number FROM partitions p
JOIN events e ON e.id = (p.id << {OFFSET_BITS} | p.oldest) ORDER BY e.appended_ms LIMIT 1
"""  # noqa: S608 - of our own names
_AGES_AND_SIZES = """
SELECT json_group_array(json_array(appended_ms, ifnull(length(value), 0))) FROM
(SELECT appended_ms, value FROM events WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)
"""
_ages_and_sizes = msgspec.json.Decoder(list[tuple[int, int]])


class _Head:
    """One partition's ends, and the bytes of its values."""

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


class Ledger:
    def __init__(self, connection: sqlite3.Connection, settings: SqliteSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._topics: dict[str, list[_Head]] = {}
        self._id_max = 0
        self._round_robin = 0
        self._rows: list[tuple[object, ...]] = []
        self._changed: dict[int, _Head] = {}
        self._blocks: dict[int, int] = {}

    def reload(self) -> None:
        """Forgets what hasn't been written and takes the partitions from the file."""
        self._rows, self._changed, self._blocks = [], {}, {}
        self._topics, self._id_max = {}, 0
        sql = "SELECT id, topic, number, oldest, next, bytes FROM partitions ORDER BY number"
        for id_, topic, number, oldest, next_, size in self._connection.execute(sql):
            head = _Head(id_, Partition(topic, number), oldest, next_, size)
            self._topics.setdefault(topic, []).append(head)
            self._id_max = max(self._id_max, id_)

    def append(self, records: Sequence[Record]) -> list[Placed]:
        """Raises UnknownPartition, AppendRefused; then nothing of this call is kept."""
        heads = [self._choose(record) for record in records]
        now_ms = int(time.time() * 1000)
        return [self._place(*pair, now_ms) for pair in zip(heads, records, strict=True)]

    def grow(self, topic: str, partitions: int) -> None:
        """Makes the topic or adds to it. Raises AppendRefused if a topic can't be named so."""
        try:
            topic.encode()
        except UnicodeEncodeError as error:
            raise AppendRefused(f"a topic can't be named {topic!r}") from error
        heads = self._topics.setdefault(topic, [])
        while len(heads) < partitions:
            self._id_max += 1
            head = _Head(self._id_max, Partition(topic, len(heads)), 0, 0, 0)
            heads.append(head)
            self._changed[head.id] = head

    def drop(self, partition: Partition, offset: int) -> bool:
        """Drops a bounded run of what lies below `offset`; whether there is more to drop.

        Raises UnknownTopic, UnknownPartition.
        """
        head = self._head(partition)
        below = min(offset, head.next)
        _, sizes = self._oldest(head)
        self._drop(head, min(below, head.oldest + len(sizes)))
        return head.oldest < below

    def retain(self, now_ms: int) -> bool:
        """Drops a bounded run of the oldest records if they must go; whether there may be more."""
        self.flush()
        oldest = self._connection.execute(_OLDEST_FIRST).fetchone()
        if oldest is None:
            return False
        head = self._head(Partition(*oldest))
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

    def flush(self) -> None:
        """Writes what has been placed. To be called before the transaction is committed."""
        self._insert(
            "INSERT INTO events (id, timestamp_ms, appended_ms, checksum, key, value) VALUES ",
            6,
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

    def _head(self, partition: Partition) -> _Head:
        heads = self._topics.get(partition.topic)
        if heads is None:
            raise UnknownTopic(partition.topic)
        if not 0 <= partition.number < len(heads):
            raise UnknownPartition(partition)
        return heads[partition.number]

    def _choose(self, record: Record) -> _Head:
        heads = self._topics.get(record.topic)
        if heads is None:
            self.grow(record.topic, self._settings.partitions_per_topic)
            heads = self._topics[record.topic]
        if record.partition is not None:
            return self._head(Partition(record.topic, record.partition))
        if record.key is not None:
            return heads[zlib.crc32(record.key) % len(heads)]
        self._round_robin += 1
        return heads[(self._round_robin - 1) % len(heads)]

    def _place(self, head: _Head, record: Record, now_ms: int) -> Placed:
        stamp = record.timestamp_ms if record.timestamp_ms is not None else now_ms
        key = head.key(head.next)
        check = checksum(key, stamp, record.key, record.value)
        self._rows.append((key, stamp, now_ms, check, record.key, record.value))
        block = key >> BLOCK_BITS
        self._blocks[block] = max(stamp, self._blocks.get(block, stamp))
        head.next += 1
        head.bytes += len(record.value or b"")
        self._changed[head.id] = head
        return Placed(head.partition, head.next - 1)

    def _oldest(self, head: _Head) -> tuple[list[int], list[int]]:
        """Times of appending and sizes of the oldest records, as many as one step may drop."""
        self.flush()
        span = (head.key(head.oldest), head.key(head.next), _DROP_ROWS_MAX)
        (text,) = self._connection.execute(_AGES_AND_SIZES, span).fetchone()
        ages: list[int] = []
        sizes: list[int] = []
        room = _DROP_BYTES_MAX
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
        one = f"({','.join('?' * columns)})"
        for first in range(0, len(rows), _ROWS_MAX):
            chunk = rows[first : first + _ROWS_MAX]
            values = ",".join([one] * len(chunk))
            flat = [value for row in chunk for value in row]
            self._connection.execute(f"{insert}{values}{then}", flat)
