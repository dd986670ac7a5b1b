"""An election loses the end of a partition: streams that had read it get one gap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from eventstreams.errors import LogTruncated
from eventstreams.fanout.history import History
from eventstreams.fanout.resume import Resumer
from eventstreams.fanout.tails import Tails
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition, Record
from eventstreams.model.position import Mark
from tests.fanout.epoch_log import EpochFollower, EpochLog
from tests.fanout.gateway import Client, Gateway, Socket, joined, serving, settled

pytestmark = pytest.mark.anyio

P = Partition("t", 0)
OLD, END, NEW = 40, 20, 40
"""Offsets up to OLD are read, those from END on are lost; NEW records follow END then."""
HOUR_MS = 3_600_000


def records(name: str, first: int, count: int, at_ms: int = 1_000) -> list[Record]:
    return [
        Record("t", b'{"log":"%s","n":%d}' % (name.encode(), n), None, at_ms + n, 0)
        for n in range(first, first + count)
    ]


@asynccontextmanager
async def gateway_over(log: EpochLog, **settings: int) -> AsyncIterator[Gateway]:
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
    """What came: events by log and number, gaps by where they resume."""
    told: list[tuple[str, int]] = []
    for frame in client.socket.frames:
        document = json.loads(frame.data)
        if frame.event == "gap":
            [gap] = document["partitions"]
            assert gap["cause"] == "truncation"
            told.append((f"gap from {gap['requested']}", gap["resumed"]))
        elif frame.event == "message":
            told.append((document["log"], document["n"]))
        else:
            raise AssertionError(frame)
    return told


def run(name: str, first: int, end: int) -> list[tuple[str, int]]:
    return [(name, n) for n in range(first, end)]


def last(client: Client) -> tuple[str, int] | None:
    return (story(client) or [None])[-1]


WHOLE_NEW = [("gap from 40", END), *run("new", END, END + NEW)]


@pytest.mark.parametrize("lent", [True, False])
async def test_live_clients_get_a_gap_and_all_that_is_new(lent: bool) -> None:
    log = EpochLog()
    async with gateway_over(log) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, "t", query="since=0", lent=lent) for _ in range(5)]
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


async def test_live_clients_get_a_gap_though_nothing_new_has_come() -> None:
    log = EpochLog()
    async with gateway_over(log) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query="since=0")
        unread = Client(gateway, "t")  # its position has no event before it
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
async def test_a_history_reader_gets_a_gap_only_if_it_read_of_what_is_lost(read: int) -> None:
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
        told = story(client)
        old = [n for name, n in told if name == "old"]
        assert old == list(range(len(old)))
        assert len(old) >= read
        gap = [(f"gap from {len(old)}", END)] if len(old) > END else []
        assert told[len(old) :] == [*gap, *run("new", END, END + NEW)]
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
        told = story(client)
        first = next(i for i, (name, _) in enumerate(told) if name.startswith("gap"))
        assert {name for name, _ in told[:first]} == {"old"}, "nothing new comes before the gap"
        gap = max(i for i, (name, _) in enumerate(told) if name.startswith("gap"))
        assert told[gap][1] == END
        assert told[gap + 1 :] == run("new", END, END + NEW)
        client.socket.hang_up()


@pytest.mark.parametrize("tail_knows", [True, False])
@pytest.mark.parametrize("offset", [1, END - 1, END, END + 1, OLD - 1, OLD])
async def test_an_id_of_before_the_election_resumes_where_nothing_new_is_missed(
    offset: int, tail_knows: bool
) -> None:
    log = EpochLog()
    await log.create_topic("t", 1)
    await log.append(records("old", 0, OLD))
    await log.lose(P, END, records("new", END, NEW, at_ms=5_000))
    resumer = await resumer_of(log, tail_from=0 if tail_knows else END + NEW)
    found = await resumer.resume(Mark(P, offset, 1_000 + offset - 1, 0))
    assert found.offset == min(offset, END)
    assert (found.gap is None) == (offset <= END)
    if found.gap is not None:
        assert (found.gap.requested, found.gap.resumed) == (offset, END)
        assert found.gap.cause == "truncation"


@pytest.mark.parametrize("offset", [END + 1, OLD, END + NEW])
async def test_an_id_of_after_the_election_resumes_without_a_gap(offset: int) -> None:
    log = EpochLog()
    await log.create_topic("t", 1)
    await log.append(records("old", 0, OLD))
    await log.lose(P, END, records("new", END, NEW, at_ms=5_000))
    resumer = await resumer_of(log, tail_from=END + NEW)
    found = await resumer.resume(Mark(P, offset, 5_000 + offset - 1, 1))
    assert (found.offset, found.gap, found.epoch) == (offset, None, 1)


async def test_an_id_of_another_cluster_resumes_by_its_time_in_silence() -> None:
    """Its epoch ended long before, in this log."""
    log = EpochLog()
    await log.create_topic("t", 1)
    await log.append(records("old", 0, 10))
    await log.lose(P, 5, records("new", 5, 60, at_ms=5 * HOUR_MS))
    resumer = await resumer_of(log, tail_from=65)
    found = await resumer.resume(Mark(P, 60, 5 * HOUR_MS + 64, 0))
    assert (found.offset, found.gap and found.gap.cause) == (5, "truncation")
    await log.append([Record("t", b"{}", None, 9 * HOUR_MS, 0)])
    found = await resumer.resume(Mark(P, 60, 9 * HOUR_MS, 0))
    assert (found.offset, found.gap) == (65, None)
    found = await resumer.resume(Mark(P, 60, 9 * HOUR_MS - 1, 0))
    assert (found.offset, found.gap and found.gap.cause) == (65, "other_log")


async def resumer_of(log: EpochLog, *, tail_from: int) -> Resumer:
    tails = Tails(log=log, bytes_max=10**6)
    await tails.refresh(["t"])
    if tail_from == 0:
        found = await log.read(P, 0, 10**6)
        tails.truncate(P, 0)
        tails.append(P, tails.frames(found.events), found.next, found.epochs)
    history = History(log=log, block_bytes=60, bytes_max=10**6, metrics=Metrics())
    return Resumer(log=log, history=history, tails=tails.by_partition)


async def test_where_only_the_offset_is_the_same_no_cohort_is_joined() -> None:
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
