"""Processes that share: through their parent, and through a real Redis; the same must hold."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

import pytest

from eventstreams.errors import LedgerUnavailable
from eventstreams.ledger.book import RATE, Book, Rate
from eventstreams.ledger.desk import Desk, DeskShared, Line
from eventstreams.ledger.ledger import Ledger, Shared
from eventstreams.ledger.redis_shared import RedisShared
from eventstreams.metrics import Metrics
from tests.ledger.conftest import PATIENCE_S, RedisServer

pytestmark = pytest.mark.anyio

Share = Callable[[], Shared]


class Parent:
    """The parent process's loop, on a thread."""

    def __init__(self) -> None:
        self.book = Book()
        self.desks: list[Desk] = []
        self.lines: list[Line] = []
        self._wakes, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        told = False
        while not told or self.desks:
            desks = {desk.line: desk for desk in self.desks}
            for ready in wait([*desks] if told else [self._wakes, *desks]):
                if ready is self._wakes:
                    told = not self._wakes.recv(100)
                elif not desks[ready].answer():  # type: ignore[index]
                    self.desks.remove(desks[ready])  # type: ignore[index]
                    desks[ready].close()  # type: ignore[index]

    def line(self) -> Line:
        """Of one more worker."""
        desk = Desk(self.book, str(len(self.lines)), lambda: self.desks)
        self.desks.append(desk)
        self._wake.send(b".")
        self.lines.append(Line(desk.far, 5.0))
        return self.lines[-1]

    def share(self) -> Shared:
        return _Owned(self.line())

    def join(self) -> None:
        self._wake.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._wakes.close()


class _Owned(DeskShared):
    """Closes its line, too."""

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        self._own = line

    async def aclose(self) -> None:
        self._own.close()


@pytest.fixture
def parent() -> Iterator[Parent]:
    parent = Parent()
    yield parent
    parent.join()


@pytest.fixture(params=["parent", "redis"])
def share(request: pytest.FixtureRequest) -> Iterator[Share]:
    if request.param == "parent":
        parent: Parent = request.getfixturevalue("parent")
        yield parent.share
    else:
        server: RedisServer = request.getfixturevalue("redis")
        yield lambda: redis_shared(server)


def redis_shared(server: RedisServer, timeout_s: float = 5.0) -> RedisShared:
    return RedisShared(url=server.url, password=None, prefix="t:", timeout_s=timeout_s)


@contextlib.asynccontextmanager
async def ledger(shared: Shared) -> AsyncIterator[tuple[Ledger, Metrics]]:
    metrics = Metrics()
    ledger = Ledger(shared, metrics)
    async with ledger.running():
        yield ledger, metrics


