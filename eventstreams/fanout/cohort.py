"""All subscriptions that want the same and stand at the same position: one rendering, many writes.

Where the server lends its connection, the bytes are framed for HTTP once and written to it while it
has room. Else the cohort drives the member's ASGI `send` itself: while the socket has room that
coroutine runs to its end at the first step, so no task is switched. When it suspends instead, the
client is slow: it leaves the cohort with that send in flight, finishes it on its own task and pulls
alone until it can join again. So a slow client costs the others one step, and holds no queue.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from eventstreams.fanout.chunk import Chunk, render
from eventstreams.fanout.compression import Piece, SharedStream, Windows
from eventstreams.fanout.connection import InFlight, Message
from eventstreams.fanout.selector import Documents
from eventstreams.fanout.tail import Tail
from eventstreams.fanout.want import Want
from eventstreams.model.position import Position

if TYPE_CHECKING:
    from eventstreams.fanout.subscription import Subscription

_TURN_S = 0.005
"""Writing lets the rest of the loop have its turn this often."""
_LOOK_EVERY = 32
"""Members written between looks at the clock."""


class Cohort:
    """`position` is where the next chunk begins; members joined there or were written up to it."""

    def __init__(self, want: Want, position: Position, tails: list[Tail], windows: Windows) -> None:
        self.want = want
        self.position = position
        self.tails = tails
        self.members: dict[Subscription, None] = {}
        self.wrote_at = time.monotonic()
        self._stream = SharedStream(want.encoding, windows)
        self._writing: list[Subscription | None] = []
        """Who is to get what is being written; None for those who left before they got it."""
        self._written = 0
        """How many of those it is done with."""

    @property
    def ends(self) -> tuple[int, ...]:
        """How far the tails reach now."""
        return tuple(tail.next for tail in self.tails)

    @property
    def fits(self) -> bool:
        """Whether the tails still reach back to this position."""
        return all(
            tail.floor <= offset <= tail.next
            for tail, offset in zip(self.tails, self.position.offsets, strict=True)
        )

    @property
    def admits(self) -> bool:
        """Whether it fits, and someone who stands here may join now."""
        return self.fits and self._stream.admits

    def close(self) -> None:
        """Without members; its window is given back."""
        self._stream.expect_member()

    def add(self, member: Subscription) -> None:
        self.members[member] = None
        member.cohort = self
        member.response.join(self._stream)

    def remove(self, member: Subscription) -> None:
        del self.members[member]
        member.cohort = None
        member.response.leave(missed_last=self._pass_over(member))

    def _pass_over(self, member: Subscription) -> bool:
        """Whether it was to get what is being written, and has not."""
        try:
            i = self._writing.index(member, self._written)
        except ValueError:
            return False
        self._writing[i] = None
        return True

    def take(self, ends: tuple[int, ...], bytes_max: int, documents: Documents) -> Chunk:
        """Renders what came up to `ends` and moves on. Must fit."""
        runs = {
            i: tail.since(offset)
            for i, (tail, offset) in enumerate(zip(self.tails, self.position.offsets, strict=True))
            if offset < ends[i]
        }
        chunk = render(self.want, self.position, runs, ends, bytes_max, documents=documents)
        self.position = chunk.position
        return chunk

    async def write(self, body: bytes, position: Position, events: int = 0) -> tuple[int, int]:
        """Writes to every member there is now; returns how many took it and how many were slow.

        Those whose client is gone are neither. Members that leave meanwhile are passed over; who
        joins while it is written stands behind this chunk.
        """
        self.wrote_at = turn = time.monotonic()
        self._writing = list(self.members)
        piece = await self._compress(body, events)
        message = {"type": "http.response.body", "body": piece.content, "more_body": True}
        framed: bytes | None = None
        taken = slow = 0
        for n, member in enumerate(self._writing, 1):
            if member is not None:
                if framed is None and member.connection is not None:
                    framed = member.connection.framed(piece.content)
                took = self._write_to(member, framed) or self._send(
                    member, message, position, piece
                )
                if took:
                    member.position = position
                    taken += 1
                elif took is not None:
                    slow += 1
            self._written = n
            if n % _LOOK_EVERY == 0 and time.monotonic() - turn > _TURN_S:
                await asyncio.sleep(0)
                turn = time.monotonic()
        self._writing, self._written = [], 0
        return taken, slow

    async def _compress(self, body: bytes, events: int) -> Piece:
        """One step in each pass of the loop. Nobody joins meanwhile; who leaves gets nothing."""
        steps = self._stream.compress(body, events)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                piece: Piece = done.value
                return piece
            await asyncio.sleep(0)

    def _write_to(self, member: Subscription, framed: bytes | None) -> bool:
        connection = member.connection
        if connection is None or framed is None:
            return False
        return connection.write_framed(framed)

    def _send(
        self, member: Subscription, message: Message, position: Position, piece: Piece
    ) -> bool | None:
        """Through ASGI; False where the client is slow, None where it is gone."""
        sending = member.send(message)
        try:
            waiting_for = sending.send(None)
        except StopIteration:
            return True
        except Exception as error:  # a server may raise when the client is gone
            member.lose(error)
            return None
        member.fall_behind(InFlight(sending, waiting_for, position, piece))
        return False
