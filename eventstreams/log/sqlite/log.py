"""The embedded log: one SQLite file, one thread that writes, and a few threads that read.

Only the threads use the database. Requests reach them through queues, and the results come back as
callbacks of the event loop. Other processes may append to the same file, and followers receive
those events too: the event loop reads the lock file, to which each process writes a mark after a
transaction. A thread would have to wait for the interpreter's lock several times before it could
notify a busy event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import (
    AppendRefused,
    LogCorrupt,
    LogError,
    LogFilesLost,
    LogUnavailable,
    UnknownPartition,
    UnknownTopic,
)
from eventstreams.log.base import NOTHING_KNOWN, Slice
from eventstreams.log.embedded import EmbeddedBookmark
from eventstreams.log.future import FutureLimit
from eventstreams.log.sqlite.file import LogFile
from eventstreams.log.sqlite.limits import SqliteLimits
from eventstreams.log.sqlite.reader import Reader, ReaderPool
from eventstreams.log.sqlite.transaction import Transaction
from eventstreams.log.sqlite.writer import Request, SqliteWriter
from eventstreams.model.event import Bounds, Event, Partition, Placed, Record

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_HISTORY_READERS = 2
_LOOK_EVERY_S = 0.025
"""How often to look whether another process has written."""
_RECORD_OVERHEAD_BYTES = 200
_SURROGATE = re.compile("[\ud800-\udfff]")
_TIMES_MS = range(-(2**63), 2**63)  # the integers that SQLite can store
_partition_of = attrgetter("partition")


def _kept_bytes(events: Sequence[Event]) -> int:
    return sum(_RECORD_OVERHEAD_BYTES + len(event.value or b"") for event in events)


class SqliteLog:
    """Implements Log over `<directory>/log.sqlite3`. Topics are created by the first append.

    Before `start` and after `aclose`, every call raises LogUnavailable.
    """

    def __init__(
        self,
        *,
        directory: Path,
        settings: SqliteSettings,
        future_limit: FutureLimit | None = None,
        limits: SqliteLimits | None = None,
        undisturbed: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Create the log. `undisturbed` returns a context in which short work of threads runs.

        This work is what all streams wait for: each read of new events for followers, and each
        append during which other processes wait for the end of its transaction.
        """
        self._future_limit = future_limit or FutureLimit()
        self._limits = limits or SqliteLimits()
        self._undisturbed = undisturbed
        self._directory = directory
        self._settings = settings
        self._life = threading.Lock()
        self._resources = ExitStack()
        self._is_open = False
        self._history: ReaderPool
        self._live: ReaderPool
        self._writer: SqliteWriter
        self._file: LogFile
        self._next_look: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._followers: set[SqliteFollower] = set()
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._waiting_bytes = 0
        self._trouble: LogError | None = None
        """The error with which the log cannot be used now: its files are lost or damaged."""

    async def start(self) -> None:
        assert not self._is_open
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._acquire)
        self._is_open = True
        self._look()

    async def partitions(self, topics: Collection[str]) -> dict[str, tuple[Partition, ...]]:
        return await self._read(lambda reader: reader.partitions(topics))

    async def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        return await self._read(lambda reader: reader.bounds(partitions))

    async def offset_at(self, times: Mapping[Partition, int]) -> dict[Partition, int | None]:
        return await self._read(lambda reader: reader.offset_at(times))

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        return await self._read(lambda reader: reader.read(partition, offset, max_bytes))

    async def divergence(self, partition: Partition, offset: int, epoch: int) -> int | None:  # noqa: ARG002
        """Return None: this log has no elections, and so no epochs."""
        return None

    def follow(
        self,
        starts: Mapping[Partition, int],
        epochs: Mapping[Partition, int] = NOTHING_KNOWN,  # noqa: ARG002
    ) -> SqliteFollower:
        follower = SqliteFollower(self, starts, self._limits.appended_bytes_max)
        self._followers.add(follower)
        return follower

    async def append(self, records: Sequence[Record]) -> list[Placed]:
        records = self._future_limit.apply(records)
        return await self._append(records, sum(map(self._size, itertools.count(), records)))

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        refused: dict[int, LogError] = {}
        valid: list[Record] = []
        size = 0
        for number, record in enumerate(self._future_limit.apply(records)):
            try:
                size += self._size(number, record)
            except AppendRefused as error:
                refused[number] = error
            else:
                valid.append(record)
        places = iter(await self._offer(valid, size))
        return [refused.get(number) or next(places) for number in range(len(records))]

    async def _offer(self, records: Sequence[Record], size: int) -> Sequence[Placed | LogError]:
        try:
            return await self._append(records, size)
        except UnknownPartition as error:  # that of one record; none of them was appended
            if len(records) == 1:
                return [error]
            return [outcome for record in records for outcome in await self.offer([record])]
        except LogError as error:
            return [error] * len(records)

    async def _append(self, records: Sequence[Record], size: int) -> list[Placed]:
        if not records:
            return []
        records = tuple(records)  # the caller may change its list
        is_shared = self._is_open and self._writer.is_shared
        with self._undisturbed() if is_shared else nullcontext():
            return await self._write(lambda transaction: transaction.append(records), size)

    async def create_topic(self, topic: str, partitions: int) -> None:
        await self._write(lambda transaction: transaction.grow(topic, partitions))

    async def claim(self, name: str) -> EmbeddedBookmark:
        owner, state = await self._write(lambda ledger: ledger.claim(name))

        async def append(records: Sequence[Record], state: bytes) -> None:
            records = tuple(self._future_limit.apply(records))
            size = sum(map(self._size, itertools.count(), records))
            await self._write(lambda ledger: ledger.append_with(name, owner, records, state), size)

        return EmbeddedBookmark(state, append)

    async def forget_before(self, partition: Partition, offset: int) -> None:
        """Drop the records below `offset`, as retention does.

        Raises UnknownTopic, UnknownPartition, AppendRefused.
        """
        while await self._write(lambda transaction: transaction.drop(partition, offset)):
            pass

    async def retain(self, now_ms: int) -> None:
        """Apply retention as of this time. The writer does so itself every `retention_every_s`.

        Raises AppendRefused.
        """
        while await self._write(lambda transaction: transaction.retain(now_ms)):
            pass

    async def aclose(self) -> None:
        self._is_open = False
        if self._next_look is not None:
            self._next_look.cancel()
        self._room.set()
        self._wake_followers()
        await asyncio.to_thread(self._release)

    # Methods for the follower.

    def require_usable(self) -> None:
        """Raise LogUnavailable if the log is closed, or its files are lost or damaged."""
        self._check_open()
        if self._trouble is not None:
            raise LogUnavailable(str(self._trouble)) from self._trouble

    async def news(self, nexts: Mapping[Partition, int]) -> dict[Partition, Slice | LogError]:
        with self._undisturbed():
            return await self._run(self._live, lambda reader: reader.news(nexts))

    def unfollow(self, follower: SqliteFollower) -> None:
        self._followers.discard(follower)

    # Methods that run in a thread.

    def _acquire(self) -> None:
        with self._life, ExitStack() as stack:
            file = LogFile(self._directory, self._settings, self._limits)
            file.open()
            stack.callback(file.close)
            self._file = file
            live, *history = [
                stack.enter_context(closing(file.reader())) for _ in range(1 + _HISTORY_READERS)
            ]
            self._live = ReaderPool("log-live", [live], file.path)
            self._history = ReaderPool("log-history", history, file.path)
            self._writer = SqliteWriter(
                file=file,
                settings=self._settings,
                limits=self._limits,
                answered=self._answered,
                changed=self._changed,
                troubled=self._troubled,
            )
            for thread in (self._live, self._history, self._writer):
                thread.start()
                stack.callback(thread.stop)
            self._resources = stack.pop_all()

    def _release(self) -> None:
        with self._life:
            self._resources.close()

    def _answered(self, requests: list[Request], appended: list[Event]) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nothing waits for the result
            self._loop.call_soon_threadsafe(self._deliver, requests, appended)

    def _changed(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake_followers)

    def _troubled(self, error: LogError | None) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._set_trouble, error)

    # Methods that run on the event loop.

    def _look(self) -> None:
        """Wake the followers if another process has written, and look again after a while."""
        if self._followers and self._file.was_written():
            self._wake_followers()
        self._next_look = self._loop.call_later(_LOOK_EVERY_S, self._look)

    def _set_trouble(self, error: LogError | None) -> None:
        before = self._trouble
        if isinstance(before, LogCorrupt):
            return  # damage lasts until the process starts again and checks the file
        if error is not None:
            _logger.critical("the embedded log cannot be used and rejects events: %s", error)
        elif before is not None:
            _logger.warning("the embedded log's files are back; it accepts events again")
        self._trouble = error
        self._wake_followers()

    def _check_open(self) -> None:
        if not self._is_open:
            raise LogUnavailable("the log is not open")

    def _size(self, number: int, record: Record) -> int:
        """Return the memory that a record takes while it waits. Raises AppendRefused."""
        size = len(record.value or b"") + len(record.key or b"")
        if size > self._settings.record_bytes_max:
            limit = self._settings.record_bytes_max
            raise AppendRefused(f"record {number} has {size} bytes; the limit is {limit}")
        if record.timestamp_ms is not None and record.timestamp_ms not in _TIMES_MS:
            raise AppendRefused(f"record {number} has a timestamp out of range")
        if not record.topic.isascii() and _SURROGATE.search(record.topic):
            raise AppendRefused(f"record {number} has a topic that is not a string")
        return size + _RECORD_OVERHEAD_BYTES

    async def _read(self, work: Callable[[Reader], T]) -> T:
        self._check_open()
        if isinstance(self._trouble, LogFilesLost):
            raise self._trouble
        return await self._run(self._history, work)

    async def _run(self, pool: ReaderPool, work: Callable[[Reader], T]) -> T:
        try:
            return await pool.run(work)
        except LogCorrupt as error:
            self._set_trouble(error)
            raise

    async def _write(self, work: Callable[[Transaction], T], size: int = 0) -> T:
        async with self._turn:  # in the order of arrival, also while there is no room
            while self._is_open and self._waiting_bytes >= self._limits.waiting_bytes_max:
                self._room.clear()
                await self._room.wait()
            self._check_open()
            if isinstance(self._trouble, LogCorrupt):
                raise self._trouble
            answer: asyncio.Future[T] = self._loop.create_future()
            self._waiting_bytes += size
            self._writer.put(Request(work, size, answer))
        return await answer

    def _deliver(self, requests: list[Request], appended: list[Event]) -> None:
        for request in requests:
            self._waiting_bytes -= request.size
            future = request.future
            if future.done():  # the caller was cancelled; its records are in the log
                continue
            if request.error is not None:
                future.set_exception(request.error)
            else:
                future.set_result(request.answer)
        self._room.set()
        if not appended:
            self._wake_followers()
        for follower in self._followers:
            follower.add(appended)

    def _wake_followers(self) -> None:
        for follower in self._followers:
            follower.look()


