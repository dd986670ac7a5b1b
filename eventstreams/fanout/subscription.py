"""Streams events to one client, in a loop that runs in the task of the client's request.

The subscription joins the cohort of its spec once it reaches the cohort's position. Until then it
pulls alone, from the tails or from history, as fast as the client's socket accepts the bytes. There
is no queue per client. Easy to get wrong: while the subscription is a member, its own task only
waits for the client to disconnect, and the cohort writes.

`_interrupt` wakes the task from whatever it waits for. It cancels the task and then takes the
cancellation back (as asyncio.timeout does), so that one wait per client is enough.
"""

from __future__ import annotations

import asyncio
import functools
import operator
import time
from collections.abc import Coroutine
from typing import Any, Protocol

from eventstreams.config.settings import FanoutSettings
from eventstreams.errors import (
    FilterTooCostly,
    GapFound,
    GapRecorded,
    LogError,
    LogTruncated,
    LogUnavailable,
    OffsetOutOfRange,
    RecordsDamaged,
)
from eventstreams.fanout.batch import EncodedBatch
from eventstreams.fanout.cohort import Cohort
from eventstreams.fanout.compression import EncodedBody, EncodedResponse, apart
from eventstreams.fanout.filter_budget import FilterBudget, pulls_alone
from eventstreams.fanout.gaps import MissingEvents
from eventstreams.fanout.send import (
    Allowance,
    Connection,
    End,
    EndReason,
    PendingSend,
    Receive,
    Send,
    finish_send,
    has_disconnected,
    try_send,
)
from eventstreams.fanout.spec import Format, SubscriptionSpec
from eventstreams.fanout.stop import StopOffsets, StopTracker
from eventstreams.fanout.throttle import Throttle
from eventstreams.fanout.timing import Timing
from eventstreams.filters.selector import Selector
from eventstreams.model import sse
from eventstreams.model.event import Partition
from eventstreams.model.position import Position


class SubscriptionHub(StopOffsets, Protocol):
    """The part of `Hub` that a subscription uses. `Hub` documents each of these."""

    @property
    def settings(self) -> FanoutSettings: ...

    @property
    def timing(self) -> Timing: ...

    @property
    def heartbeat_s(self) -> float: ...

    @property
    def filter_budget(self) -> FilterBudget: ...

    @property
    def moved(self) -> asyncio.Future[None]: ...

    def add(self, subscription: Subscription) -> None: ...

    def remove(self, subscription: Subscription) -> None: ...

    def join(self, subscription: Subscription) -> bool: ...

    def leave(self, subscription: Subscription) -> None: ...

    def grown(
        self, spec: SubscriptionSpec, position: Position
    ) -> tuple[SubscriptionSpec, Position]: ...

    def read(
        self,
        spec: SubscriptionSpec,
        position: Position,
        ends: tuple[int, ...],
        remaining: int | None,
        *,
        client: str,
    ) -> Coroutine[Any, Any, EncodedBatch]: ...

    def prepare(
        self, spec: SubscriptionSpec, position: Position, ends: tuple[int, ...], *, client: str
    ) -> Coroutine[Any, Any, None]: ...

    def position_after(
        self, position: Position, error: MissingEvents
    ) -> Coroutine[Any, Any, tuple[Position, dict[str, object] | None]]: ...

    def suspect(self, error: LogUnavailable) -> None: ...

    def count_out(self, events: int, clients: int) -> None: ...


