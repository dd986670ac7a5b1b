"""Writes each batch once for all subscriptions with the same spec at the same position.

The `CohortGroup` that a cohort belongs to examines events, queues batches and has the position.

If the server exposes its connection, the bytes are framed for HTTP once and written directly to
each connection that has room. Otherwise the cohort drives the member's ASGI `send` itself: while
the socket has room, that coroutine completes at its first step, so no task switch is needed. If it
suspends instead, the client is slow. The member then leaves the cohort, finishes that send in its
own task and pulls alone until it can join again. A slow client thus costs the others one step, and
no queue is kept for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from eventstreams.errors import FilterTooCostly
from eventstreams.fanout.batch import framer
from eventstreams.fanout.compression import (
    CompressionWindows,
    EncodedBody,
    EncodedResponse,
    Encoding,
    SharedStream,
)
from eventstreams.fanout.send import Connection, PendingSend
from eventstreams.fanout.spec import SubscriptionSpec
from eventstreams.fanout.timing import Timing
from eventstreams.model.position import Position


class Group(Protocol):
    """The part of `CohortGroup` that a cohort uses."""

    @property
    def position(self) -> Position: ...

    @property
    def fits(self) -> bool: ...


class Member(Protocol):
    """The part of `Subscription` that a cohort uses."""

    client: str
    """The address or network of the client."""
    cohort: Cohort | None
    """The cohort that it is a member of; the cohort itself sets this."""

    response: EncodedResponse
    connection: Connection | None

    @property
    def position(self) -> Position:
        """The position of the member's next event. The cohort sets it when the member leaves."""
        ...

    @position.setter
    def position(self, position: Position) -> None: ...

    def try_send(self, body: bytes) -> PendingSend | None:
        """Send through ASGI without waiting; see `eventstreams.fanout.send.try_send`."""
        ...

    def fall_behind(self, pending: PendingSend, position: Position, piece: EncodedBody) -> None:
        """Leave the cohort and finish this send of `piece` alone, because the socket is full.

        `position` is the position after `piece`.
        """
        ...

    def lose(self, error: Exception) -> None:
        """Leave the cohort and end the stream, because the client has disconnected."""
        ...

    def give_up(self, error: FilterTooCostly) -> None:
        """Leave the cohort and end the stream, because its filter takes too much time."""
        ...

    def leave_cohort(self) -> None:
        """Leave the cohort and continue from the member's own position."""
        ...


