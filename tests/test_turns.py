"""Clients' work runs fairly in short pieces, between other work of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.turns import Turns
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that advances only with work."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Worker:
    """Does work in pieces of given lengths, and records which client worked in which pass."""

    def __init__(self, *, pass_s: float = 0.002) -> None:
        self.clock = Clock()
        self.turns = Turns(pass_s=pass_s, clock=self.clock)
        self.done: list[tuple[int, str, float]] = []
        self.passes = 0

    async def count_passes(self) -> None:
        while True:
            self.passes += 1
            await asyncio.sleep(0)

    async def work(self, client: str, pieces_s: Sequence[float]) -> None:
        for piece_s in pieces_s:
            async with self.turns.turn(client):
                self.clock.now_s += piece_s
                self.done.append((self.passes, client, piece_s))

    @contextlib.asynccontextmanager
    async def never_idle(self) -> AsyncGenerator[None]:
        """Keep other work waiting for turns."""
        task = asyncio.create_task(self.run(*([("another", [0.003] * 1000)] * 2)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def run(self, *works: tuple[str, Sequence[float]]) -> None:
        counting = asyncio.create_task(self.count_passes())
        await asyncio.gather(*(self.work(client, pieces) for client, pieces in works))
        counting.cancel()


async def test_a_single_client_never_waits() -> None:
    worker = Worker()
    async with asyncio.timeout(PATIENCE_S):
        await worker.work("a", [0.0001] * 5)
    assert worker.turns.waiting == 0
    assert [client for _, client, _ in worker.done] == ["a"] * 5


async def test_a_pass_exceeds_its_time_by_at_most_one_piece() -> None:
    worker = Worker()
    await worker.run(*((f"client {i}", [0.001] * 20) for i in range(50)))
    spent: dict[int, float] = {}
    for number, _, piece_s in worker.done:
        spent[number] = spent.get(number, 0.0) + piece_s
    assert max(spent.values()) <= 0.004  # a number covers the end of one pass and the next
    assert len(worker.done) == 1000


async def test_light_clients_do_not_wait_for_heavy_ones() -> None:
    worker = Worker()
    hostile = [("hostile", [0.002] * 10)] * 100
    await worker.run(*hostile, ("innocent", [0.0001]))
    place = [client for _, client, _ in worker.done].index("innocent")
    assert place <= 2


async def test_busy_clients_get_equal_time() -> None:
    worker = Worker()
    await worker.run(("long", [0.004] * 50), *([("short", [0.001])] * 200))
    first_half = worker.done[: len(worker.done) // 2]
    used = {"long": 0.0, "short": 0.0}
    for _, client, piece_s in first_half:
        used[client] += piece_s
    assert abs(used["long"] - used["short"]) <= 0.008


async def test_cancelled_work_leaves_nothing_behind() -> None:
    worker = Worker()
    tasks = [asyncio.create_task(worker.work(f"{i % 7}", [0.003] * 3)) for i in range(60)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert worker.turns.waiting == 0
    assert all(tasks[i].exception() is None for i in range(1, 60, 2))


async def test_a_failed_piece_is_charged_and_ends_its_turn() -> None:
    worker = Worker()

    async def fail() -> None:
        async with worker.turns.turn("a"):
            worker.clock.now_s += 1
            raise ValueError("broken")

    async with worker.never_idle():
        with pytest.raises(ValueError, match="broken"):
            await fail()
        await worker.run(("a", [0.001]), ("b", [0.001]))
    assert [client for _, client, _ in worker.done if client != "another"] == ["b", "a"]


async def test_time_used_without_competition_is_not_counted() -> None:
    worker = Worker()
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(100):
            await worker.work("old", [1.0])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await worker.run(*([("hostile", [0.002] * 10)] * 100), ("old", [0.0001]))
    place = [client for _, client, _ in worker.done[100:]].index("old")
    assert place <= 2


async def test_the_number_of_remembered_clients_is_limited() -> None:
    turns = Turns(clients_max=100)
    for client in range(10_000):
        turns.charge(f"client {client}", 0.001 + client / 1e6)
        assert turns.remembered <= 100


async def test_the_busiest_clients_are_remembered() -> None:
    worker = Worker()
    turns = worker.turns = Turns(clients_max=100, clock=worker.clock)
    async with worker.never_idle():
        turns.charge("hostile", 1.0)
        for client in range(1000):
            turns.charge(f"client {client}", 0.001)
        await worker.run(("hostile", [0.001]), ("innocent", [0.001]))
    order = [client for _, client, _ in worker.done if client != "another"]
    assert order == ["innocent", "hostile"]


async def test_a_request_begins_in_a_turn_and_each_of_its_steps_is_charged() -> None:
    worker = Worker()
    turns = worker.turns

    async def handle(name: str) -> str:
        worker.clock.now_s += 0.003
        worker.done.append((worker.passes, name, 0.003))
        await asyncio.sleep(0)
        worker.clock.now_s += 1
        return name

    counting = asyncio.create_task(worker.count_passes())
    results = await asyncio.gather(*(turns.run(name, handle(name)) for name in "abc"))
    assert results == ["a", "b", "c"]
    assert len({number for number, _, _ in worker.done}) == 3, "one in each pass"
    counting.cancel()
    worker.done.clear()
    async with worker.never_idle():
        await turns.run("a", handle("a"))
        await worker.run(("a", [0.1]), ("new", [0.1]))
    order = [name for _, name, piece_s in worker.done if piece_s == 0.1]
    assert order == ["new", "a"], "the step after the wait is charged"


async def test_failures_and_cancellations_of_requests_are_raised() -> None:
    worker = Worker()
    waiting = asyncio.Event()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    async def wait() -> None:
        try:
            await waiting.wait()
        except asyncio.CancelledError:
            worker.done.append((0, "cancelled", 0.0))
            raise

    with pytest.raises(ValueError, match="broken"):
        await worker.turns.run("a", fail())
    task = asyncio.create_task(worker.turns.run("a", wait()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert worker.done == [(0, "cancelled", 0.0)]


async def test_a_request_cancelled_while_waiting_never_begins() -> None:
    worker = Worker()
    task = asyncio.create_task(worker.turns.run("b", worker.work("b", [0.1])))
    worker.turns.charge("a", 1)  # so that it must wait
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert worker.done == []
    async with asyncio.timeout(PATIENCE_S):
        while worker.turns.waiting or worker.turns.busy:
            await asyncio.sleep(0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.lists(st.floats(0, 0.01), min_size=1, max_size=8),
        ),
        max_size=30,
    )
)
def test_every_piece_gets_its_turn(works: list[tuple[str, list[float]]]) -> None:
    worker = Worker()

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await worker.run(*works)

    asyncio.run(run())
    assert len(worker.done) == sum(len(pieces) for _, pieces in works)
    assert worker.turns.waiting == 0


async def test_short_pieces_of_work_share_a_pass() -> None:
    worker = Worker()

    def steps(number: int) -> Generator[None, None, int]:
        worker.clock.now_s += 0.00005
        worker.done.append((worker.passes, "a", 0.00005))
        yield
        if number == 7:
            raise ValueError(number)
        return number

    counting = asyncio.create_task(worker.count_passes())
    works = [worker.turns.run_steps("a", steps(number)) for number in range(20)]
    first = worker.work("z", [0.01])  # uses up the pass, so that the others wait
    _, *results = await asyncio.gather(first, *works, return_exceptions=True)
    counting.cancel()
    assert [each for each in results if isinstance(each, int)] == [*range(7), *range(8, 20)]
    assert repr(results[7]) == "ValueError(7)"
    assert len({number for number, client, _ in worker.done if client == "a"}) == 1
    assert worker.turns.waiting == 0


async def test_steps_whose_owner_is_cancelled_never_run() -> None:
    worker = Worker()

    def steps() -> Generator[None]:
        worker.done.append((0, "a", 0.0))
        yield

    async def cancelling(owner: asyncio.Task[None]) -> None:
        assert worker.turns.waiting == 1
        owner.cancel()

    first = worker.work("z", [0.01])  # uses up the pass, so that the others wait
    spending = asyncio.create_task(first)
    owner = asyncio.create_task(worker.turns.run_steps("a", steps()))
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(spending, owner, cancelling(owner), return_exceptions=True)
        await worker.run(("b", [0.001]))
    assert owner.cancelled()
    assert [client for _, client, _ in worker.done] == ["z", "b"]
    assert worker.turns.waiting == 0


class Body:
    """Something large that work refers to when it fails."""


@pytest.mark.parametrize("way", ["at once", "in a pass", "as a coroutine"])
async def test_failed_work_is_freed_without_garbage_collection(way: str) -> None:
    turns = Turns()
    held: list[weakref.ref[Body]] = []

    def steps() -> Generator[None]:
        body = Body()
        held.append(weakref.ref(body))
        yield
        raise ValueError("wrong")

    async def works() -> None:
        body = Body()
        held.append(weakref.ref(body))
        waits = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(waits.set_exception, ValueError("wrong"))
        try:
            await waits
        finally:
            del waits

    async def fails() -> None:
        work = turns.run("a", works()) if way == "as a coroutine" else turns.run_steps("a", steps())
        with contextlib.suppress(ValueError):
            await work

    gc.collect()
    gc.disable()
    try:
        if way == "in a pass":
            turns.charge("a", 1.0)
            assert turns.busy
        await fails()
        await asyncio.sleep(0)  # the task's step refers to the failed future
        assert [each() for each in held] == [None]
    finally:
        gc.enable()


async def test_waiting_work_is_held_back_until_the_end_of_the_block() -> None:
    turns = Turns(hold_s_max=PATIENCE_S)
    ran: list[str] = []

    async def work(client: str) -> None:
        turns.charge(client, 1.0)  # so that what follows waits for a turn
        async with turns.turn(client):
            ran.append(client)

    async with asyncio.TaskGroup() as tasks:
        with turns.hold_back():
            with turns.hold_back():
                tasks.create_task(work("one"))
                tasks.create_task(work("two"))
                await _passes(20)
            await _passes(20)
            assert ran == []
    assert sorted(ran) == ["one", "two"]


async def test_work_is_not_held_back_for_ever() -> None:
    turns = Turns(hold_s_max=0.001)
    with turns.hold_back():
        for _ in range(3):
            turns.charge("client", 1.0)
            async with asyncio.timeout(PATIENCE_S), turns.turn("client"):
                pass


class TimerLoop(asyncio.SelectorEventLoop):
    """An event loop that counts its timers."""

    timers = 0

    def call_later(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_later(*args, **kwargs)


@pytest.mark.parametrize("block_passes", [3, 10**9], ids=["short blocks", "one long block"])
def test_a_pass_is_held_back_once(block_passes: int) -> None:
    """Short blocks that follow each other at once are as one long block."""
    turns = Turns(hold_s_max=0.01)

    async def blocks() -> None:
        while True:
            with turns.hold_back():
                await _passes(block_passes)

    async def works() -> None:
        holding = asyncio.create_task(blocks())
        await asyncio.sleep(0)
        for _ in range(3):
            turns.charge("client", 1.0)
            async with asyncio.timeout(PATIENCE_S), turns.turn("client"):
                pass
        holding.cancel()

    loop = TimerLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(works())
    assert loop.timers == 3


async def _passes(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
