"""The feed alone: what is wrong with one partition stays with that partition."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.errors import LogUnavailable
from eventstreams.fanout import feed as feed_module
from eventstreams.fanout.feed import Feed
from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition
from eventstreams.settings import FanoutSettings
from eventstreams.tasks import background
from tests.fanout.gateway import PATIENCE_S, events, settled
from tests.fanout.partial_log import PartialLog

pytestmark = pytest.mark.anyio

T0, T1, U0 = Partition("t", 0), Partition("t", 1), Partition("u", 0)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries the log again soon."""
    monkeypatch.setattr(feed_module, "_RETRY_S", 0.002)
    monkeypatch.setattr(feed_module, "_QUIET_S", 0.004)


class Told:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.given_up: set[Partition] = set()
        self.gave_all_up = False
        self.grown: set[str] = set()
        self.gone: set[str] = set()

    def came(self, by_topic: object) -> None:
        pass

    def grew(self, topics: Collection[str]) -> None:
        self.grown.update(topics)

    def lost(self, topic: str, partitions: Collection[Partition]) -> None:
        self.gone.add(topic)

    def truncated(self, partition: Partition, end: int) -> None:
        raise AssertionError(f"{partition} was not truncated to {end}")

    def skipped(self, partition: Partition) -> None:
        raise AssertionError(partition)

    def gave_up(
        self, error: LogUnavailable, partitions: frozenset[Partition] | None = None
    ) -> None:
        if partitions is None:
            self.gave_all_up = True
        else:
            assert error.partitions == partitions
            self.given_up |= partitions


@contextlib.asynccontextmanager
async def fed(
    log: Log, topics: Collection[str] = ("t", "u"), patience_s: float = 600.0
) -> AsyncIterator[tuple[Feed, Told]]:
    told = Told()
    feed = Feed(
        log=log,
        topics=topics,
        settings=FanoutSettings(log_patience_s=patience_s, refresh_s=0.02),
        metrics=Metrics(),
        listener=told,
        started=True,
    )
    async with asyncio.timeout(PATIENCE_S * 3), background(feed.look(), feed.follow()):
        yield feed, told
    await feed.aclose()


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not met():
            await asyncio.sleep(0.001)


async def made(*away: Partition) -> PartialLog:
    log = PartialLog()
    await log.create_topic("t", 2)
    await log.create_topic("u", 1)
    for partition in (T0, T1, U0):
        await log.append(events(*partition, 3))
    log.lose(*away)
    return log


async def test_a_partition_that_cannot_be_asked_is_left_out_and_found_when_it_returns() -> None:
    log = await made(T1)
    async with fed(log) as (feed, told):
        await feed.well.wait()
        assert feed.unreachable == {T1}
        assert (feed.tails.end(T0), feed.tails.end(U0)) == (3, 3)
        assert feed.tails.of([T1]) is None
        assert feed.tails.partitions("t") == (T0, T1), "it exists all the same"
        with pytest.raises(LogUnavailable) as caught:
            feed.tails.now((T0, T1))
        assert caught.value.partitions == {T1}
        await log.append([*events("t", 1, 2), *events("u", 0, 1)])
        await until(lambda: feed.tails.end(U0) == 4)
        log.regain(T1)
        await feed.reach([T1])
        assert (feed.tails.floor(T1), feed.tails.end(T1)) == (5, 5), "nobody had read it"
        assert told.grown == {"t"}, "who has an id of before it came reads it now"
        await log.append(events("t", 1, 1))
        await until(lambda: feed.tails.end(T1) == 6)
        assert not feed.unreachable


async def test_a_gained_partition_that_is_out_of_reach_is_read_from_its_first_record() -> None:
    log = await made()
    async with fed(log) as (feed, told):
        await feed.well.wait()
        gained = Partition("u", 1)
        log.lose(gained)
        await log.create_topic("u", 2)
        await until(lambda: gained in feed.unreachable)
        assert not told.grown
        await log.append(events("u", 1, 4))
        log.regain(gained)
        await until(lambda: feed.tails.end(gained) == 4)
        assert feed.tails.floor(gained) == 0
        assert told.grown == {"u"}