class Subscription:
    __slots__ = (
        "_end",
        "_growing",
        "_hub",
        "_in_flight",
        "_interrupted",
        "_listening",
        "_lost",
        "_position",
        "_receive",
        "_reports_caught_up",
        "_task",
        "_throttle",
        "_wrote_at",
        "bound",
        "client",
        "cohort",
        "connection",
        "response",
        "send",
        "spec",
    )

    def __init__(
        self,
        *,
        hub: SubscriptionHub,
        spec: SubscriptionSpec,
        position: Position,
        response: EncodedResponse,
        receive: Receive,
        send: Send,
        connection: Connection | None,
        client: str,
        bound: StopTracker | None = None,
        allowance: Allowance | None = None,
        reports_caught_up: bool = False,
    ) -> None:
        """Create a subscription whose response has been started; `run` streams.

        `client` is the address or network that work is charged to. With `reports_caught_up`, one
        control frame reports that the position has reached the end of what the hub has read.
        """
        self.spec = spec
        self.bound = bound
        """Tracks when a stream with a stop condition ends; None for all other streams."""
        self._position = position
        self.response = response
        """The state of the response's content coding."""
        self.send = send
        self.connection = connection
        self.client = client
        self.cohort: Cohort | None = None
        self._hub = hub
        self._receive = receive
        self._task: asyncio.Task[Any] | None = None
        self._in_flight: tuple[PendingSend, Position, EncodedBody] | None = None
        self._end: End | None = None
        self._lost: dict[
            Partition, int
        ] = {}  # truncated partitions, and the offsets at which they were cut
        self._growing = True  # partitions may have been added since the spec was made
        self._reports_caught_up = reports_caught_up
        self._interrupted = False
        self._listening: asyncio.Task[None] | None = None
        self._wrote_at = time.monotonic()
        self._throttle = Throttle(
            allowance=allowance,
            share=functools.partial(_filter_share, hub, spec.selector),
            patience_s=hub.settings.filter_patience_s,
        )

    @property
    def position(self) -> Position:
        """The position of this client's next event; all events before it have been written.

        While the subscription is in a cohort, events directly before it may still be queued.
        """
        return self._position if self.cohort is None else self.cohort.position

    @position.setter
    def position(self, position: Position) -> None:
        self._position = position

    # Called by the hub and the cohort, from their own tasks.

    def end(self, reason: EndReason, error: Exception | None = None) -> None:
        """End the stream at the next frame boundary. Only the first reason given is kept."""
        if self._end is None:
            self._end = End(reason, error)
            self._interrupt()

    def grow(self) -> None:
        """Add the partitions that a topic of the spec's `growing` has gained."""
        self._hub.leave(self)
        self._growing = True
        self._interrupt()

    def truncate(self, partition: Partition, end: int) -> None:
        """Report a gap in this partition: the log has replaced its records from `end` on."""
        self._lost[partition] = min(end, self._lost.get(partition, end))
        if self.cohort is not None:
            self.leave_cohort()

    def leave_cohort(self) -> None:
        """Leave the cohort and pull alone from this subscription's own position."""
        self._hub.leave(self)
        self._interrupt()

    def try_send(self, body: bytes) -> PendingSend | None:
        """Send without waiting; see `eventstreams.fanout.send.try_send`."""
        return try_send(self.send, body)

    def fall_behind(self, pending: PendingSend, position: Position, piece: EncodedBody) -> None:
        """Leave the cohort and finish the send of `piece` alone, because the socket is full.

        `position` is the position after `piece`.
        """
        self._in_flight = (pending, position, piece)
        self.leave_cohort()

    def lose(self, error: Exception) -> None:
        """Leave the cohort and end the stream, because the client has disconnected."""
        self._hub.leave(self)
        self.end(EndReason.DISCONNECTED, error)

    def give_up(self, error: FilterTooCostly) -> None:
        """Leave the cohort and end the stream, because its filter takes too much time."""
        self._hub.leave(self)
        self.end(EndReason.FILTER_ERROR, error)

    # The client's own task.

    async def run(self) -> End:
        """Stream until the client disconnects or the stream must end; return why it ended.

        The response must have been started. The caller sends its end. Raises no eventstreams error.
        """
        self._hub.add(self)
        self._task = asyncio.current_task()
        if self.bound is not None:
            self.bound.start(self._interrupt)
        if self.bound is not None or pulls_alone(self.spec.selector):
            self._listening = asyncio.create_task(self._watch())
        try:
            while self._end is None:
                try:
                    await self._step()
                except asyncio.CancelledError:
                    if not self._interrupted:
                        raise
                    self._interrupted = False
                    assert self._task is not None
                    if self._task.uncancel() > 0:
                        raise
            timed_out = self.connection is not None and self.connection.timed_out
            stalled = timed_out and self._end.reason is EndReason.DISCONNECTED
            return End(EndReason.STALLED) if stalled else self._end
        finally:
            self._hub.remove(self)
            self._task = None
            if self.bound is not None:
                self.bound.stop()
            if self._listening is not None:
                self._listening.cancel()
                self._listening = None  # a cancelled task refers to its frames, and so to this
            if self._in_flight is not None:
                self._in_flight[0].sending.close()

    async def _step(self) -> None:
        if self._in_flight is not None:
            (pending, position, piece), self._in_flight = self._in_flight, None
            if await self._finish(pending):
                self.response.took(piece)
                self.position = position
            return
        if self._lost:
            await self._report_truncation()
            return
        if self._growing:
            await self._grow()
        if self._reports_caught_up and not self.position.is_behind(self._hub.ends(self.spec)):
            self._reports_caught_up = False
            await self.write(self.spec.caught_up(self.id_of(self.position)))
            return
        try:
            if self.bound is not None:
                await self._pull_to_the_end(self.bound)
            elif self._hub.join(self):
                await self._listen()
            else:
                await self._pull(self._hub.ends(self.spec))
        except LogUnavailable as error:
            await self._wait_for_log(error)
        except (OffsetOutOfRange, RecordsDamaged, LogTruncated, GapRecorded) as error:
            await self._report_gap(error)
        except LogError as error:
            self._end = self._end or End(EndReason.LOG_ERROR, error)
        except FilterTooCostly as error:
            self._end = self._end or End(EndReason.FILTER_ERROR, error)

    async def _grow(self) -> None:
        self._growing = False
        self.spec, self.position = self._hub.grown(self.spec, self.position)
        if self.position.is_long:
            await asyncio.sleep(0)  # what follows looks at every partition again

    async def _watch(self) -> None:
        """Watch for a disconnect on behalf of a main task that never waits for one."""
        await self._listen()
        self._interrupt()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end = self._end or End(EndReason.DISCONNECTED)

    async def _pull_to_the_end(self, bound: StopTracker) -> None:
        """Pull towards the stop condition. Such a stream never joins a cohort."""
        ends = await bound.ends(self.spec, self._hub)
        if bound.is_reached(self.position):
            self._end = self._end or End(EndReason.FINISHED)
        else:
            await self._pull(ends)

    async def _pull(self, ends: tuple[int, ...]) -> None:
        if not self.position.is_behind(ends):
            self._throttle.caught_up()
            await self._wait(self._hub.moved)  # ahead of the cohort: wait for it to catch up
            return
        behind = None if self.bound else sum(map(operator.sub, ends, self.position.offsets))
        if (rest_s := await self._throttle.rest_s(behind)) > 0:
            await self._pause(rest_s)
            return
        batch = await self._hub.read(
            self.spec, self.position, ends, self.remaining, client=self.client
        )
        self._throttle.looked(batch)
        if pulls_alone(self.spec.selector):
            self._hub.filter_budget.streams.add(batch.selecting_s)
        if batch.piece is not None:
            ahead = (batch.position, ends) if self.remaining is None else None
            if not await self._write(batch.piece, ahead):
                return
            self._hub.count_out(batch.piece.events, 1)
            self._throttle.sent(len(batch.piece.content))
            if self.bound is not None:
                self.bound.count(batch.piece.events)
        self.position = batch.position
        if batch.piece is None and self._gone():  # without a write, a disconnect shows only here
            return
        if batch.piece is None and time.monotonic() - self._wrote_at >= self._hub.heartbeat_s:
            await self.write(self.heartbeat())  # a filter may reject events for a long time
        elif batch.position.is_behind(ends):
            await asyncio.sleep(0)

    async def write(self, body: bytes) -> bool:
        """Send bytes to the client; return False if the stream has ended instead."""
        return await self._write(apart(self.response.encoding, body))

    async def _write(
        self, piece: EncodedBody, ahead: tuple[Position, tuple[int, ...]] | None = None
    ) -> bool:
        """Send one piece; return False if the stream has ended instead.

        `ahead` is the position and the ends of the next batch, which is prepared while the socket
        is full.
        """
        self._wrote_at = time.monotonic()
        try:
            pending = self.try_send(piece.content)
        except Exception as error:
            self._end = self._end or End(EndReason.DISCONNECTED, error)
            return False
        sent = pending is None or await self._finish(pending, ahead)
        if sent:
            self.response.took(piece)
        return sent and not self._gone()

    async def _finish(
        self, pending: PendingSend, ahead: tuple[Position, tuple[int, ...]] | None = None
    ) -> bool:
        """Finish a suspended send; return False if the stream has ended instead."""
        stall_timeout_s = self._hub.settings.stall_timeout_s
        try:
            if ahead is not None:
                await self._hub.prepare(self.spec, *ahead, client=self.client)
            end = await finish_send(pending, self.connection, stall_timeout_s)
        finally:
            pending.sending.close()
        self._end = self._end or end
        return end is None

    async def _wait(self, future: asyncio.Future[None]) -> None:
        """Wait for the future or until a heartbeat is due, then send the heartbeat."""
        if self._gone():
            return
        due = self._wrote_at + self._hub.heartbeat_s - time.monotonic()
        done, _ = await asyncio.wait({future}, timeout=max(0.0, due))
        if not done:
            await self.write(self.heartbeat())

    async def _wait_for_log(self, error: LogUnavailable) -> None:
        """Pause before the next attempt. The hub ends the stream if the log stays unreachable."""
        self._hub.suspect(error)
        await self._pause(self._hub.timing.retry_s)

    async def _pause(self, seconds: float) -> None:
        """Wait for up to `seconds`, sending heartbeats and checking for a disconnect."""
        loop = asyncio.get_running_loop()
        again: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, again.cancel)
        try:
            await self._wait(again)
        finally:
            timer.cancel()

    async def _report_truncation(self) -> None:
        partition, end = self._lost.popitem()
        before = self.position
        offset = before.offsets[before.partitions.index(partition)]
        if offset <= end:
            return
        try:
            await self._report_gap(LogTruncated(partition, offset, end))
        finally:
            if self.position is before:  # the gap was not reported yet
                self._lost[partition] = min(end, self._lost.get(partition, end))

    async def _report_gap(self, error: MissingEvents) -> None:
        """Report that the next records are lost or damaged, and continue after them."""
        try:
            position, gap = await self._hub.position_after(self.position, error)
        except LogUnavailable as failed:
            await self._wait_for_log(failed)
            return
        except LogError as failed:
            self._end = self._end or End(EndReason.LOG_ERROR, failed)
            return
        if gap is None:
            self.position = position
        elif self.spec.gap_fails:
            self._end = self._end or End(EndReason.GAP, GapFound(gap))
        elif self.spec.format is not Format.SSE:
            self._end = self._end or End(EndReason.GAP)  # NDJSON has no frame for a gap
        elif await self.write(sse.control("gap", gap, self.id_of(position))):
            self.position = position

    def id_of(self, position: Position) -> bytes:
        """Return the id with which a client can resume from `position`."""
        return position.encode() if self.bound is None else self.bound.id_of(position)

    @property
    def remaining(self) -> int | None:
        """How many events may still be sent; None if there is no such limit."""
        return None if self.bound is None else self.bound.stop_condition.remaining

    def heartbeat(self) -> bytes:
        """Return a heartbeat, with the current id if the client asked for checkpoints."""
        return self.spec.heartbeat(self.id_of(self.position) if self.spec.checkpoints else b"")

    def _gone(self) -> bool:
        """Return, without waiting, whether the client has disconnected."""
        if not has_disconnected(self._receive):
            return False
        self._end = self._end or End(EndReason.DISCONNECTED)
        return True

    def _interrupt(self) -> None:
        if self._task is not None and not self._interrupted:
            assert self._task is not asyncio.current_task()
            self._interrupted = True
            self._task.cancel()


def _filter_share(hub: SubscriptionHub, selector: Selector | None) -> float:
    """Return the share of one processor that selecting events for one stream may use."""
    share = hub.settings.filter_share
    return min(share, hub.filter_budget.stream_share) if pulls_alone(selector) else share