class Cohort:
    """Members that receive the same batches. Its position is that of its group.

    Between batches a cohort is at rest, and every member has received all events before the
    position. A batch is queued, and then written to those who were members when it was queued.
    """

    __slots__ = (
        *("_before", "_parts", "_stream", "_timing", "_writing", "_written"),
        *("events", "framed", "group", "members", "selecting_s", "spec", "window", "wrote_at"),
    )

    def __init__(
        self, spec: SubscriptionSpec, group: Group, windows: CompressionWindows, timing: Timing
    ) -> None:
        self.spec = spec
        self.group = group
        self.framed = framer(spec)
        self.members: dict[Member, None] = {}
        self.wrote_at = time.monotonic()
        self.selecting_s = 0.0
        """Time spent on selecting its events in `window`, in seconds."""
        self.window = 0
        self._stream = SharedStream(spec.encoding, windows)
        self._timing = timing
        self._parts: Sequence[bytes] | None = None
        """The parts of the batch that is queued and of which nothing has been written yet."""
        self.events = 0
        """The number of events in the batch that was queued last."""
        self._before = group.position
        """The position before the batch that is queued or being written."""
        self._writing: list[Member | None] = []
        """Recipients of that batch; None for members that left before receiving it."""
        self._written = 0
        """How many recipients have been handled."""

    @property
    def position(self) -> Position:
        """Where its next batch begins."""
        return self.group.position

    @property
    def admits(self) -> bool:
        """Whether a subscription at the cohort's position may join now."""
        is_due = self.is_queued and self.spec.encoding is not Encoding.IDENTITY
        return self.group.fits and not is_due and self._stream.admits

    def close(self) -> None:
        """Release the compression window. The cohort must have no members."""
        self._stream.expect_member()

    def add(self, member: Member) -> None:
        self.members[member] = None
        member.cohort = self
        member.response.join(self._stream)

    def remove(self, member: Member) -> None:
        """Remove a member, and set its position to where its next event is."""
        missed = self._pass_over(member)
        del self.members[member]
        member.cohort = None
        member.position = self._before if missed else self.position
        member.response.leave(missed_last=missed and self._parts is None)

    def end(self, error: FilterTooCostly) -> Iterator[None]:
        """Make all members leave, and end their streams with this error, one in each step."""
        for member in list(self.members):
            if member in self.members:  # it may have left since
                member.give_up(error)
                yield

    def dissolve(self) -> None:
        """Make all members leave. They continue on their own."""
        for member in list(self.members):
            member.leave_cohort()

    def queue(self, parts: Sequence[bytes], events: int, before: Position) -> None:
        """Set the next batch for the current members; `write` writes it.

        The `parts` are joined only when the batch is written: many cohorts may have a batch queued,
        and until then these share the parts that are whole events. `before` is the position before
        the events. The group's position is the one after them.
        """
        assert not self.is_queued
        self._parts, self.events, self._before = parts, events, before
        self._writing = [*self.members]
        self._written = 0

    @property
    def is_queued(self) -> bool:
        """Whether a batch is queued of which nothing has been written yet."""
        return self._parts is not None

    def spend(self, seconds: float, window: int) -> None:
        """Record time that selecting its events took in this window."""
        if self.window != window:
            self.window, self.selecting_s = window, 0.0
        self.selecting_s += seconds

    def forget_rendered(self) -> None:
        """Make those members leave that have not received the current batch yet, because its
        content may have changed. They pull its events on their own."""
        for member in self._writing[self._written :]:
            if member is not None:
                member.leave_cohort()

    def _pass_over(self, member: Member) -> bool:
        """Remove the member from the recipients of the current batch; return whether it was one
        that had not received the batch yet."""
        try:
            i = self._writing.index(member, self._written)
        except ValueError:
            return False
        self._writing[i] = None
        return True

    async def write(self) -> tuple[int, int]:
        """Write the queued batch; return how many members took it and how many were slow.

        Disconnected clients count as neither. Members that leave during the write are skipped.
        """
        parts, position = self._parts, self.position
        assert parts is not None
        self.wrote_at = turn_began = time.monotonic()
        piece = await self._compress(b"".join(parts), self.events)
        del parts
        turn_s, members_per_look = self._timing.turn_s, self._timing.members_per_look
        framed: bytes | None = None
        taken = slow = 0
        for n, member in enumerate(self._writing, 1):
            if member is not None:
                if framed is None and member.connection is not None:
                    framed = member.connection.framed(piece.content)
                took = self._write_to(member, framed) or self._send(member, position, piece)
                if took:
                    taken += 1
                elif took is not None:
                    slow += 1
            self._written = n
            if n % members_per_look == 0 and time.monotonic() - turn_began > turn_s:
                await asyncio.sleep(0)
                turn_began = time.monotonic()
        self._before, self._writing, self._written = position, [], 0
        return taken, slow

    async def _compress(self, body: bytes, events: int) -> EncodedBody:
        """Compress in steps, one in each pass of the event loop.

        No member can join until this is done; members that leave do not receive the batch.
        """
        steps = self._stream.compress(body, events, keeps_window=events > 0)
        self._parts = None  # from here on, members that leave have missed a batch of the stream
        while True:
            try:
                next(steps)
            except StopIteration as done:
                piece: EncodedBody = done.value
                return piece
            await asyncio.sleep(0)

    def _write_to(self, member: Member, framed: bytes | None) -> bool:
        connection = member.connection
        if connection is None or framed is None:
            return False
        return connection.write_framed(framed)

    def _send(self, member: Member, position: Position, piece: EncodedBody) -> bool | None:
        """Send through ASGI; return False if the client is slow, None if it has disconnected."""
        try:
            pending = member.try_send(piece.content)
        except Exception as error:  # a server may raise when the client is gone
            member.lose(error)
            return None
        if pending is None:
            return True
        member.fall_behind(pending, position, piece)
        return False
