"""The queue of events that wait to be sent, oldest first, bounded in bytes."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from typing import NamedTuple, Protocol

from eventstreams.errors import OutboxError, ProducerClosed

OVERHEAD_BYTES = 200


class Entry(NamedTuple):
    id: int
    """Ids increase in the order of the queue."""
    line: bytes
    """The event as JSON."""
    deadline: float = math.inf
    """When to give the event up, by the monotonic clock."""

    @property
    def size(self) -> int:
        return len(self.line) + OVERHEAD_BYTES


class Loss(NamedTuple):
    entry: Entry
    kind: str
    """Either rejected or gave_up."""
    reason: str


class Storage(Protocol):
    """Where entries are kept.

    Each call ends before the next begins, except for `head` and `put`. All raise OutboxError.
    """

    async def open(self) -> tuple[int, int]:
        """Return the size of the stored entries in bytes, and the highest id ever used, or 0."""
        ...

    async def put(self, entries: Sequence[Entry]) -> None:
        """Store all entries, or none."""
        ...

    async def head(self, count: int, size: int) -> list[Entry]:
        """Return the oldest entries, limited by count and bytes, but at least one if there is
        any."""
        ...

    async def remove(self, entries: Collection[Entry], losses: Collection[Loss]) -> None:
        """Remove entries. `losses` are those among them to keep a record of."""
        ...

    async def oldest(self) -> int | None: ...

    async def close(self) -> None: ...


class MemoryStorage:
    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}

    async def open(self) -> tuple[int, int]:
        return 0, 0

    async def put(self, entries: Sequence[Entry]) -> None:
        self._entries.update((entry.id, entry) for entry in entries)

    async def head(self, count: int, size: int) -> list[Entry]:
        found: list[Entry] = []
        for entry in self._entries.values():
            size -= entry.size
            if found and (len(found) == count or size < 0):
                break
            found.append(entry)
        return found

    async def remove(self, entries: Collection[Entry], losses: Collection[Loss]) -> None:  # noqa: ARG002
        for entry in entries:
            del self._entries[entry.id]

    async def oldest(self) -> int | None:
        return next(iter(self._entries), None)

    async def close(self) -> None:
        pass


class _PendingPut(NamedTuple):
    entries: Sequence[Entry]
    size: int
    kept: asyncio.Future[None]


class Queue:
    """A queue that admits waiting puts in order, as room becomes available.

    Puts that arrive together are stored together.
    """

    def __init__(self, storage: Storage, *, bytes_max: int) -> None:
        self._storage = storage
        self._bytes_max = bytes_max
        self._bytes = 0
        self._waiting: deque[_PendingPut] = deque()
        self._changed = asyncio.Condition()
        self._writer: asyncio.Task[None] | None = None
        self._closed = False
        self.last_id = 0
        """The id of the last entry put, including puts that wait for room."""

    async def open(self) -> None:
        """Open the storage. Raises OutboxError."""
        self._bytes, self.last_id = await self._storage.open()

    async def put(self, entries: Sequence[Entry]) -> None:
        """Store entries, after waiting for room.

        Raises OutboxError, or ProducerClosed if the queue is closed before there is room.
        """
        if self._closed:
            raise ProducerClosed("the producer is closed")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.last_id = max(self.last_id, entries[-1].id)
        self._waiting.append(_PendingPut(entries, sum(e.size for e in entries), future))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await future

    async def head(self, count: int, size: int) -> list[Entry]:
        """Wait until the queue has entries, and return the first ones as `Storage.head` does."""
        async with self._changed:
            while not (found := await self._storage.head(count, size)):
                await self._changed.wait()
            return found

    async def remove(self, entries: Collection[Entry], losses: Collection[Loss] = ()) -> None:
        await self._storage.remove(entries, losses)
        self._bytes -= sum(entry.size for entry in entries)
        await self._notify()

    async def passed(self, id_: int) -> None:
        """Wait until all entries up to this id have left the queue."""
        async with self._changed:
            while True:
                first = await self._storage.oldest()
                if (first is None or first > id_) and not any(
                    p.entries[0].id <= id_ for p in self._waiting if not p.kept.done()
                ):
                    return
                await self._changed.wait()

    async def recount(self, size: int) -> None:
        """Add `size` bytes of entries that were stored without `put`."""
        self._bytes += size
        await self._notify()

    async def end(self) -> None:
        """Refuse puts that wait for room. Stored entries can still be removed."""
        self._closed = True
        await self._notify()
        if self._writer is not None:
            await asyncio.wait({self._writer})

    async def drop(self) -> AsyncIterator[Entry]:
        """Remove and yield all remaining entries."""
        while found := await self._storage.head(1, 1):
            await self.remove(found)
            yield found[0]

    async def close(self) -> None:
        await self._storage.close()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _write(self) -> None:
        """Store waiting puts until none is left. Every put gets a result, even after an error."""
        try:
            while self._waiting:
                async with self._changed:
                    while not (group := self._next()) and self._waiting and not self._closed:
                        await self._changed.wait()
                if not group and self._closed:
                    raise ProducerClosed("the producer was closed before there was room")
                await self._keep(group)
        except BaseException as error:
            while self._waiting:
                _refuse([self._waiting.popleft()], error)
            if not isinstance(error, ProducerClosed):
                raise
        finally:
            self._writer = None

    def _next(self) -> list[_PendingPut]:
        """Return the first puts that fit; at least one if the storage is empty."""
        group: list[_PendingPut] = []
        size = self._bytes
        while self._waiting:
            first = self._waiting[0]
            if first.kept.done():  # its caller has stopped waiting
                self._waiting.popleft()
                continue
            size += first.size
            if size > self._bytes_max and (group or self._bytes):
                break
            group.append(self._waiting.popleft())
        return group

    async def _keep(self, group: Sequence[_PendingPut]) -> None:
        try:
            await self._storage.put([entry for putting in group for entry in putting.entries])
        except OutboxError as error:
            _refuse(group, error)
        except BaseException as error:
            _refuse(group, error)
            raise
        else:
            self._bytes += sum(putting.size for putting in group)
            for putting in group:
                if not putting.kept.done():
                    putting.kept.set_result(None)
        await self._notify()


def _refuse(group: Sequence[_PendingPut], error: BaseException) -> None:
    if not isinstance(error, OutboxError | ProducerClosed):
        error = ProducerClosed(str(error))
    for putting in group:
        if not putting.kept.done():
            # Each put gets its own exception, because raising one adds to its traceback.
            putting.kept.set_exception(type(error)(str(error)))
