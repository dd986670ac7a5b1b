"""The log follower: a problem with one partition does not affect the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.config.settings import FanoutSettings
from eventstreams.errors import LogUnavailable, OffsetOutOfRange
from eventstreams.fanout.log_follower import LogFollower
from eventstreams.fanout.timing import Timing
from eventstreams.log.base import Log
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.event import Bounds, Partition
from eventstreams.tasks import background
from tests.support.fanout import events, passed, settled
from tests.support.listener import RecordingListener
from tests.support.partial_log import PartialLog
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio

T0, T1, U0 = Partition("t", 0), Partition("t", 1), Partition("u", 0)


TIMING = Timing(retry_s=0.002, quiet_s=0.004)


@contextlib.asynccontextmanager
async def followed(
    log: Log, topics: Collection[str] = ("t", "u"), patience_s: float = 600.0
) -> AsyncIterator[tuple[LogFollower, RecordingListener]]:
    listener = RecordingListener()
    follower = LogFollower(
        log=log,
        topics=topics,
        settings=FanoutSettings(log_patience_s=patience_s, refresh_s=0.02),
        metrics=Metrics(),
        listener=listener,
        timing=TIMING,
        started=True,
    )
    async with asyncio.timeout(PATIENCE_S * 3), background(follower.look(), follower.follow()):
        yield follower, listener
    await follower.aclose()


async def made(*away: Partition) -> PartialLog:
    log = PartialLog()
    await log.create_topic("t", 2)
    await log.create_topic("u", 1)
    for partition in (T0, T1, U0):
        await log.append(events(*partition, 3))
    log.lose(*away)
    return log


async def test_an_unreachable_partition_is_left_out_until_it_returns() -> None:
    log = await made(T1)
    async with followed(log) as (follower, listener):
        await follower.reachable.wait()
        assert follower.unreachable == {T1}
        assert (follower.tails.end(T0), follower.tails.end(U0)) == (3, 3)
        assert follower.tails.of([T1]) is None
        assert follower.tails.partitions("t") == (T0, T1), "the partition exists nevertheless"
        with pytest.raises(LogUnavailable) as caught:
            follower.tails.now((T0, T1))
        assert caught.value.partitions == {T1}
        await log.append([*events("t", 1, 2), *events("u", 0, 1)])
        await until(lambda: follower.tails.end(U0) == 4)
        log.regain(T1)
        await follower.reach([T1])
        assert (follower.tails.floor(T1), follower.tails.end(T1)) == (5, 5), "no client had read it"
        assert listener.grown == {"t"}, "clients with older ids must read it now"
        await log.append(events("t", 1, 1))
        await until(lambda: follower.tails.end(T1) == 6)
        assert not follower.unreachable


async def test_an_added_but_unreachable_partition_is_read_from_its_first_record() -> None:
    log = await made()
    async with followed(log) as (follower, listener):
        await follower.reachable.wait()
        gained = Partition("u", 1)
        log.lose(gained)
        await log.create_topic("u", 2)
        await until(lambda: gained in follower.unreachable)
        assert not listener.grown
        await log.append(events("u", 1, 4))
        log.regain(gained)
        await until(lambda: follower.tails.end(gained) == 4)
        assert follower.tails.floor(gained) == 0
        assert listener.grown == {"u"}


async def test_one_unreachable_partition_does_not_affect_the_others() -> None:
    log = await made()
    async with followed(log, patience_s=0.01) as (follower, listener):
        await follower.reachable.wait()
        log.lose(T1)
        await until(lambda: listener.given_up == {T1})
        assert follower.trouble is None
        assert follower.reachable.is_set()
        assert follower.outage([T0, U0]) is None
        error = follower.outage([T0, T1])
        assert error is not None
        assert "t/1 is unreachable" in str(error)
        await log.append([*events("t", 0, 1), *events("t", 1, 1), *events("u", 0, 1)])
        await until(lambda: follower.tails.end(T0) == follower.tails.end(U0) == 4)
        assert follower.tails.end(T1) == 3
        log.regain(T1)
        await until(lambda: follower.tails.end(T1) == 4)
        assert not follower.unreachable
    assert listener.given_up == {T1}
    assert not listener.gave_all_up


async def test_a_partition_becomes_reachable_without_a_new_event() -> None:
    log = await made()
    async with followed(log) as (follower, _):
        await follower.reachable.wait()
        log.lose(T1)
        await until(lambda: follower.unreachable == {T1})
        log.regain(T1)
        await follower.reach([T0, T1])
        assert not follower.unreachable


@pytest.mark.parametrize("when", ["from the start", "later"])
async def test_the_log_is_unreachable_if_all_partitions_are(when: str) -> None:
    log = await made(*([T0, T1, U0] if when == "from the start" else []))
    async with followed(log) as (follower, _):
        if when == "later":
            await follower.reachable.wait()
            log.lose(T0, T1, U0)
        await until(lambda: follower.trouble is not None)
        assert not follower.reachable.is_set()
        log.regain(U0)
        await follower.reachable.wait()
        assert follower.trouble is None
        assert follower.unreachable == {T0, T1}
        await log.append(events("u", 0, 1))
        await until(lambda: follower.tails.end(U0) == 4)


async def test_an_unreachable_log_makes_no_partition_unreachable() -> None:
    log = await made()
    async with followed(log) as (follower, _):
        await follower.reachable.wait()
        follower.suspect(LogUnavailable("no broker answers"))
        assert follower.trouble is not None
        assert not follower.unreachable
        await follower.reachable.wait()


async def test_an_outage_found_by_a_reader_ends_when_the_partition_answers() -> None:
    log = await made()
    async with followed(log, patience_s=0.0) as (follower, _):
        await follower.reachable.wait()
        follower.suspect(LogUnavailable("a lost connection", [T1]))
        assert follower.unreachable == {T1}
        await follower.reach([T1])


async def test_errors_of_other_partitions_are_ignored() -> None:
    log = await made()
    async with followed(log) as (follower, _):
        await follower.reachable.wait()
        follower.suspect(LogUnavailable("no leader", [Partition("other", 0)]))
        assert not follower.unreachable
        assert follower.trouble is None


async def test_deleting_a_topic_ends_the_outage_of_its_partitions() -> None:
    log = await made(T1)
    async with followed(log) as (follower, listener):
        await follower.reachable.wait()
        log.delete_topic("t")
        log.regain(T1)
        await until(lambda: listener.gone == {"t"})
        assert not follower.unreachable
        assert not follower.tails.partitions("t")
        await log.create_topic("t", 1)
        await until(lambda: follower.tails.partitions("t") == (T0,))


async def test_release_ends_waiting_for_a_partition() -> None:
    log = await made(T1)
    async with followed(log) as (follower, _), asyncio.TaskGroup() as tasks:
        await follower.reachable.wait()
        waiting = tasks.create_task(follower.reach([T1]))
        await settled()
        assert not waiting.done()
        follower.release()
        await waiting


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(st.sampled_from(["lose", "regain", "append"]), st.sampled_from([T0, T1, U0])),
        max_size=25,
    ),
    st.integers(0, 40),
)
async def test_tails_are_complete_after_any_changes(
    todo: list[tuple[str, Partition]], turns: int
) -> None:
    log = await made()
    async with followed(log) as (follower, listener):
        await follower.reachable.wait()
        for what, partition in todo:
            if what == "append":
                await log.append(events(*partition, 1))
            else:
                (log.lose if what == "lose" else log.regain)(partition)
            await passed(turns)
        log.regain(T0, T1, U0)
        for partition in (T0, T1, U0):
            await log.append(events(*partition, 1))
        await until(lambda: all(follower.tails.end(p) == log.run(p).end for p in (T0, T1, U0)))
        for partition in (T0, T1, U0):
            run = follower.tails.since(partition, 3)
            assert run is not None
            assert [f.offset for f in run.frames] == list(range(3, log.run(partition).end))
        await until(lambda: not follower.unreachable)
        assert not listener.gone


class SlowBounds(MemoryLog):
    """Delays the answer to one request for bounds, which is outdated by then."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.hold: asyncio.Event | None = None

    async def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        found = await super().bounds(partitions)
        hold, self.hold = self.hold, None
        if hold is not None:
            self.asked.set()
            await hold.wait()
        return found


