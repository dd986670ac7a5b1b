"""The producer: the object that programs use to send events to an intake."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from uuid import uuid4

import httpx

import eventstreams
from eventstreams.errors import ProducerClosed
from eventstreams.producer.delivery import Delivery
from eventstreams.producer.outbox import Outbox
from eventstreams.producer.queue import Entry, Loss, MemoryStorage, Queue
from eventstreams.producer.result import Accepted, Event, GaveUp, Rejected, Result, event_of

_log = logging.getLogger(__name__)

_PATH = "/v1/events"
_HEADERS = {
    "content-type": "application/json",
    "user-agent": f"eventstreams-producer/{eventstreams.__version__}",
}


class Producer:
    """Sends events to an intake. Use it as an async context manager.

    Leaving the context waits up to `drain_s` seconds for the events that were put.
    """

    def __init__(
        self,
        url: str,
        *,
        outbox: str | PathLike[str] | None = None,
        headers: Mapping[str, str] | None = None,
        batch_events: int = 100,
        batch_bytes: int = 512 * 2**10,
        linger_s: float = 0.0,
        queue_bytes_max: int = 64 * 2**20,
        timeout_s: float = 30.0,
        retry_s: float = 0.1,
        give_up_s: float = 120.0,
        drain_s: float = 10.0,
        on_loss: Callable[[Rejected | GaveUp], None] | None = None,
    ) -> None:
        """Configure the producer.

        `url`: the URL of the intake, or of its host. `outbox`: a file that keeps waiting events
        across restarts; it is created if necessary, and events found in it are sent first.

        `batch_events`, `batch_bytes`: the most that one request carries. `linger_s`: how long an
        incomplete batch waits for more events. `queue_bytes_max`: bytes that may wait; beyond this,
        `enqueue` and `send` block. `timeout_s`: the time limit for an answer. `retry_s`: the
        approximate pause after a first failure; it doubles up to 30 s, unless Retry-After asks for
        more. `give_up_s`: how long an event is tried, from the time it was put; with an outbox,
        from the time the intake first failed to store it, so that no outage loses events.
        `on_loss`: called on the event loop with each event that was rejected or given up.

        Raises ValueError.
        """
        for name, value in (
            *(("batch_events", batch_events), ("batch_bytes", batch_bytes)),
            *(("queue_bytes_max", queue_bytes_max), ("timeout_s", timeout_s)),
            ("retry_s", retry_s),
        ):
            if value <= 0:
                raise ValueError(f"{name}={value} must be greater than 0")
        self._drain_s = drain_s
        self._timeout_s = timeout_s
        self._on_loss = on_loss
        self._outbox = None if outbox is None else Outbox(Path(outbox))
        self._give_up_s = give_up_s if outbox is None else math.inf
        self._queue = Queue(self._outbox or MemoryStorage(), bytes_max=queue_bytes_max)
        self._delivery = Delivery(
            self._queue,
            url=_intake_url(url),
            headers=httpx.Headers({**_HEADERS, **_lower(headers or {})}),
            batch_events=batch_events,
            batch_bytes=batch_bytes,
            linger_s=linger_s,
            timeout_s=timeout_s,
            retry_s=retry_s,
            give_up_s=give_up_s,
            settled=self._settled,
        )
        self._waiters: dict[int, asyncio.Future[Result]] = {}
        self._http: httpx.AsyncClient | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Open the outbox and start sending. Raises OutboxError."""
        await self._queue.open()
        self._http = httpx.AsyncClient(timeout=self._timeout_s)
        self._task = asyncio.create_task(self._run(self._http))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with contextlib.suppress(TimeoutError, ProducerClosed):
                async with asyncio.timeout(self._drain_s):
                    await self.flush()
        finally:
            await self._close()

    async def send(self, *events: Event) -> list[Result]:
        """Send events, and return the result of each in order once all results are known.

        Raises TypeError or ValueError for an event that is not JSON, before anything is sent;
        OutboxError; ProducerClosed if the producer ends before all results are known.
        """
        entries = self._entries(events)
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in entries]
        self._waiters.update(zip((e.id for e in entries), futures, strict=True))
        try:
            if entries:
                await self._queue.put(entries)
            return list(await asyncio.gather(*futures))
        finally:
            for entry in entries:
                self._waiters.pop(entry.id, None)

    async def enqueue(self, *events: Event) -> None:
        """Queue events; return when they wait to be sent (with an outbox, when they are on disk).

        Raises the same errors as `send`.
        """
        if events:
            await self._queue.put(self._entries(events))

    async def flush(self) -> None:
        """Wait until everything put before has been accepted, rejected or given up.

        Raises ProducerClosed if the producer ends before that.
        """
        passed = asyncio.create_task(self._queue.passed(self._queue.last_id))
        task = self._running()
        try:
            await asyncio.wait({passed, task}, return_when=asyncio.FIRST_COMPLETED)
            if not passed.done():
                raise ProducerClosed("the producer ended before all events were sent")
            passed.result()
        finally:
            passed.cancel()

    async def losses(self) -> list[Rejected | GaveUp]:
        """Return the rejected and given-up events kept in the outbox, oldest first.

        Raises OutboxError, or ValueError if there is no outbox.
        """
        return [_result_of(loss) for loss in await self._kept().losses()]

    async def retry_losses(self) -> int:
        """Queue all losses again, before other events. Returns how many. Raises the errors of
        `losses`."""
        count, size = await self._kept().put_losses_back()
        await self._queue.recount(size)
        return count

    async def forget_losses(self) -> int:
        """Delete all losses. Returns how many there were. Raises the errors of `losses`."""
        return await self._kept().forget_losses()

    def _kept(self) -> Outbox:
        self._running()
        if self._outbox is None:
            raise ValueError("losses are stored in an outbox, and this producer has none")
        return self._outbox

    def _running(self) -> asyncio.Task[None]:
        """Return the delivery task. Raises ProducerClosed."""
        if self._task is None or self._task.done():
            raise ProducerClosed("the producer is closed, or was not entered with `async with`")
        return self._task

    def _entries(self, events: Sequence[Event]) -> list[Entry]:
        """Return a queue entry for each event. Raises TypeError, ValueError, ProducerClosed."""
        self._running()
        lines = [_line(event) for event in events]
        deadline = time.monotonic() + self._give_up_s
        first = self._queue.last_id + 1
        return [Entry(first + number, line, deadline) for number, line in enumerate(lines)]

    async def _run(self, http: httpx.AsyncClient) -> None:
        try:
            await self._delivery.run(http)
        except Exception:
            _log.exception("the producer failed")
            self._refuse_waiters("the producer failed")

    def _settled(self, accepted: Sequence[Entry], losses: Sequence[Loss]) -> None:
        for entry in accepted:
            waiter = self._waiters.get(entry.id)
            if waiter is not None and not waiter.done():
                waiter.set_result(Accepted(event_of(entry.line)))
        for loss in losses:
            self._report_loss(loss)

    def _report_loss(self, loss: Loss) -> None:
        result = _result_of(loss)
        waiter = self._waiters.get(loss.entry.id)
        if waiter is not None and not waiter.done():
            waiter.set_result(result)
        else:
            meta = result.event.get("meta")
            stream = cast("dict[str, Any]", meta).get("stream") if isinstance(meta, dict) else None
            _log.error("an event of %s was lost (%s): %s", stream, loss.kind, loss.reason)
        if self._on_loss is not None:
            try:
                self._on_loss(result)
            except Exception:
                _log.exception("on_loss failed")

    async def _close(self) -> None:
        task, self._task = self._task, None
        assert task is not None
        task.cancel()
        await asyncio.wait({task})
        await self._queue.end()
        if self._outbox is None:
            async for entry in self._queue.drop():
                self._report_loss(
                    Loss(entry, "gave_up", self._delivery.reason or "the producer was closed")
                )
        self._refuse_waiters("the producer was closed; the event waits in the outbox")
        await self._queue.close()
        assert self._http is not None
        await self._http.aclose()

    def _refuse_waiters(self, why: str) -> None:
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(ProducerClosed(why))


def _result_of(loss: Loss) -> Rejected | GaveUp:
    kind = Rejected if loss.kind == "rejected" else GaveUp
    return kind(event_of(loss.entry.line), loss.reason)


def _line(event: Event) -> bytes:
    """Return the event as JSON.

    Adds a `meta.id` if there is none, so that consumers can recognise duplicates. Raises TypeError,
    ValueError.
    """
    meta = event.get("meta")
    if isinstance(meta, Mapping) and "id" not in meta:
        event = {**event, "meta": {**cast("Mapping[str, Any]", meta), "id": str(uuid4())}}
    return json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _intake_url(text: str) -> httpx.URL:
    """Return the URL to post to. Raises ValueError."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"{text} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{text} is not the URL of an intake, like http://localhost:8092{_PATH}")
    return url.copy_with(path=_PATH) if url.path in ("", "/") else url


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
