"""Sends events from a queue to an intake, in order, until each has an outcome."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import httpx

from eventstreams.errors import OutboxError
from eventstreams.producer.answer import Answer, Fate, read, unanswered
from eventstreams.producer.queue import Entry, Loss, Queue

T = TypeVar("T")

_log = logging.getLogger(__name__)

_PAUSE_S_MAX = 30.0


class Delivery:
    def __init__(
        self,
        queue: Queue,
        *,
        url: httpx.URL,
        headers: httpx.Headers,
        batch_events: int,
        batch_bytes: int,
        linger_s: float,
        timeout_s: float,
        retry_s: float,
        give_up_s: float,
        settled: Callable[[Sequence[Entry], Sequence[Loss]], None],
    ) -> None:
        """Set the collaborators and limits.

        `settled` is called with the accepted and the lost entries after they have left the queue.
        For the other parameters see Producer.
        """
        self._queue = queue
        self._url = url
        self._headers = headers
        self._batch_events = batch_events
        self._batch_bytes = batch_bytes
        self._limit = batch_events
        """Events in a request; fewer than `batch_events` while larger requests are refused as a
        whole."""
        self._linger_s = linger_s
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._give_up_s = give_up_s
        self._settled = settled
        self._failing: dict[int, float] = {}
        """The deadline of each entry that the intake failed to store, by the id of the entry."""
        self._failures = 0
        """Consecutive requests that settled no event."""
        self.reason = ""
        """Why the most recent waiting event has to wait."""

    async def run(self, http: httpx.AsyncClient) -> None:
        """Send events until cancelled."""
        while True:
            await self._deliver(http)

    async def _deliver(self, http: httpx.AsyncClient) -> None:
        """Send one request and process its answer, or the lack of one."""
        head = partial(self._queue.head, self._limit, self._batch_bytes)
        batch = await self._until_outbox_works(head)
        if self._linger_s and len(batch) < self._limit:
            await asyncio.sleep(self._linger_s)
            batch = await self._until_outbox_works(head)
        late = [entry for entry in batch if self._failures and self._is_late(entry)]
        if late:
            await self._settle([], [Loss(entry, "gave_up", self.reason) for entry in late])
            return
        answer = await self._post(http, [entry.line for entry in batch])
        accepted, losses = self._sort(batch, answer)
        if accepted or losses:
            await self._settle(accepted, losses)
        await self._pace(batch, answer, settled=len(accepted) + len(losses))

    async def _post(self, http: httpx.AsyncClient, lines: Sequence[bytes]) -> Answer:
        body = b"[" + b",".join(lines) + b"]"
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await http.post(self._url, content=body, headers=self._headers)
        except TimeoutError:
            return unanswered(len(lines), f"no response within {self._timeout_s:g} s")
        except httpx.HTTPError as error:
            text = f"{type(error).__name__}: {error}".removesuffix(": ")
            return unanswered(len(lines), text)
        return read(found.status_code, found.headers, found.content, lines, time.time())

    def _sort(self, batch: Sequence[Entry], answer: Answer) -> tuple[list[Entry], list[Loss]]:
        """Return the accepted and the lost entries."""
        accepted: list[Entry] = []
        losses: list[Loss] = []
        for entry, (fate, reason) in zip(batch, answer.verdicts, strict=True):
            if fate is Fate.ACCEPTED:
                accepted.append(entry)
            elif fate is Fate.REJECTED:
                losses.append(Loss(entry, "rejected", reason))
            else:
                self.reason = reason
                if fate is Fate.FAILED:
                    self._failing.setdefault(entry.id, time.monotonic() + self._give_up_s)
        return accepted, losses

    def _deadline(self, entry: Entry) -> float:
        return min(entry.deadline, self._failing.get(entry.id, math.inf))

    def _is_late(self, entry: Entry) -> bool:
        return time.monotonic() >= self._deadline(entry)

    async def _settle(self, accepted: Sequence[Entry], losses: Sequence[Loss]) -> None:
        entries = [*accepted, *(loss.entry for loss in losses)]
        await self._until_outbox_works(partial(self._queue.remove, entries, losses))
        for entry in entries:
            self._failing.pop(entry.id, None)
        self._settled(accepted, losses)

    async def _until_outbox_works(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call until the outbox works, so that settled events are not sent again if the
        disk is full."""
        pause_s = self._retry_s
        while True:
            try:
                return await call()
            except OutboxError as error:
                _log.error("the outbox cannot be used, so nothing is sent: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _PAUSE_S_MAX)

    async def _pace(self, batch: Sequence[Entry], answer: Answer, *, settled: int) -> None:
        """Wait before the next request, for longer after each failure."""
        if answer.too_much and len(batch) > 1:
            self._limit = len(batch) // 2
            return
        self._limit = min(self._batch_events, self._limit + max(1, self._limit // 10))
        if settled == len(batch):
            if self._failures:
                _log.info("%s accepts events again", self._url)
            self._failures = 0
            return
        if not self._failures:
            _log.warning(
                "events are waiting because %s does not accept them: %s", self._url, self.reason
            )
        self._failures = 1 if settled else self._failures + 1
        most = min(self._retry_s * 1.5 * 2 ** min(self._failures - 1, 30), _PAUSE_S_MAX)
        pause_s = random.uniform(most / 2, most)  # noqa: S311 - no secret
        pause_s = max(pause_s, answer.wait_s * random.uniform(1.0, 1.1))  # noqa: S311 - no secret
        left_s = min(self._deadline(entry) for entry in batch) - time.monotonic()
        await asyncio.sleep(min(pause_s, max(left_s, 0.0)))