@pytest.mark.parametrize("anew", [False, True])
async def test_a_topic_deleted_during_a_look_up_keeps_no_tail(*, anew: bool) -> None:
    log = SlowBounds()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, 3))
    follower = LogFollower(
        log=log,
        topics=["t"],
        settings=FanoutSettings(),
        metrics=Metrics(),
        listener=RecordingListener(),
        timing=TIMING,
        started=True,
    )
    await follower.refresh()
    await log.append(events("t", 0, 10))
    log.forget_before(T0, 10)
    hold = log.hold = asyncio.Event()
    overtaken = asyncio.create_task(follower._overtaken(OffsetOutOfRange(T0, 3, None)))
    await log.asked.wait()
    log.delete_topic("t")
    follower._lose_topic("t")
    if anew:
        await log.create_topic("t", 1)
        await follower.refresh()
    hold.set()
    await overtaken
    assert follower.tails.end(T0) == 0, "the tail of the deleted topic would continue at 10"
    await follower.aclose()


async def test_an_added_topic_is_looked_up_immediately() -> None:
    log = await made()
    follower = LogFollower(
        log=log,
        topics=["t"],
        settings=FanoutSettings(refresh_s=3_600.0),
        metrics=Metrics(),
        listener=RecordingListener(),
        timing=TIMING,
        started=True,
    )
    async with asyncio.timeout(PATIENCE_S), background(follower.look()):
        await follower.reachable.wait()
        follower.add(["u"])
        await until(lambda: follower.tails.partitions("u") == (U0,))
    await follower.aclose()
