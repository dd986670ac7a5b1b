"""The embedded log: one SQLite file, one thread that writes, a few that read.

Nothing here touches the file: requests go to the threads by queues, answers come back as callbacks
of the event loop. Other processes may append to the same file; followers hear of that too.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TypeVar

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
from eventstreams.log.future import FutureLimit
from eventstreams.log.sqlite_file import LogFile
from eventstreams.log.sqlite_ledger import Ledger
from eventstreams.log.sqlite_reader import Crew, Reader
from eventstreams.log.sqlite_writer import Request, Writer
from eventstreams.model.event import Bounds, Partition, Placed, Record
from eventstreams.settings import SqliteSettings

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_HISTORY_READERS = 2
_WAITING_BYTES_MAX = 64 * 2**20  # appends not yet durable; further ones wait for room
_RECORD_OVERHEAD_BYTES = 200
_SURROGATE = re.compile("[\ud800-\udfff]")
_TIMES_MS = range(-(2**63), 2**63)  # what SQLite's integers hold


class SqliteLog:
    """Implements Log over `<directory>/log.sqlite3`. Topics are made on first append.

    Before `start` and after `aclose` every call raises LogUnavailable.
    """

    def __init__(
        self,
        *,
        directory: Path,
        settings: SqliteSettings,
        future_limit: FutureLimit | None = None,
    ) -> None:
        self._future_limit = future_limit or FutureLimit()
        self._directory = directory
        self._settings = settings
        self._life = threading.Lock()
        self._resources = ExitStack()
        self._is_open = False
        self._history: Crew
        self._live: Crew
        self._writer: Writer
        self._loop: asyncio.AbstractEventLoop
        self._followers: set[SqliteFollower] = set()
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._waiting_bytes = 0
        self._trouble: LogError | None = None
        """Why the log can't be used now: its files are lost, or SQLite finds them damaged."""

    async def start(self) -> None:
        assert not self._is_open
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._acquire)
        self._is_open = True

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
        follower = SqliteFollower(self, starts)
        self._followers.add(follower)
        return follower

    async def append(self, records: Sequence[Record]) -> list[Placed]:
        records = tuple(self._future_limit.apply(records))
        size = sum(self._size(number, record) for number, record in enumerate(records))
        if not records:
            return []
        return await self._write(lambda ledger: ledger.append(records), size)

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        outcomes: list[Placed | LogError | None] = [
            self._refusal(number, record) for number, record in enumerate(records)
        ]
        good = [record for record, error in zip(records, outcomes, strict=True) if error is None]
        places = iter(await self._offer(good))
        return [next(places) if error is None else error for error in outcomes]

    def _refusal(self, number: int, record: Record) -> AppendRefused | None:
        try:
            self._size(number, record)
        except AppendRefused as error:
            return error
        if not record.topic.isascii() and _SURROGATE.search(record.topic):
            return AppendRefused(f"record {number} has a topic that is no text")
        return None

    async def _offer(self, records: Sequence[Record]) -> Sequence[Placed | LogError]:
        try:
            return await self.append(records)
        except UnknownPartition as error:  # of one of them, and then none is appended
            if len(records) == 1:
                return [error]
            return [outcome for record in records for outcome in await self._offer([record])]
        except LogError as error:
            return [error] * len(records)

    async def create_topic(self, topic: str, partitions: int) -> None:
        await self._write(lambda ledger: ledger.grow(topic, partitions))

    async def forget_before(self, partition: Partition, offset: int) -> None:
        """Drops what lies below `offset`, as retention does. Raises UnknownTopic,
        UnknownPartition, AppendRefused."""
        while await self._write(lambda ledger: ledger.drop(partition, offset)):
            pass

    async def retain(self, now_ms: int) -> None:
        """Applies retention as it would be at this time; by itself it does so every
        `retention_every_s`. Raises AppendRefused."""
        while await self._write(lambda ledger: ledger.retain(now_ms)):
            pass

    async def aclose(self) -> None:
        self._is_open = False
        self._room.set()
        self._wake_followers()
        await asyncio.to_thread(self._release)

    # For the follower.

    async def news(self, nexts: Mapping[Partition, int]) -> dict[Partition, Slice | LogError]:
        self._check_open()
        if self._trouble is not None:
            raise LogUnavailable(str(self._trouble)) from self._trouble
        return await self._run(self._live, lambda reader: reader.news(nexts))

    def unfollow(self, follower: SqliteFollower) -> None:
        self._followers.discard(follower)

    # In a thread.

    def _acquire(self) -> None:
        with self._life, ExitStack() as stack:
            file = LogFile(self._directory, self._settings)
            file.open()
            stack.callback(file.close)
            live, *history = [
                stack.enter_context(closing(file.reader())) for _ in range(1 + _HISTORY_READERS)
            ]
            self._live = Crew("log-live", [live], file.path)
            self._history = Crew("log-history", history, file.path)
            self._writer = Writer(
                file=file,
                settings=self._settings,
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

    def _answered(self, requests: list[Request]) -> None:
        with suppress(RuntimeError):  # the loop is gone, and whoever waited
            self._loop.call_soon_threadsafe(self._deliver, requests)

    def _changed(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake_followers)

    def _troubled(self, error: LogError | None) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._set_trouble, error)

    # On the loop.

    def _set_trouble(self, error: LogError | None) -> None:
        before = self._trouble
        if isinstance(before, LogCorrupt):
            return  # until the process starts again, and looks at the file
        if error is not None:
            _logger.critical("the embedded log can't be used, and takes no events: %s", error)
        elif before is not None:
            _logger.warning("the embedded log's files are back; it takes events again")
        self._trouble = error
        self._wake_followers()

    def _check_open(self) -> None:
        if not self._is_open:
            raise LogUnavailable("the log is not open")

    def _size(self, number: int, record: Record) -> int:
        size = len(record.value or b"") + len(record.key or b"")
        if size > self._settings.record_bytes_max:
            limit = self._settings.record_bytes_max
            raise AppendRefused(f"record {number} has {size} bytes; at most {limit} are taken")
        if record.timestamp_ms is not None and record.timestamp_ms not in _TIMES_MS:
            raise AppendRefused(f"record {number} has a timestamp out of range")
        return size + _RECORD_OVERHEAD_BYTES

    async def _read(self, work: Callable[[Reader], T]) -> T:
        self._check_open()
        if isinstance(self._trouble, LogFilesLost):
            raise self._trouble
        return await self._run(self._history, work)

    async def _run(self, crew: Crew, work: Callable[[Reader], T]) -> T:
        try:
            return await crew.run(work)
        except LogCorrupt as error:
            self._set_trouble(error)
            raise

    async def _write(self, work: Callable[[Ledger], T], size: int = 0) -> T:
        async with self._turn:  # first come, first served, also when there is no room
            while self._is_open and self._waiting_bytes >= _WAITING_BYTES_MAX:
                self._room.clear()
                await self._room.wait()
            self._check_open()
            if isinstance(self._trouble, LogCorrupt):
                raise self._trouble
            answer: asyncio.Future[T] = self._loop.create_future()
            self._waiting_bytes += size
            self._writer.put(Request(work, size, answer))
        return await answer

    def _deliver(self, requests: list[Request]) -> None:
        for request in requests:
            self._waiting_bytes -= request.size
            future = request.future
            if future.done():  # cancelled: whoever waited is gone, the records are in the log
                continue
            if request.error is not None:
                future.set_exception(request.error)
            else:
                future.set_result(request.answer)
        self._room.set()
        self._wake_followers()

    def _wake_followers(self) -> None:
        for follower in self._followers:
            follower.changed.set()


