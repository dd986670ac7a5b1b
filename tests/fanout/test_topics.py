"""What a stream does when its log changes under it: partitions, topics and brokers come and go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import Any

import pytest

from eventstreams.errors import LogUnavailable, OffsetOutOfRange
from eventstreams.fanout import feed as feed_module
from eventstreams.fanout import subscription as subscription_module
from eventstreams.fanout.compression import Encoding, begin
from eventstreams.fanout.ending import Reason
from eventstreams.fanout.subscription import Subscription
from eventstreams.fanout.want import Format, everything
from eventstreams.log.base import NOTHING_KNOWN, Slice
from eventstreams.log.memory import MemoryFollower, MemoryLog
from eventstreams.model.event import Bounds, Partition
from eventstreams.model.position import Position
from tests.fanout.gateway import (
    Client,
    Gateway,
    Socket,
    events,
    joined,
    serving,
    settled,
)
from tests.wire import place_of

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries the log again soon."""
    monkeypatch.setattr(feed_module, "_RETRY_S", 0.005)
    monkeypatch.setattr(feed_module, "_QUIET_S", 0.01)
    monkeypatch.setattr(subscription_module, "_RETRY_LOG_S", 0.005)


class BrokenLog(MemoryLog):
    """Out of reach while `broken`."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    def _check(self) -> None:
        if self.broken:
            raise LogUnavailable("no broker answers")

    async def partitions(self, topics: Collection[str]) -> dict[str, tuple[Partition, ...]]:
        self._check()
        return await super().partitions(topics)

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        self._check()
        return await super().read(partition, offset, max_bytes)

    def follow(self, starts: Any, epochs: Any = NOTHING_KNOWN) -> MemoryFollower:
        follower = BrokenFollower(self, starts)
        self._followers.add(follower)
        return follower


class BrokenFollower(MemoryFollower):
    async def next(self) -> list[Slice]:
        log = self._log
        assert isinstance(log, BrokenLog)
        log._check()
        return await super().next()


def places(client: Client) -> list[tuple[int, int]]:
    return [place_of(f)[1:] for f in client.socket.frames if f.event == "message"]


@pytest.mark.parametrize("stuck", [False, True], ids=["reading", "not reading"])
async def test_a_partition_that_a_topic_gains_is_read_from_its_first_record_on(
    *, stuck: bool
) -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", socket=Socket(high_water=200 if stuck else None))
        tasks.create_task(client.serve())
        await joined(gateway, client)
        await log.append(events("t", 0, 4))
        await settled()
        await log.create_topic("t", 3)
        await log.append(events("t", 2, 2))
        await gateway.hub.feed.refresh()
        await log.append([*events("t", 2, 1), *events("t", 0, 1)])
        client.socket.take_all()
        await client.frames(8)
        assert sorted(places(client)) == [(0, n) for n in range(5)] + [(2, n) for n in range(3)]
        ids = [json.loads(f.id or "") for f in client.socket.frames]
        assert [e["partition"] for e in ids[-1]] == [0, 1, 2]
        await joined(gateway, client)
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_partition_gained_before_the_stream_began_is_not_forgotten() -> None:
    """Between finding the place of a client and serving it, its topic may grow."""
    log = MemoryLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        selection = gateway.streams._declarations.catalogue.resolve(["t"])
        start = await gateway.starter.start(
            selection, everything(Format.SSE), marks=None, since_ms=None
        )
        await log.create_topic("t", 2)
        await gateway.hub.feed.refresh()
        socket = Socket()
        socket.status = 200
        walk = tasks.create_task(
            Subscription(
                hub=gateway.hub,
                want=start.want,
                position=start.position,
                response=begin(Encoding.IDENTITY, b":ok\n\n")[0],
                receive=socket.receive,
                send=socket.send,
                connection=socket,
                client="192.0.2.1",
            ).run()
        )
        await log.append(events("t", 1, 1))
        await socket.until(lambda: len(socket.frames) == 1)
        assert place_of(socket.frames[0]) == ("t", 1, 0)
        socket.hang_up()
        assert (await walk).reason is Reason.DISCONNECTED
    gateway.assert_nobody_is_left()


async def test_one_who_named_its_partitions_keeps_just_those() -> None:
    log = MemoryLog()
    await log.create_topic("t", 2)
    named = '[{"topic":"t","partition":1,"offset":0}]'
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", last_event_id=named)
        tasks.create_task(client.serve())
        await joined(gateway, client)
        await log.create_topic("t", 3)
        await gateway.hub.feed.refresh()
        await log.append([*events("t", 0, 1), *events("t", 2, 1), *events("t", 1, 1)])
        await client.frames(1)
        await settled()
        assert places(client) == [(1, 0)]
        client.socket.hang_up()


async def test_an_id_made_before_a_topic_grew_covers_what_it_gained() -> None:
    log = MemoryLog()
    await log.create_topic("t", 2)
    await log.append(events("t", 0, 1))
    whole = json.dumps(
        [
            {"topic": "t", "partition": 0, "offset": 1, "timestamp": 1_000},
            {"topic": "t", "partition": 1, "offset": 0, "timestamp": 5},
        ]
    )
    await log.create_topic("t", 4)
    await log.append(events("t", 3, 2))
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", last_event_id=whole)
        tasks.create_task(client.serve())
        await client.frames(2)
        assert places(client) == [(3, 0), (3, 1)]
        client.socket.hang_up()


@pytest.mark.parametrize("format_", ["*/*", "application/json"])
async def test_a_topic_that_is_deleted_ends_its_streams_with_the_reason(format_: str) -> None:
    log = MemoryLog()
    for name in ("t", "u"):
        await log.create_topic(name, 1)
    async with serving(log, ["t", "u"]) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, name, accept=format_) for name in ("t", "all", "u")]
        for client in clients:
            tasks.create_task(client.serve())
        await joined(gateway, *clients)
        log.delete_topic("t")
        for client in clients[:2]:
            await client.ended()
            assert client.socket.complete
            if format_ == "*/*":
                [error] = client.socket.frames
                assert error.event == "error"
                assert json.loads(error.data)["name"] == "UnknownTopic"
                assert {e["topic"] for e in json.loads(error.id or "")} <= {"t", "u"}
            else:
                assert json.loads(client.socket.taken)["name"] == "UnknownTopic"
        assert gateway.count("streams_ended_total", reason="log_error") == 2
        await log.append(events("u", 0, 1))
        await clients[2].socket.until(lambda: b'"text"' in clients[2].socket.taken)
        clients[2].socket.hang_up()
    gateway.assert_nobody_is_left()


@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_topic_made_anew_ends_its_streams_and_is_told_as_a_gap(partitions: int) -> None:
    log = MemoryLog()
    await log.create_topic("t", partitions)
    for number in range(partitions):
        await log.append(events("t", number, 9))
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        del log._topics["t"]  # at once, so that nobody sees it gone
        await log.create_topic("t", partitions)
        for number in range(partitions):
            await log.append(events("t", number, 2, at_ms=5_000))
        [error] = await client.frames(1)
        assert error.event == "error", "nothing jumps in silence"
        await client.ended()
        back = Client(gateway, "t", last_event_id=error.id)
        tasks.create_task(back.serve())
        gap, *rest = await back.frames(1 + 2 * partitions)
        told = json.loads(gap.data)["partitions"]
        assert [(t["requested"], t["resumed"], t["cause"]) for t in told] == [
            (9, 0, "other_log")
        ] * partitions
        assert sorted(place_of(f)[1:] for f in rest) == [
            (number, offset) for number in range(partitions) for offset in (0, 1)
        ]
        back.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_topic_that_was_gone_for_a_moment_is_followed_again() -> None:
    """The follower saw it missing; by the time that is looked into, it is there again."""
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, 3))
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        async with gateway.hub.feed._looking:  # holds the looking up until the topic is back
            log.delete_topic("t")
            await settled()
            await log.create_topic("t", 1)
        await settled()
        await log.append(events("t", 0, 2, at_ms=5_000))
        frames = await client.frames(1)
        assert frames[0].event == "error", "nothing jumps in silence"
        await client.ended()
        back = Client(gateway, "t")
        tasks.create_task(back.serve())
        await joined(gateway, back)
        await log.append(events("t", 0, 1, at_ms=6_000))
        [frame] = await back.frames(1)
        assert place_of(frame)[2] == 2
        back.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_reader_overtaken_by_retention_is_told_and_goes_on() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, 40))
    async with (
        serving(log, ["t"], batch_bytes_max=1, cache_bytes_max=1_000, block_bytes=1) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        client = Client(gateway, "t", query="since=0", socket=Socket(high_water=1))
        tasks.create_task(client.serve())
        await client.opened()
        await settled()
        log.forget_before(Partition("t", 0), 30)
        client.socket.take_all()
        await client.socket.until(lambda: bool(places(client)) and places(client)[-1] == (0, 39))
        [gap] = [f for f in client.socket.frames if f.event == "gap"]
        [told] = json.loads(gap.data)["partitions"]
        got = [o for _, o in places(client)]
        assert got == [*range(told["requested"]), *range(30, 40)]
        assert told["resumed"] == 30
        assert json.loads(gap.id or "")[0]["offset"] == 30
        assert gateway.count("gaps_total", cause="retention") == 1
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_where_times_go_back_a_reader_overtaken_by_retention_is_told_all_the_same() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append([*events("t", 0, 20, at_ms=10_000_000), *events("t", 0, 20, at_ms=1_000)])
    async with (
        serving(log, ["t"], batch_bytes_max=1, cache_bytes_max=1_000, block_bytes=1) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        client = Client(gateway, "t", query="since=0", socket=Socket(high_water=1))
        tasks.create_task(client.serve())
        await client.opened()
        await settled()
        log.forget_before(Partition("t", 0), 30)
        client.socket.take_all()
        await client.socket.until(lambda: any(f.event == "gap" for f in client.socket.frames))
        await client.socket.until(lambda: places(client)[-1] == (0, 39))
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_what_is_cached_does_not_lead_an_overtaken_reader_back_to_where_it_was() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, 40))
    partition = Partition("t", 0)
    async with serving(log, ["t"], block_bytes=1) as gateway:
        await gateway.hub.history.load(partition, 0)  # just the first record
        log.forget_before(partition, 5)
        position = Position((partition,), (1,), (1_000,))
        error = OffsetOutOfRange(partition, 1, Bounds(5, 40))
        found, gap = await gateway.hub.gaps.after(position, error)
        assert found.offsets == (5,)
        assert gap is not None


async def test_where_a_gap_cannot_be_said_the_response_is_dropped() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, 40))
    async with (
        serving(log, ["t"], batch_bytes_max=1, cache_bytes_max=1_000, block_bytes=1) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        json_lines = {"accept": "application/json", "query": "since=0"}
        client = Client(gateway, "t", socket=Socket(high_water=1), **json_lines)
        tasks.create_task(client.serve())
        await client.opened()
        await settled()
        log.forget_before(Partition("t", 0), 30)
        client.socket.take_all()
        await client.ended()
        assert client.socket.aborted
        assert not client.socket.complete
        assert gateway.count("streams_ended_total", reason="gap") == 1
    gateway.assert_nobody_is_left()


async def outage(gateway: Gateway, log: BrokenLog) -> None:
    log.broken = True
    log.wake_followers()
    gateway.hub.feed.suspect(LogUnavailable("no broker answers"))
    await settled()


async def test_a_log_that_comes_back_in_time_keeps_its_clients() -> None:
    log = BrokenLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        await outage(gateway, log)
        assert not gateway.hub.ready
        late = Client(gateway, "t")
        tasks.create_task(late.serve())
        await settled()
        assert late.socket.status is None, "it waits for the log"
        log.broken = False
        await joined(gateway, client, late)
        await gateway.hub.feed.well.wait()
        await log.append(events("t", 0, 2))
        await client.frames(2)
        await late.frames(2)
        assert gateway.hub.ready
        assert gateway.count("log_reachable") == 1
        for one in (client, late):
            one.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_reader_of_history_waits_for_the_log_and_goes_on() -> None:
    log = BrokenLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, 20))
    async with (
        serving(
            log, ["t"], batch_bytes_max=1, block_bytes=1, cache_bytes_max=1, heartbeat_s=0.002
        ) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        client = Client(gateway, "t", query="since=0", socket=Socket(high_water=1))
        tasks.create_task(client.serve())
        await client.opened()
        await outage(gateway, log)
        client.socket.take_all()
        await client.socket.until(lambda: client.socket.taken.endswith(b"\n\n:\n:\n"))
        log.broken = False
        await client.frames(20)
        assert places(client) == [(0, n) for n in range(20)]
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_when_patience_is_over_streams_end_with_the_reason() -> None:
    log = BrokenLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"], log_patience_s=0.02) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        await log.append(events("t", 0, 1))
        await client.frames(1)
        await outage(gateway, log)
        await client.ended()
        event, error = client.socket.frames
        assert error.event == "error"
        assert json.loads(error.data)["name"] == "LogUnavailable"
        assert error.id == event.id, "the last good one"
        assert client.socket.complete
    gateway.assert_nobody_is_left()