async def test_one_partition_is_given_up_and_the_others_go_on() -> None:
    log = await made()
    async with fed(log, patience_s=0.01) as (feed, told):
        await feed.well.wait()
        log.lose(T1)
        await until(lambda: told.given_up == {T1})
        assert feed.trouble is None
        assert feed.well.is_set()
        assert feed.outage([T0, U0]) is None
        error = feed.outage([T0, T1])
        assert error is not None
        assert "t/1 is out of reach" in str(error)
        await log.append([*events("t", 0, 1), *events("t", 1, 1), *events("u", 0, 1)])
        await until(lambda: feed.tails.end(T0) == feed.tails.end(U0) == 4)
        assert feed.tails.end(T1) == 3
        log.regain(T1)
        await until(lambda: feed.tails.end(T1) == 4)
        assert not feed.unreachable
    assert told.given_up == {T1}
    assert not told.gave_all_up


async def test_a_quiet_partition_is_in_reach_again_without_an_event() -> None:
    log = await made()
    async with fed(log) as (feed, _):
        await feed.well.wait()
        log.lose(T1)
        await until(lambda: feed.unreachable == {T1})
        log.regain(T1)
        await feed.reach([T0, T1])
        assert not feed.unreachable


@pytest.mark.parametrize("when", ["from the start", "later"])
async def test_the_log_is_in_trouble_when_no_partition_is_in_reach(when: str) -> None:
    log = await made(*([T0, T1, U0] if when == "from the start" else []))
    async with fed(log) as (feed, _):
        if when == "later":
            await feed.well.wait()
            log.lose(T0, T1, U0)
        await until(lambda: feed.trouble is not None)
        assert not feed.well.is_set()
        log.regain(U0)
        await feed.well.wait()
        assert feed.trouble is None
        assert feed.unreachable == {T0, T1}
        await log.append(events("u", 0, 1))
        await until(lambda: feed.tails.end(U0) == 4)


async def test_trouble_of_the_whole_log_is_not_one_of_partitions() -> None:
    log = await made()
    async with fed(log) as (feed, _):
        await feed.well.wait()
        feed.suspect(LogUnavailable("no broker answers"))
        assert feed.trouble is not None
        assert not feed.unreachable
        await feed.well.wait()


async def test_what_a_reader_met_is_over_when_the_partition_answers() -> None:
    log = await made()
    async with fed(log, patience_s=0.0) as (feed, _):
        await feed.well.wait()
        feed.suspect(LogUnavailable("a lost connection", [T1]))
        assert feed.unreachable == {T1}
        await feed.reach([T1])


async def test_partitions_that_nobody_serves_are_no_trouble() -> None:
    log = await made()
    async with fed(log) as (feed, _):
        await feed.well.wait()
        feed.suspect(LogUnavailable("no leader", [Partition("other", 0)]))
        assert not feed.unreachable
        assert feed.trouble is None


async def test_a_topic_deleted_while_out_of_reach_is_out_of_reach_no_more() -> None:
    log = await made(T1)
    async with fed(log) as (feed, told):
        await feed.well.wait()
        log.delete_topic("t")
        log.regain(T1)
        await until(lambda: told.gone == {"t"})
        assert not feed.unreachable
        assert not feed.tails.partitions("t")
        await log.create_topic("t", 1)
        await until(lambda: feed.tails.partitions("t") == (T0,))


async def test_who_waits_for_a_partition_is_let_go_when_the_gateway_stops() -> None:
    log = await made(T1)
    async with fed(log) as (feed, _), asyncio.TaskGroup() as tasks:
        await feed.well.wait()
        waiting = tasks.create_task(feed.reach([T1]))
        await settled()
        assert not waiting.done()
        feed.release()
        await waiting


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(st.sampled_from(["lose", "regain", "append"]), st.sampled_from([T0, T1, U0])),
        max_size=25,
    ),
    st.integers(0, 40),
)
async def test_whatever_goes_and_comes_every_tail_is_whole_in_the_end(
    todo: list[tuple[str, Partition]], turns: int
) -> None:
    log = await made()
    async with fed(log) as (feed, told):
        await feed.well.wait()
        for what, partition in todo:
            if what == "append":
                await log.append(events(*partition, 1))
            else:
                (log.lose if what == "lose" else log.regain)(partition)
            await settled(turns)
        log.regain(T0, T1, U0)
        for partition in (T0, T1, U0):
            await log.append(events(*partition, 1))
        await until(lambda: all(feed.tails.end(p) == log.run(p).end for p in (T0, T1, U0)))
        for partition in (T0, T1, U0):
            run = feed.tails.since(partition, 3)
            assert run is not None
            assert [f.offset for f in run.frames] == list(range(3, log.run(partition).end))
        await until(lambda: not feed.unreachable)
        assert not told.gone