class SqliteFollower:
    """Keeps its offsets on the loop and moves them only for what `next` hands out."""

    def __init__(self, log: SqliteLog, starts: Mapping[Partition, int]) -> None:
        self._log = log
        self._nexts = dict(starts)
        self.changed = asyncio.Event()

    async def next(self) -> list[Slice]:
        while True:
            self.changed.clear()  # before reading: what arrives in between wakes us again
            asked = dict(self._nexts)
            found = await self._log.news(asked)
            still = {p: what for p, what in found.items() if self._nexts.get(p) == asked[p]}
            slices = [what for what in still.values() if not isinstance(what, LogError)]
            for slice_ in slices:
                del self._nexts[slice_.partition]  # to the end: the next answer begins elsewhere
                self._nexts[slice_.partition] = slice_.next
            if slices:
                return slices
            for partition, error in still.items():
                assert isinstance(error, LogError)
                whole_topic = isinstance(error, UnknownTopic)
                self.drop([p for p in asked if whole_topic and p.topic == partition.topic])
                self.drop([partition])
                raise error
            await self.changed.wait()

    def assign(
        self,
        starts: Mapping[Partition, int],
        epochs: Mapping[Partition, int] = NOTHING_KNOWN,  # noqa: ARG002
    ) -> None:
        self._nexts.update(starts)
        self.changed.set()

    def drop(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._nexts.pop(partition, None)

    async def aclose(self) -> None:
        self._log.unfollow(self)
