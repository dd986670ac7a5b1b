"""Fair turns on the event loop for the work that clients cause.

Parsing a body, validating events and evaluating filters take time on the event loop, and every
stream waits while they run. Such work is cut into short pieces, and each piece runs in a turn:

    async with turns.turn(client):
        ...  # a few milliseconds at most, without an `await`

Code that handles a whole request runs through `turns.run(client, work)`: it begins in a turn, and
the time of each of its steps is charged to the client.

The pieces of all clients together run for about `PASS_S`. Further pieces wait for a few passes of
the event loop in which none runs, so that an event that goes from task to task on its way to the
streams waits for pieces once or twice, and not at each of its steps. Then the client that has used
the least time since pieces began to wait is next. Neither many requests nor many clients delay a
step of the streams by more than PASS_S and one piece, and a client that causes much work delays
mainly itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, TypeVar, cast

T = TypeVar("T")

PASS_S = 0.002
"""How long clients' work runs before other work is next, in seconds. The last piece may exceed
it."""
RESTS = 5
"""The number of passes of the event loop that then run without clients' work. A pass takes a few
microseconds if there is nothing else to do, and an event needs no more passes to reach the
streams."""
HOLD_S_MAX = 0.02
"""How long `hold_back` delays clients' work at most before a pass runs, in seconds."""
PIECE_S = 0.002
"""How long one piece should take at most, in seconds, before it waits for another turn."""
_CLIENTS_MAX = 10_000
"""How many clients are remembered. Beyond it, the half that has used least time is forgotten."""