class SqliteFollower:
    """Keeps its offsets on the event loop, and advances them only past slices that `next` returns.

    Events that this process appends are passed to it directly. It reads all others from the file.
    """

    def __init__(
        self, log: SqliteLog, starts: Mapping[Partition, int], appended_bytes_max: int
    ) -> None:
        """Start at these offsets. Keep up to `appended_bytes_max` bytes of events in memory."""
        self._log = log
        self._appended_bytes_max = appended_bytes_max
        self._nexts = dict(starts)
        self.changed = asyncio.Event()
        self._must_look = True
        """Whether the file may hold records, from `_nexts` on, that are not in `_appended`."""
        self._appended: dict[Partition, list[Event]] = {}
        """Events that this process has appended, by partition: the one at `_nexts` and those that
        directly follow it."""
        self._appended_bytes = 0

    def look(self) -> None:
        """Make `next` read the file."""
        self._must_look = True
        self.changed.set()

    def add(self, events: Iterable[Event]) -> None:
        """Keep events that this process has appended in one transaction."""
        for partition, together in itertools.groupby(events, _partition_of):
            if partition not in self._nexts:
                continue
            run = list(together)  # at adjacent offsets, because one transaction appended them
            held = self._appended.setdefault(partition, [])
            following = held[-1].offset + 1 if held else self._nexts[partition]
            skipped = following - run[0].offset  # read from the file once they were committed
            if skipped >= len(run):
                continue
            run = run[max(0, skipped) :]
            size = self._appended_bytes + _kept_bytes(run)
            if skipped < 0 or size > self._appended_bytes_max:
                self.look()  # others appended too, or earlier events have not been read yet
            else:
                held += run
                self._appended_bytes = size
                self.changed.set()

    async def next(self) -> list[Slice]:
        while True:
            self._log.require_usable()
            self.changed.clear()  # before reading, so that later changes set it again
            slices = self._take_appended()
            if slices:
                return slices
            if self._must_look:
                self._must_look = False
                slices = await self._look()
                if slices:
                    self._must_look = True  # there may be more than fits in one result
                    return slices
            await self.changed.wait()

    def _take_appended(self) -> list[Slice]:
        appended, self._appended, self._appended_bytes = self._appended, {}, 0
        slices = [
            Slice(p, events, events[-1].offset + 1) for p, events in appended.items() if events
        ]
        self._move(slices)
        return slices

    async def _look(self) -> list[Slice]:
        """Read the file once. Raises what `next` raises."""
        asked = dict(self._nexts)
        try:
            found = await self._log.news(asked)
        except BaseException:
            self._must_look = True
            raise
        still = {p: what for p, what in found.items() if self._nexts.get(p) == asked[p]}
        slices = [what for what in still.values() if not isinstance(what, LogError)]
        if slices:
            self._move(slices)
            return slices
        for partition, error in still.items():
            assert isinstance(error, LogError)
            whole_topic = isinstance(error, UnknownTopic)
            self.drop([p for p in asked if whole_topic and p.topic == partition.topic])
            self.drop([partition])
            self._must_look = True
            raise error
        return []

    def _move(self, slices: Iterable[Slice]) -> None:
        for slice_ in slices:
            del self._nexts[slice_.partition]  # move it last: the next read begins with the others
            self._nexts[slice_.partition] = slice_.next
            self._forget_appended(slice_.partition)

    def _forget_appended(self, partition: Partition) -> None:
        """Drop the kept events of this partition. They will be read from the file."""
        forgotten = self._appended.pop(partition, ())
        if forgotten:
            self._appended_bytes -= _kept_bytes(forgotten)
            self._must_look = True

    def assign(
        self,
        starts: Mapping[Partition, int],
        epochs: Mapping[Partition, int] = NOTHING_KNOWN,  # noqa: ARG002
    ) -> None:
        self._nexts.update(starts)
        for partition in starts:
            self._forget_appended(partition)
        self.look()

    def drop(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._nexts.pop(partition, None)
            self._forget_appended(partition)

    async def aclose(self) -> None:
        self._log.unfollow(self)
