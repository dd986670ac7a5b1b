"""One client's walk: a position and a loop on the task of its request.

The loop joins the cohort of those who want the same when it stands where they stand; until then it
pulls alone, from the tails or from history, as fast as its socket takes it. Nobody queues for it.
What a reader gets wrong most easily: as a member this task only waits, and the cohort writes.

`interrupt` wakes the task from whatever it waits for. It does so by cancelling the task and taking
the cancellation back (as asyncio.timeout does), so that one wait per client is enough.
"""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from eventstreams.errors import (
    FilterTooCostly,
    GapFound,
    LogError,
    LogTruncated,
    LogUnavailable,
    OffsetOutOfRange,
    RecordsDamaged,
)
from eventstreams.fanout.bound import Bound
from eventstreams.fanout.compression import EncodedResponse, Piece, apart
from eventstreams.fanout.connection import Allowance, Connection, InFlight, Receive, Send
from eventstreams.fanout.ending import End, Reason
from eventstreams.fanout.selector import is_costly
from eventstreams.fanout.sending import carry
from eventstreams.fanout.throttle import Throttle
from eventstreams.fanout.want import Format, Want
from eventstreams.model import sse
from eventstreams.model.event import Partition
from eventstreams.model.position import Position

if TYPE_CHECKING:
    from eventstreams.fanout.cohort import Cohort
    from eventstreams.fanout.hub import Hub

_RETRY_LOG_S = 0.5