async def until(met: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = met()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


async def can_take(ledger: Ledger, most: int) -> bool:
    if await ledger.take({"k": most}, None):
        return False
    ledger.give({"k": most})
    return True


async def test_what_one_holds_the_other_can_not_take_until_it_is_given_back(share: Share) -> None:
    async with ledger(share()) as (one, _), ledger(share()) as (two, _):
        assert await one.take({"k": 2}, None) == ""
        assert await two.take({"k": 2}, None) == ""
        assert await one.take({"k": 2}, None) == "k"
        assert await two.take({"k": 2, "other": 9}, None) == "k"
        one.give({"k": 2})
        await until(lambda: can_take(two, 2))


async def test_of_many_who_ask_at_once_as_many_are_let_in_as_may_be(share: Share) -> None:
    async with ledger(share()) as (one, _), ledger(share()) as (two, _):
        asked = [each.take({"k": 7}, None) for each in (one, two) * 20]
        assert sorted(await asyncio.gather(*asked)).count("") <= 7
        assert one.held("k") + two.held("k") <= 7
        await until(lambda: can_take(one, one.held("k") + two.held("k") + 1))


async def test_one_that_ends_gives_back_what_it_held(share: Share) -> None:
    async with ledger(share()) as (one, _):
        async with ledger(share()) as (two, _):
            assert await two.take({"k": 1}, None) == ""
            assert await one.take({"k": 1}, None) == "k"
        await until(lambda: can_take(one, 1))


async def test_a_rate_holds_over_all(share: Share) -> None:
    async with ledger(share()) as (one, _), ledger(share()) as (two, _):
        answers = [await each.take({}, Rate("k", 4)) for each in (one, two) * 3]
        assert answers.count(RATE) == 2
        assert await one.spend("k", 600, 1000) == 0.0
        wait_s = await two.spend("k", 600, 1000)
        assert 0 < wait_s <= 12


async def test_a_note_goes_to_one_of_all_who_ask(share: Share) -> None:
    async with ledger(share()) as (one, _), ledger(share()) as (two, _):
        await one.put("note", b"\x00text", 30)
        found = await asyncio.gather(*(each.pop("note") for each in (one, two) * 10))
        assert [note for note in found if note is not None] == [b"\x00text"]


async def test_one_who_gives_up_while_it_asks_holds_nothing(share: Share) -> None:
    async with ledger(share()) as (one, _), ledger(share()) as (two, _):
        asking = asyncio.create_task(one.take({"k": 1}, None))
        await asyncio.sleep(0)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await until(lambda: can_take(two, 1))
        assert one.held("k") == 0


async def test_without_redis_each_counts_its_own_and_with_it_again_all_do(
    redis: RedisServer,
) -> None:
    one_s, two_s = redis_shared(redis), redis_shared(redis)
    async with ledger(one_s) as (one, metrics), ledger(two_s) as (two, _):
        assert await one.take({"k": 2}, None) == ""
        redis.stop()
        assert await one.take({"k": 2}, None) == ""
        assert await one.take({"k": 2}, None) == "k", "its own it counts all the same"
        assert await two.take({"k": 1}, None) == "", "but knows of no other"
        assert metrics.registry.get_sample_value("eventstreams_ledger_reachable") == 0
        with pytest.raises(LedgerUnavailable):
            await one.pop("note")
        redis.start()  # it has forgotten everything
        one.give({"k": 2})
        await until(lambda: metrics.registry.get_sample_value("eventstreams_ledger_reachable") == 1)
        two.give({"k": 1})

        async def two_hears_of_one() -> bool:
            if not await two.take({"k": 1}, None):
                two.give({"k": 1})
                return False
            return True

        await until(two_hears_of_one)


async def test_a_wave_of_clients_is_counted_by_all_and_nobody_takes_redis_for_lost(
    redis: RedisServer,
) -> None:
    async with (
        ledger(redis_shared(redis)) as (one, metrics),
        ledger(redis_shared(redis)) as (two, _),
    ):
        for _ in range(5):
            assert await one.take({"k": 5}, None) == ""
        answers = await asyncio.gather(*(two.take({"k": 5}, None) for _ in range(300)))
        assert set(answers) == {"k"}
        notes = [one.put(f"note {n}", b"x", 60) for n in range(300)]
        await asyncio.gather(*notes)
        assert metrics.registry.get_sample_value("eventstreams_ledger_reachable") == 1


async def test_what_is_counted_last_is_what_stands(redis: RedisServer) -> None:
    shared, reader = redis_shared(redis), redis_shared(redis)
    async with ledger(shared) as (one, _):

        async def comes_and_goes(n: int) -> None:
            assert await one.take({"k": 1000}, None) == ""
            if n % 5:
                one.give({"k": 1000})

        await asyncio.gather(*(comes_and_goes(n) for n in range(200)))
        assert one.held("k") == 40

        async def stands() -> bool:
            return [await reader._redis.hget(f"t:held:{shared._me}", "k")] == [b"40"]

        await until(stands)
    await reader.aclose()


async def test_what_redis_holds_wrongly_is_put_right(redis: RedisServer) -> None:
    shared = redis_shared(redis)
    async with ledger(shared) as (one, _):
        assert await one.take({"k": 3}, None) == ""
        name = f"t:held:{shared._me}"
        await shared._redis.hset(name, mapping={"k": 7, "stale": 1})
        await shared.renew({"k": 1})
        assert await shared._redis.hgetall(name) == {b"k": b"1"}
        assert await shared._redis.pttl(name) > 0


async def test_errors_of_redis_name_neither_keys_nor_addresses(redis: RedisServer) -> None:
    shared = redis_shared(redis)
    redis.stop()
    with pytest.raises(LedgerUnavailable) as lost:
        await shared.put("secret", b"secret", 1)
    assert "secret" not in str(lost.value)
    with contextlib.suppress(LedgerUnavailable):
        await shared.aclose()


async def test_what_one_worker_asks_all_others_answer(parent: Parent) -> None:
    lines = [parent.line() for _ in range(3)]
    large = "x" * 1_000_000

    def answering(name: int) -> Callable[[Any], Awaitable[Any]]:
        async def answer(question: Any) -> Any:
            return [name, question, large]

        return answer

    for name, line in enumerate(lines):
        line.answer_with = answering(name)
    for name, line in enumerate(lines):
        answers, missing = await line.ask_others({"what": name})
        others = [other for other in range(3) if other != name]
        assert sorted(answers) == [[other, {"what": name}, large] for other in others]
        assert missing == 0
    for line in lines:
        line.close()


async def test_one_that_does_not_answer_is_told_as_missing(parent: Parent) -> None:
    asking, silent = parent.line(), parent.line()
    never = asyncio.Event()

    async def answer(_: Any) -> Any:
        await never.wait()

    silent.answer_with = answer
    asking._timeout_s = 0.1
    assert await asking.ask_others("?") == ([], 1)
    assert await asking.ask("pop", "note") is None, "the line is as good as before"
    silent.close()
    await until(lambda: len(parent.desks) == 1)
    assert await asking.ask_others("?") == ([], 0)
    asking.close()
