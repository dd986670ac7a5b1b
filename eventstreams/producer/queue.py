"""Events that wait to be sent, oldest first, as many as there is room for."""

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
    """Counts up."""
    line: bytes
    """The event as JSON."""
    deadline: float = math.inf
    """By the monotonic clock."""

    @property
    def size(self) -> int:
        return len(self.line) + OVERHEAD_BYTES


class Loss(NamedTuple):
    entry: Entry
    kind: str
    """rejected, or gave_up."""
    reason: str


class Storage(Protocol):
    """Where entries are kept. Each call is over before the next but `head` and `put`; all raise
    OutboxError."""

    async def open(self) -> tuple[int, int]:
        """The bytes that are kept, and the id of the newest entry there ever was, or 0."""
        ...

    async def put(self, entries: Sequence[Entry]) -> None:
        """All of them, or none."""
        ...

    async def head(self, count: int, size: int) -> list[Entry]:
        """The oldest, at most so many, of so many bytes, but one at least if there is one."""
        ...

    async def remove(self, entries: Collection[Entry], losses: Collection[Loss]) -> None:
        """`losses` are among the entries."""
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


class _Putting(NamedTuple):
    entries: Sequence[Entry]
    size: int
    kept: asyncio.Future[None]


class Queue:
    """First come, first served: a put waits for room behind those that wait already. Puts that come
    together are stored together."""

    def __init__(self, storage: Storage, *, bytes_max: int) -> None:
        self._storage = storage
        self._bytes_max = bytes_max
        self._bytes = 0
        self._waiting: deque[_Putting] = deque()
        self._changed = asyncio.Condition()
        self._writer: asyncio.Task[None] | None = None
        self._closed = False
        self.last_id = 0
        """Of the entries put, or about to be."""

    async def open(self) -> None:
        """Raises OutboxError."""
        self._bytes, self.last_id = await self._storage.open()

    async def put(self, entries: Sequence[Entry]) -> None:
        """Returns when they are kept. Raises OutboxError, and ProducerClosed where it is closed
        before there was room."""
        if self._closed:
            raise ProducerClosed("the producer is closed")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.last_id = max(self.last_id, entries[-1].id)
        self._waiting.append(_Putting(entries, sum(e.size for e in entries), future))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await future

    async def head(self, count: int, size: int) -> list[Entry]:
        """As of Storage, once there is one."""
        async with self._changed:
            while not (found := await self._storage.head(count, size)):
                await self._changed.wait()
            return found

    async def remove(self, entries: Collection[Entry], losses: Collection[Loss] = ()) -> None:
        await self._storage.remove(entries, losses)
        self._bytes -= sum(entry.size for entry in entries)
        await self._tell()

    async def passed(self, id_: int) -> None:
        """Waits until all entries up to this one are gone."""
        async with self._changed:
            while True:
                first = await self._storage.oldest()
                if (first is None or first > id_) and not any(
                    p.entries[0].id <= id_ for p in self._waiting if not p.kept.done()
                ):
                    return
                await self._changed.wait()

    async def recount(self, size: int) -> None:
        """`size`: bytes that were put by another way than `put`."""
        self._bytes += size
        await self._tell()

    async def end(self) -> None:
        """Who waits for room is refused. What is kept can still be removed."""
        self._closed = True
        await self._tell()
        if self._writer is not None:
            await asyncio.wait({self._writer})

    async def drop(self) -> AsyncIterator[Entry]:
        """Removes and tells all that is left."""
        while found := await self._storage.head(1, 1):
            await self.remove(found)
            yield found[0]

    async def close(self) -> None:
        await self._storage.close()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _write(self) -> None:
        """Until nobody waits. Whatever happens, each who waits is told."""
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

    def _next(self) -> list[_Putting]:
        """Those at the front that there is room for; one at least where nothing is kept."""
        group: list[_Putting] = []
        size = self._bytes
        while self._waiting:
            first = self._waiting[0]
            if first.kept.done():  # given up by who put it
                self._waiting.popleft()
                continue
            size += first.size
            if size > self._bytes_max and (group or self._bytes):
                break
            group.append(self._waiting.popleft())
        return group

    async def _keep(self, group: Sequence[_Putting]) -> None:
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
        await self._tell()


def _refuse(group: Sequence[_Putting], error: BaseException) -> None:
    told = error if isinstance(error, OutboxError | ProducerClosed) else ProducerClosed(str(error))
    for putting in group:
        if not putting.kept.done():
            putting.kept.set_exception(type(told)(str(told)))