class Subscription:
    __slots__ = (
        "_end",
        "_growing",
        "_hub",
        "_in_flight",
        "_interrupted",
        "_listening",
        "_lost",
        "_receive",
        "_task",
        "_throttle",
        "_wrote_at",
        "bound",
        "client",
        "cohort",
        "connection",
        "position",
        "response",
        "send",
        "want",
    )

    def __init__(
        self,
        *,
        hub: Hub,
        want: Want,
        position: Position,
        response: EncodedResponse,
        receive: Receive,
        send: Send,
        connection: Connection | None,
        client: str,
        bound: Bound | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        """`client`: whose turns it takes, an address or a network."""
        self.want = want
        self.bound = bound
        """Of a stream that ends by itself."""
        self.position = position
        """Where the next event for this client is; everything before it was written."""
        self.response = response
        """What has been sent, as its encoding has to know it."""
        self.send = send
        self.connection = connection
        self.client = client
        self.cohort: Cohort | None = None
        self._hub = hub
        self._receive = receive
        self._task: asyncio.Task[Any] | None = None
        self._in_flight: InFlight | None = None
        self._end: End | None = None
        self._lost: dict[Partition, int] = {}  # truncated partitions, and from where on
        self._growing = True  # partitions may have come since the want was made
        self._interrupted = False
        self._listening: asyncio.Task[None] | None = None
        self._wrote_at = time.monotonic()
        self._throttle = Throttle(
            allowance=allowance,
            share=hub.settings.filter_share,
            patience_s=hub.settings.filter_patience_s,
        )

    # What the hub and the cohort call, from their tasks.

    def end(self, reason: Reason, error: Exception | None = None) -> None:
        """Ends the stream at the next frame boundary. The first reason given stands."""
        if self._end is None:
            self._end = End(reason, error)
            self._interrupt()

    def grow(self) -> None:
        """A topic that is wanted whole has gained partitions."""
        self._hub.leave(self)
        self._growing = True
        self._interrupt()

    def truncate(self, partition: Partition, end: int) -> None:
        """The log holds other records of it from `end` on."""
        self._lost[partition] = min(end, self._lost.get(partition, end))
        if self.cohort is not None:
            self.leave_cohort()

    def leave_cohort(self) -> None:
        """The cohort ends or moves on without this member, which pulls from its own position."""
        self._hub.leave(self)
        self._interrupt()

    def fall_behind(self, in_flight: InFlight) -> None:
        """The client's socket is full."""
        self._in_flight = in_flight
        self.leave_cohort()

    def lose(self, error: Exception) -> None:
        self._hub.leave(self)
        self.end(Reason.DISCONNECTED, error)

    # The client's own task.

    async def run(self) -> End:
        """Streams until the client goes, or the stream must end; says why. Raises nothing of ours.

        The response has been started; what is to be said at its end is the caller's.
        """
        self._hub.add(self)
        self._task = asyncio.current_task()
        if self.bound is not None:
            self.bound.start(self._interrupt)
        if self.bound is not None or is_costly(self.want.selector):
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
            stalled = self._end.reason is Reason.DISCONNECTED and self._timed_out
            return End(Reason.STALLED) if stalled else self._end
        finally:
            self._hub.remove(self)
            self._task = None
            if self.bound is not None:
                self.bound.stop()
            if self._listening is not None:
                self._listening.cancel()
            if self._in_flight is not None:
                self._in_flight.sending.close()

    async def _step(self) -> None:
        if self._in_flight is not None:
            late, self._in_flight = self._in_flight, None
            if await self._finish(late.sending, late.waiting_for):
                self.response.took(late.piece)
                self.position = late.position
            return
        if self._lost:
            await self._tell_truncation()
            return
        if self._growing:
            self._growing = False
            self.want, self.position = self._hub.grown(self.want, self.position)
        try:
            if self.bound is not None:
                await self._pull_to_the_end(self.bound)
            elif self._hub.join(self):
                await self._listen()
            else:
                await self._pull(self._hub.ends(self.want))
        except LogUnavailable as error:
            await self._wait_for_log(error)
        except (OffsetOutOfRange, RecordsDamaged, LogTruncated) as error:
            await self._tell_gap(error)
        except LogError as error:
            self._end = self._end or End(Reason.LOG_ERROR, error)
        except FilterTooCostly as error:
            self._end = self._end or End(Reason.FILTER_ERROR, error)

    async def _watch(self) -> None:
        """Beside a task that never listens itself."""
        await self._listen()
        self._interrupt()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end = self._end or End(Reason.DISCONNECTED)

    async def _pull_to_the_end(self, bound: Bound) -> None:
        """A bounded stream pulls alone: where it stands is its own."""
        ends = await bound.ends(self.want, self._hub)
        if bound.is_reached(self.position):
            self._end = self._end or End(Reason.FINISHED)
        else:
            await self._pull(ends)

    async def _pull(self, ends: tuple[int, ...]) -> None:
        if not self.position.is_behind(ends):
            self._throttle.caught_up()
            await self._wait(self._hub.moved)  # ahead of the cohort: wait until it comes by
            return
        behind = None if self.bound else sum(map(operator.sub, ends, self.position.offsets))
        if (rest_s := await self._throttle.rest_s(behind)) > 0:
            await self._pause(rest_s)
            return
        chunk = await self._hub.catch_up.chunk(
            self.want, self.position, ends, self.left, client=self.client
        )
        self._throttle.looked(chunk)
        if chunk.piece is not None:
            ahead = (chunk.position, ends) if self.left is None else None
            if not await self._write(chunk.piece, ahead):
                return
            self._hub.count_out(chunk.piece.events, 1)
            self._throttle.sent(len(chunk.piece.content))
            if self.bound is not None:
                self.bound.count(chunk.piece.events)
        self.position = chunk.position
        if chunk.piece is None and self._gone():  # nothing was written that would tell
            return
        if chunk.piece is None and time.monotonic() - self._wrote_at >= self._hub.heartbeat_s:
            await self.write(self.heartbeat())  # a filter may pass over very much
        elif chunk.position.offsets != ends:
            await asyncio.sleep(0)

    async def write(self, body: bytes) -> bool:
        """Sends; False where the stream has ended instead."""
        return await self._write(apart(self.response.encoding, body))

    async def _write(
        self, piece: Piece, ahead: tuple[Position, tuple[int, ...]] | None = None
    ) -> bool:
        """`ahead`: from where to where the next chunk can be made while the socket is full."""
        self._wrote_at = time.monotonic()
        message = {"type": "http.response.body", "body": piece.content, "more_body": True}
        sending = self.send(message)
        try:
            waiting_for = sending.send(None)
        except StopIteration:
            sent = True
        except Exception as error:
            self._end = self._end or End(Reason.DISCONNECTED, error)
            return False
        else:
            sent = await self._finish(sending, waiting_for, ahead)
        if sent:
            self.response.took(piece)
        return sent and not self._gone()

    async def _finish(
        self,
        sending: Coroutine[Any, Any, None],
        waiting_for: Any,
        ahead: tuple[Position, tuple[int, ...]] | None = None,
    ) -> bool:
        """Carries a suspended send to its end, as long as the client takes bytes at all."""
        stall_timeout_s = self._hub.settings.stall_timeout_s
        try:
            if ahead is not None:
                await self._hub.catch_up.prepare(self.want, *ahead, client=self.client)
            end = await carry(sending, waiting_for, self.connection, stall_timeout_s)
        finally:
            sending.close()
        self._end = self._end or end
        return end is None

    async def _wait(self, future: asyncio.Future[None]) -> None:
        """Waits for the future, with heartbeats; finds out when the client has gone."""
        if self._gone():
            return
        due = self._wrote_at + self._hub.heartbeat_s - time.monotonic()
        done, _ = await asyncio.wait({future}, timeout=max(0.0, due))
        if not done:
            await self.write(self.heartbeat())

    async def _wait_for_log(self, error: LogUnavailable) -> None:
        """The hub ends all streams when its patience is over; until then, try again."""
        self._hub.feed.suspect(error)
        await self._pause(_RETRY_LOG_S)

    async def _pause(self, seconds: float) -> None:
        """Heartbeats go on, and the client's end is found out."""
        loop = asyncio.get_running_loop()
        again: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _resolve, again)
        try:
            await self._wait(again)
        finally:
            timer.cancel()

    async def _tell_truncation(self) -> None:
        partition, end = self._lost.popitem()
        before = self.position
        offset = before.offsets[before.partitions.index(partition)]
        if offset <= end:
            return
        try:
            await self._tell_gap(LogTruncated(partition, offset, end))
        finally:
            if self.position is before:  # still to be told
                self._lost[partition] = min(end, self._lost.get(partition, end))

    async def _tell_gap(self, error: OffsetOutOfRange | RecordsDamaged | LogTruncated) -> None:
        """Reports that the next records are lost or damaged, and continues behind them."""
        try:
            position, gap = await self._hub.gaps.after(self.position, error)
        except LogUnavailable as failed:
            await self._wait_for_log(failed)
            return
        except LogError as failed:
            self._end = self._end or End(Reason.LOG_ERROR, failed)
            return
        if gap is None:
            self.position = position
        elif self.want.gap_fails:
            self._end = self._end or End(Reason.GAP, GapFound(gap))
        elif self.want.format is not Format.SSE:
            self._end = self._end or End(Reason.GAP)  # NDJSON has no way to say it
        elif await self.write(sse.control("gap", gap, self.id_of(position))):
            self.position = position

    def id_of(self, position: Position) -> bytes:
        """What the client is to send to go on from there."""
        return position.encode() if self.bound is None else self.bound.id_of(position)

    @property
    def left(self) -> int | None:
        """How many events are still to be sent, where that is bounded."""
        return None if self.bound is None else self.bound.extent.left

    def heartbeat(self) -> bytes:
        return self.want.heartbeat(self.id_of(self.position) if self.want.checkpoints else b"")

    @property
    def _timed_out(self) -> bool:
        return self.connection is not None and self.connection.timed_out

    def _gone(self) -> bool:
        """Looks, without waiting, whether the client has disconnected."""
        receiving = self._receive()
        try:
            receiving.send(None)
        except StopIteration as received:
            if received.value["type"] == "http.disconnect":
                self._end = self._end or End(Reason.DISCONNECTED)
                return True
        receiving.close()
        return False

    def _interrupt(self) -> None:
        if self._task is not None and not self._interrupted:
            assert self._task is not asyncio.current_task()
            self._interrupted = True
            self._task.cancel()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