class Turns:
    """Lets pieces of work run one after the other, fairly between clients."""

    def __init__(
        self,
        *,
        pass_s: float = PASS_S,
        hold_s_max: float = HOLD_S_MAX,
        clients_max: int = _CLIENTS_MAX,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pass_s = pass_s
        self._hold_s_max = hold_s_max
        self._clients_max = clients_max
        self._clock = clock
        self._spent_s = 0.0
        """The time used since other work was next."""
        self._rested = 0
        """The number of passes without clients' work since then."""
        self._pass_ends = False
        """Whether `_begin_pass` is scheduled."""
        self._used_s: dict[str, float] = {}
        """The time used by each client, on a common scale that begins at `_floor_s`. It is cleared
        when a pass begins and no work waits, because time that no other client needed must not
        count: otherwise a client that has worked for days would wait until an attacker has used as
        much."""
        self._floor_s = 0.0
        """The used time at which new clients, and those that were idle for a while, begin."""
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._order: list[tuple[float, int, str]] = []
        """A heap of the clients that wait, by the time they have used."""
        self._sequence = 0
        self._holds = 0
        """The number of `hold_back` blocks that are running."""
        self._hold_ends: asyncio.TimerHandle | None = None
        """The timer that ends the delay of a pass. It runs until the pass begins, even if it is no
        longer held back; None otherwise."""
        self._has_waited = False
        """Whether the next pass has waited for the maximum time and must run."""

    @property
    def waiting(self) -> int:
        """How many pieces of work wait for a turn."""
        return sum(len(each) for each in self._waiting.values())

    @property
    def remembered(self) -> int:
        """How many clients have their used time remembered."""
        return len(self._used_s)

    @property
    def busy(self) -> bool:
        """Whether new work must wait for its turn."""
        return bool(self._waiting) or self._spent_s >= self._pass_s

    async def run(self, client: str, work: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine, beginning in a turn of the client; return its result.

        Only the first step, up to the first wait, runs in the turn. Later steps run as soon as what
        they wait for is done, so they must be short.
        """
        try:
            if self.busy:
                await self._wait(client)
        except BaseException:
            work.close()
            raise
        return await _metered(work, lambda spent_s: self.charge(client, spent_s), self._clock)

    def turn(self, client: str) -> AbstractAsyncContextManager[None]:
        """Return a context manager for a turn of the client, an address or a network.

        The block must not await anything.
        """
        return _Turn(self, client)

    async def run_steps(self, client: str, steps: Generator[None, None, T]) -> T:
        """Run work that yields wherever it may be interrupted, in turns of PIECE_S each.

        Return its result. If it must wait, the passes run it themselves, so that one pass can hold
        as many short pieces of work as fit.
        """
        began = self._clock()
        if not self.busy:
            try:
                self._advance(steps, began)
            except StopIteration as done:
                result: T = done.value
                return result
            finally:
                self.charge(client, self._clock() - began)
        return cast("T", await self._wait(client, steps))

    def _advance(self, steps: Generator[None, None, Any], began: float) -> None:
        """Run one piece. Raises StopIteration at the end of the work."""
        ends = began + PIECE_S
        next(steps)
        while self._clock() < ends:
            next(steps)

    async def pause(self, client: str) -> None:
        """Let other work run, within `run`; what follows begins in a turn of the client."""
        await asyncio.sleep(0)  # meanwhile `run` charges the client for what it has done
        if self.busy:
            await self._wait(client)

    @contextlib.contextmanager
    def hold_back(self) -> Generator[None]:
        """Delay the work of clients that waits for a turn until the end of the block.

        This is for short work in a thread that every stream waits for. Such a thread needs the
        interpreter's lock a dozen times, and gets it at once only while the event loop is idle. If
        blocks without a pause between them take longer than HOLD_S_MAX, one pass runs in each such
        period.
        """
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if not self._holds and self._hold_ends is not None:
                self._schedule()  # the timer runs on, because another block may begin at once

    def _is_held_back(self) -> bool:
        """Return whether the next pass must wait. If so, it has been scheduled."""
        if not self._holds or self._has_waited:
            return False
        if self._hold_ends is None:
            loop = asyncio.get_running_loop()
            self._hold_ends = loop.call_later(self._hold_s_max, self._end_hold)
        return True

    def _end_hold(self) -> None:
        self._hold_ends = None
        self._has_waited = True
        self._schedule()

    def _forget_hold(self) -> None:
        """Let the pass after the one that begins now be held back again."""
        self._has_waited = False
        if self._hold_ends is not None:
            self._hold_ends.cancel()
            self._hold_ends = None

    async def begin(self, client: str) -> float:
        """Wait for a turn of the client; return when it began. The caller must call `end`."""
        if self.busy:
            await self._wait(client)
        return self._clock()

    def end(self, client: str, began: float) -> None:
        """Charge the client for a turn that began at `began`."""
        self.charge(client, self._clock() - began)

    async def _wait(self, client: str, steps: Generator[None, None, Any] | None = None) -> Any:
        """Wait for a turn; with `steps`, until these have completed. Return their result."""
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if client not in self._waiting:
            self._waiting[client] = deque()
            self._push(client)
        self._waiting[client].append(_Waiting(ended, steps))
        self._schedule()
        try:
            return await ended
        finally:
            del ended  # an error that it holds refers to this frame: see `_run_piece`

    def charge(self, client: str, spent_s: float) -> None:
        """Charge the client for work that ran without a turn, because it could not wait."""
        self._spent_s += spent_s
        self._used_s[client] = self._used_by(client) + spent_s
        if len(self._used_s) > self._clients_max:
            self._forget_half()
        self._schedule()

    def _forget_half(self) -> None:
        """Raise the floor to the median, so that this is done once for many new clients."""
        used = sorted(self._used_s.values())
        floor = self._floor_s = max(self._floor_s, used[len(used) // 2])
        self._used_s = {name: used for name, used in self._used_s.items() if used > floor}

    def _used_by(self, client: str) -> float:
        return max(self._used_s.get(client, 0.0), self._floor_s)

    def _push(self, client: str) -> None:
        self._sequence += 1
        heapq.heappush(self._order, (self._used_by(client), self._sequence, client))

    def _schedule(self) -> None:
        if not self._pass_ends:
            self._pass_ends = True
            asyncio.get_running_loop().call_soon(self._begin_pass)

    def _begin_pass(self) -> None:
        self._pass_ends = False
        if self._waiting and self._spent_s >= self._pass_s:
            if self._is_held_back():
                return
            if self._rested < RESTS:
                self._rested += 1
                self._schedule()
                return
        if self._spent_s >= self._pass_s or not self._waiting:
            self._spent_s, self._rested = 0.0, 0
            self._forget_hold()
        if not self._waiting:
            self._used_s.clear()
        while self._order and self._spent_s < self._pass_s:
            used_s, _, client = heapq.heappop(self._order)
            if used_s < self._used_by(client):  # the client has used time since it was queued
                self._push(client)
                continue
            self._floor_s = max(self._floor_s, used_s)
            if self._begin_first(client):
                break
        if self._waiting:
            self._schedule()

    def _begin_first(self, client: str) -> bool:
        """Start the client's oldest piece of work.

        Return True if it runs later in this pass, so that its time is not known yet.
        """
        queue = self._waiting[client]
        is_later = False
        while queue:
            if queue[0].ended.done():  # its task was cancelled
                queue.popleft()
                continue
            if queue[0].steps is None:
                queue.popleft().ended.set_result(None)
                is_later = True
            else:
                self._run_piece(client, queue)
            break
        if queue:
            self._push(client)
        else:
            del self._waiting[client]
        return is_later

    def _run_piece(self, client: str, queue: deque[_Waiting]) -> None:
        """Run one piece of the oldest work, and requeue the work unless it has completed.

        An error refers to the frames that it passed through, and these may hold megabytes. None of
        these frames may still refer to the future that holds the error, because only the garbage
        collector would free such a cycle, possibly much later.
        """
        began = self._clock()
        first = queue.popleft()
        try:
            self._advance(cast("Generator[None, None, Any]", first.steps), began)
        except StopIteration as done:
            first.ended.set_result(done.value)
        except Exception as error:
            first.ended.set_exception(error)
        else:
            queue.append(first)
        finally:
            del first
            self.charge(client, self._clock() - began)


class _Waiting(NamedTuple):
    """Work that waits for a turn: either a block, which is woken, or steps, which a pass runs."""

    ended: asyncio.Future[Any]
    """Resolved when the turn of a block begins, or when the steps have completed."""
    steps: Generator[None, None, Any] | None


class _Turn:
    """One turn. A class, because a context manager from a generator costs several times more."""

    __slots__ = ("_began", "_client", "_turns")

    def __init__(self, turns: Turns, client: str) -> None:
        self._turns = turns
        self._client = client
        self._began = 0.0

    async def __aenter__(self) -> None:
        self._began = await self._turns.begin(self._client)

    async def __aexit__(self, *exception: object) -> None:
        self._turns.end(self._client, self._began)


@types.coroutine
def _metered(
    work: Coroutine[Any, Any, T], spent: Callable[[float], None], clock: Callable[[], float]
) -> Generator[Any, Any, T]:
    """Run a coroutine and report how long each of its steps took, in seconds."""
    step: Callable[[], Any] = functools.partial(work.send, None)
    while True:
        began = clock()
        try:
            waits_for = step()
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            del step  # it may hold an error, which refers to this frame
            spent(clock() - began)
        try:
            step = functools.partial(work.send, (yield waits_for))
        except BaseException as error:  # cancelled, or what it waited for failed
            step = functools.partial(work.throw, error)
        finally:
            del waits_for  # it may hold such an error as well
