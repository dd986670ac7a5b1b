"""An election loses the end of a partition. Streams that had read it get one gap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventstreams.errors import LogTruncated
from eventstreams.fanout.gaps import require_same
from eventstreams.fanout.history import History
from eventstreams.fanout.resume import ResumeResolver
from eventstreams.fanout.tails import Tail, Tails
from eventstreams.metrics import Metrics
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Partition, Record
from eventstreams.model.position import PartitionCursor, Position
from tests.support.epoch_log import EpochFollower, EpochLog
from tests.support.fanout import Client, Gateway, Socket, joined, serving, settled

pytestmark = pytest.mark.anyio

P = Partition("t", 0)
OLD, END, NEW = 40, 20, 40
"""Records up to offset OLD are read. Those from END on are lost and replaced by NEW records."""
HOUR_MS = 3_600_000


def records(name: str, first: int, count: int, at_ms: int = 1_000) -> list[Record]:
    return [
        Record("t", b'{"log":"%s","n":%d}' % (name.encode(), n), None, at_ms + n, 0)
        for n in range(first, first + count)
    ]


@asynccontextmanager
async def gateway_over(log: EpochLog, **settings: Any) -> AsyncIterator[Gateway]:
    await log.create_topic("t", 1)
    await log.append(records("old", 0, OLD))
    async with serving(log, ["t"], **settings) as gateway:
        yield gateway
    gateway.assert_nobody_is_left()


def follower_of(log: EpochLog) -> EpochFollower:
    [follower] = log._followers
    assert isinstance(follower, EpochFollower)
    return follower


def story(client: Client) -> list[tuple[str, int]]:
    """Return the events, by log and number, and the gaps, by the offset at which they resume."""
    reported: list[tuple[str, int]] = []
    for frame in client.socket.frames:
        document = json.loads(frame.data)
        if frame.event == "gap":
            [gap] = document["partitions"]
            assert gap["cause"] == "truncation"
            reported.append((f"gap from {gap['requested']}", gap["resumed"]))
        elif frame.event == "message":
            reported.append((document["log"], document["n"]))
        else:
            raise AssertionError(frame)
    return reported


def run(name: str, first: int, end: int) -> list[tuple[str, int]]:
    return [(name, n) for n in range(first, end)]


def last(client: Client) -> tuple[str, int] | None:
    return (story(client) or [None])[-1]


WHOLE_NEW = [("gap from 40", END), *run("new", END, END + NEW)]


@pytest.mark.parametrize("exposed", [True, False])
async def test_live_clients_get_a_gap_and_all_new_events(exposed: bool) -> None:
    log = EpochLog()
    async with gateway_over(log) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, "t", query="since=0", exposed=exposed) for _ in range(5)]
        for client in clients:
            tasks.create_task(client.serve())
        for client in clients:
            await client.socket.until(lambda c=client: last(c) == ("old", OLD - 1))
        await log.lose(P, END, records("new", END, NEW, at_ms=5_000))
        for client in clients:
            await client.socket.until(lambda c=client: last(c) == ("new", END + NEW - 1))
            assert story(client) == [*run("old", 0, OLD), *WHOLE_NEW]
        assert gateway.count("gaps_total", cause="truncation") == len(clients)
        for client in clients:
            client.socket.hang_up()


async def test_live_clients_get_a_gap_without_new_events() -> None:
    log = EpochLog()
    async with gateway_over(log) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query="since=0")
        unread = Client(gateway, "t")  # there is no event before its position
        for each in (client, unread):
            tasks.create_task(each.serve())
        await client.socket.until(lambda: last(client) == ("old", OLD - 1))
        await joined(gateway, client, unread)
        await log.lose(P, END, [])
        for each in (client, unread):
            await each.socket.until(lambda each=each: last(each) == ("gap from 40", END))
        await joined(gateway, client, unread)
        await log.append(records("new", END, 1))
        for each in (client, unread):
            await each.socket.until(lambda each=each: last(each) == ("new", END))
            each.socket.hang_up()


@pytest.mark.parametrize("read", [5, END, END + 1, OLD - 1])
async def test_a_history_reader_gets_a_gap_only_for_lost_records_it_read(read: int) -> None:
    log = EpochLog()
    small = {"batch_bytes_max": 1, "cache_bytes_max": 1_000, "block_bytes": 1}
    async with gateway_over(log, **small) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query="since=0", socket=Socket(high_water=1))
        tasks.create_task(client.serve())
        await client.opened()
        while not story(client) or len(story(client)) < read:
            client.socket.take(50)
            await settled()
        await log.lose(P, END, records("new", END, NEW, at_ms=5_000))
        client.socket.take_all()
        await client.socket.until(lambda: last(client) == ("new", END + NEW - 1))
        reported = story(client)
        old = [n for name, n in reported if name == "old"]
        assert old == list(range(len(old)))
        assert len(old) >= read
        gap = [(f"gap from {len(old)}", END)] if len(old) > END else []
        assert reported[len(old) :] == [*gap, *run("new", END, END + NEW)]
        client.socket.hang_up()


async def test_a_history_reader_finds_the_loss_before_the_follower_does() -> None:
    log = EpochLog()
    small = {"batch_bytes_max": 1, "cache_bytes_max": 1_000, "block_bytes": 1}
    async with gateway_over(log, **small) as gateway, asyncio.TaskGroup() as tasks:
        follower = follower_of(log)
        client = Client(gateway, "t", query="since=0", socket=Socket(high_water=1))
        tasks.create_task(client.serve())
        await client.opened()
        while len(story(client)) < END + 5:
            client.socket.take(50)
            await settled()
        follower.paused = True
        await log.lose(P, END, records("new", END, NEW, at_ms=5_000))
        while not any(name.startswith("gap") for name, _ in story(client)):
            client.socket.take(50)
            await settled()
        follower.resume()
        client.socket.take_all()
        await client.socket.until(lambda: last(client) == ("new", END + NEW - 1))
        reported = story(client)
        first = next(i for i, (name, _) in enumerate(reported) if name.startswith("gap"))
        assert {name for name, _ in reported[:first]} == {"old"}, "no new event may precede the gap"
        gap = max(i for i, (name, _) in enumerate(reported) if name.startswith("gap"))
        assert reported[gap][1] == END
        assert reported[gap + 1 :] == run("new", END, END + NEW)
        client.socket.hang_up()


@pytest.mark.parametrize("tail_knows", [True, False])
@pytest.mark.parametrize("offset", [1, END - 1, END, END + 1, OLD - 1, OLD])
async def test_an_id_from_before_the_election_misses_no_new_record(
    offset: int, tail_knows: bool
) -> None:
    log = EpochLog()
    await log.create_topic("t", 1)
    await log.append(records("old", 0, OLD))
    await log.lose(P, END, records("new", END, NEW, at_ms=5_000))
    resume_resolver = await resumer_of(log, tail_from=0 if tail_knows else END + NEW)
    found = await resume_resolver.resume(PartitionCursor(P, offset, 1_000 + offset - 1, 0))
    assert found.offset == min(offset, END)
    assert (found.gap is None) == (offset <= END)
    if found.gap is not None:
        assert (found.gap.requested, found.gap.resumed) == (offset, END)
        assert found.gap.cause == "truncation"


@pytest.mark.parametrize("offset", [END + 1, OLD, END + NEW])
async def test_an_id_from_after_the_election_resumes_without_a_gap(offset: int) -> None:
    log = EpochLog()
    await log.create_topic("t", 1)
    await log.append(records("old", 0, OLD))
    await log.lose(P, END, records("new", END, NEW, at_ms=5_000))
    resume_resolver = await resumer_of(log, tail_from=END + NEW)
    found = await resume_resolver.resume(PartitionCursor(P, offset, 5_000 + offset - 1, 1))
    assert (found.offset, found.gap, found.epoch) == (offset, None, 1)


async def test_an_id_of_another_cluster_resumes_by_its_time_without_a_gap() -> None:
    """In this log, its epoch ended much earlier."""
    log = EpochLog()
    await log.create_topic("t", 1)
    await log.append(records("old", 0, 10))
    await log.lose(P, 5, records("new", 5, 60, at_ms=5 * HOUR_MS))
    resume_resolver = await resumer_of(log, tail_from=65)
    found = await resume_resolver.resume(PartitionCursor(P, 60, 5 * HOUR_MS + 64, 0))
    assert (found.offset, found.gap and found.gap.cause) == (5, "truncation")
    await log.append([Record("t", b"{}", None, 9 * HOUR_MS, 0)])
    found = await resume_resolver.resume(PartitionCursor(P, 60, 9 * HOUR_MS, 0))
    assert (found.offset, found.gap) == (65, None)
    found = await resume_resolver.resume(PartitionCursor(P, 60, 9 * HOUR_MS - 1, 0))
    assert (found.offset, found.gap and found.gap.cause) == (65, "other_log")


async def resumer_of(log: EpochLog, *, tail_from: int) -> ResumeResolver:
    tails = Tails(log=log, bytes_max=10**6)
    await tails.refresh(["t"])
    if tail_from == 0:
        found = await log.read(P, 0, 10**6)
        tails.truncate(P, 0)
        tails.append(P, tails.frames(found.events), found.next, found.epochs)
    history = History(log=log, block_bytes=60, bytes_max=10**6, metrics=Metrics())
    return ResumeResolver(log=log, history=history, tails=tails.by_partition)


async def test_joining_a_cohort_compares_epochs_too() -> None:
    log = EpochLog()
    async with gateway_over(log) as gateway, asyncio.TaskGroup() as tasks:
        await log.lose(P, END, records("new", END, OLD - END, at_ms=5_000))
        await settled()
        start = json.dumps([{"topic": "t", "partition": 0, "offset": OLD}])
        client = Client(gateway, "t", last_event_id=start)
        tasks.create_task(client.serve())
        await client.opened()
        [subscription] = gateway.hub.subscriptions
        position = subscription.position
        stale = position.at(P, OLD, position.timestamps[0], 0)
        gateway.hub.leave(subscription)
        subscription.position = stale
        with pytest.raises(LogTruncated) as caught:
            gateway.hub.join(subscription)
        assert caught.value.end == END
        client.socket.hang_up()


async def test_streams_opened_after_an_election_get_no_gap() -> None:
    log = EpochLog()
    async with gateway_over(log) as gateway, asyncio.TaskGroup() as tasks:
        early = Client(gateway, "t", query="since=0")
        tasks.create_task(early.serve())
        await early.socket.until(lambda: last(early) == ("old", OLD - 1))
        await log.lose(P, END, records("new", END, NEW, at_ms=5_000))
        await early.socket.until(lambda: last(early) == ("new", END + NEW - 1))
        late = Client(gateway, "t")
        tasks.create_task(late.serve())
        await joined(gateway, early, late)
        await log.append(records("new", END + NEW, 1))
        await late.socket.until(lambda: bool(story(late)))
        assert story(late) == [("new", END + NEW)]
        for client in (early, late):
            client.socket.hang_up()


async def test_the_lower_of_two_truncations_decides_where_a_stream_continues() -> None:
    log = EpochLog()
    async with gateway_over(log) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query="since=0")
        tasks.create_task(client.serve())
        await client.socket.until(lambda: last(client) == ("old", OLD - 1))
        await joined(gateway, client)
        follower = follower_of(log)
        follower.paused = True
        await log.lose(P, END, records("new", END, NEW, at_ms=5_000))
        [subscription] = gateway.hub.subscriptions
        subscription.truncate(P, END)
        subscription.truncate(P, END + 10)
        await client.socket.until(lambda: len(story(client)) > OLD)
        assert story(client)[OLD] == ("gap from 40", END)
        follower.resume()
        await client.socket.until(lambda: last(client) == ("new", END + NEW - 1))
        assert story(client)[-NEW:] == run("new", END, END + NEW)
        client.socket.hang_up()


def test_an_unknown_epoch_is_not_a_loss() -> None:
    def at(epoch: int) -> Position:
        return Position((P,), (10,), (0,), (epoch,))

    tails = [Tail(P, 10, 0)]
    require_same(at(NO_EPOCH), at(3), tails)
    require_same(at(3), at(NO_EPOCH), tails)
    require_same(at(3), at(3), tails)
    with pytest.raises(LogTruncated):
        require_same(at(2), at(3), tails)
