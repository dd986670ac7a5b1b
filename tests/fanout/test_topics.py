"""Streams while their log changes: partitions, topics and brokers appear and disappear."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest

from eventstreams.errors import LogUnavailable, OffsetOutOfRange
from eventstreams.fanout.send import EndReason
from eventstreams.fanout.spec import Format, everything
from eventstreams.fanout.timing import Timing
from eventstreams.log.base import NOTHING_KNOWN, Slice
from eventstreams.log.memory import MemoryFollower, MemoryLog
from eventstreams.model.event import Bounds, Partition, Record
from eventstreams.model.position import PartitionCursor, Position
from tests.support import fanout
from tests.support.fanout import (
    Client,
    Gateway,
    Socket,
    events,
    joined,
    places,
    settled,
)
from tests.support.wire import place_of

pytestmark = pytest.mark.anyio


serving = functools.partial(fanout.serving, timing=Timing(retry_s=0.005, quiet_s=0.01))


class BrokenLog(MemoryLog):
    """A log that is unreachable while `broken`."""

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


@pytest.mark.parametrize("stuck", [False, True], ids=["reading", "not reading"])
async def test_a_partition_that_a_topic_gains_is_read_from_its_first_record(*, stuck: bool) -> None:
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
        await gateway.hub.follower.refresh()
        await log.append([*events("t", 2, 1), *events("t", 0, 1)])
        client.socket.take_all()
        await client.frames(8)
        assert sorted(places(client)) == [(0, n) for n in range(5)] + [(2, n) for n in range(3)]
        ids = [json.loads(f.id or "") for f in client.socket.frames]
        assert [e["partition"] for e in ids[-1]] == [0, 1, 2]
        await joined(gateway, client)
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_partition_added_while_a_stream_opens_is_read() -> None:
    """The partition is added after the start of the stream was resolved."""
    log = MemoryLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        start = await gateway.start("t")
        await log.create_topic("t", 2)
        await gateway.hub.follower.refresh()
        socket = Socket()
        stream = tasks.create_task(gateway.subscription(start, socket).run())
        await log.append(events("t", 1, 1))
        await socket.until(lambda: len(socket.frames) == 1)
        assert place_of(socket.frames[0]) == ("t", 1, 0)
        socket.hang_up()
        assert (await stream).reason is EndReason.DISCONNECTED
    gateway.assert_nobody_is_left()


async def test_a_client_that_named_partitions_gets_only_those() -> None:
    log = MemoryLog()
    await log.create_topic("t", 2)
    named = '[{"topic":"t","partition":1,"offset":0}]'
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", last_event_id=named)
        tasks.create_task(client.serve())
        await joined(gateway, client)
        await log.create_topic("t", 3)
        await gateway.hub.follower.refresh()
        await log.append([*events("t", 0, 1), *events("t", 2, 1), *events("t", 1, 1)])
        await client.frames(1)
        await settled()
        assert places(client) == [(1, 0)]
        client.socket.hang_up()


async def test_an_older_id_includes_partitions_added_since() -> None:
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
async def test_deleting_a_topic_ends_its_streams_with_the_reason(format_: str) -> None:
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
async def test_a_recreated_topic_ends_its_streams_and_is_a_gap(partitions: int) -> None:
    log = MemoryLog()
    await log.create_topic("t", partitions)
    for number in range(partitions):
        await log.append(events("t", number, 9))
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        del log._topics["t"]  # the follower does not see that the topic is missing
        await log.create_topic("t", partitions)
        for number in range(partitions):
            await log.append(events("t", number, 2, at_ms=5_000))
        [error] = await client.frames(1)
        assert error.event == "error", "no stream may skip records silently"
        await client.ended()
        back = Client(gateway, "t", last_event_id=error.id)
        tasks.create_task(back.serve())
        gap, *rest = await back.frames(1 + 2 * partitions)
        reported = json.loads(gap.data)["partitions"]
        assert [(t["requested"], t["resumed"], t["cause"]) for t in reported] == [
            (9, 0, "other_log")
        ] * partitions
        assert sorted(place_of(f)[1:] for f in rest) == [
            (number, offset) for number in range(partitions) for offset in (0, 1)
        ]
        back.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_topic_that_was_briefly_missing_is_followed_again() -> None:
    """The follower found it missing, but it exists again at the next look."""
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, 3))
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        async with gateway.hub.follower._looking:  # delays the look until the topic exists again
            log.delete_topic("t")
            await settled()
            await log.create_topic("t", 1)
        await settled()
        await log.append(events("t", 0, 2, at_ms=5_000))
        frames = await client.frames(1)
        assert frames[0].event == "error", "no stream may skip records silently"
        await client.ended()
        back = Client(gateway, "t")
        tasks.create_task(back.serve())
        await joined(gateway, back)
        await log.append(events("t", 0, 1, at_ms=6_000))
        [frame] = await back.frames(1)
        assert place_of(frame)[2] == 2
        back.socket.hang_up()
    gateway.assert_nobody_is_left()


@contextlib.asynccontextmanager
async def overtaken(records: list[Record], **client: Any) -> AsyncIterator[tuple[Gateway, Client]]:
    """Run a client that reads history slowly, while retention drops the first 30 records."""
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(records)
    sizes: dict[str, Any] = {"batch_bytes_max": 1, "cache_bytes_max": 1_000, "block_bytes": 1}
    async with serving(log, ["t"], **sizes) as gateway, asyncio.TaskGroup() as tasks:
        reader = Client(gateway, "t", query="since=0", socket=Socket(high_water=1), **client)
        tasks.create_task(reader.serve())
        await reader.opened()
        await settled()
        log.forget_before(Partition("t", 0), 30)
        reader.socket.take_all()
        yield gateway, reader
        reader.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_reader_overtaken_by_retention_gets_a_gap_and_continues() -> None:
    async with overtaken(events("t", 0, 40)) as (gateway, client):
        await client.socket.until(lambda: bool(places(client)) and places(client)[-1] == (0, 39))
        [gap] = [f for f in client.socket.frames if f.event == "gap"]
        [reported] = json.loads(gap.data)["partitions"]
        got = [o for _, o in places(client)]
        assert got == [*range(reported["requested"]), *range(30, 40)]
        assert reported["resumed"] == 30
        assert json.loads(gap.id or "")[0]["offset"] == 30
        assert gateway.count("gaps_total", cause="retention") == 1


async def test_a_reader_overtaken_with_decreasing_times_gets_a_gap() -> None:
    records = [*events("t", 0, 20, at_ms=10_000_000), *events("t", 0, 20, at_ms=1_000)]
    async with overtaken(records) as (_, client):
        await client.socket.until(lambda: any(f.event == "gap" for f in client.socket.frames))
        await client.socket.until(lambda: places(client)[-1] == (0, 39))


async def test_the_cache_never_moves_an_overtaken_reader_back() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, 40))
    partition = Partition("t", 0)
    async with serving(log, ["t"], block_bytes=1) as gateway:
        await gateway.hub.history.load(partition, 0)  # only the first record
        log.forget_before(partition, 5)
        position = Position((partition,), (1,), (1_000,))
        error = OffsetOutOfRange(partition, 1, Bounds(5, 40))
        found, gap = await gateway.hub.gaps.after(position, error)
        assert found.offsets == (5,)
        assert gap is not None


async def test_a_response_that_cannot_report_a_gap_is_aborted() -> None:
    async with overtaken(events("t", 0, 40), accept="application/json") as (gateway, client):
        await client.ended()
        assert client.socket.aborted
        assert not client.socket.complete
        assert gateway.count("streams_ended_total", reason="gap") == 1


async def outage(gateway: Gateway, log: BrokenLog) -> None:
    log.broken = True
    log.wake_followers()
    gateway.hub.follower.suspect(LogUnavailable("no broker answers"))
    await settled()


async def test_a_short_outage_of_the_log_keeps_its_clients() -> None:
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
        assert late.socket.status is None, "the request waits for the log"
        log.broken = False
        await joined(gateway, client, late)
        await gateway.hub.reachable.wait()
        await log.append(events("t", 0, 2))
        await client.frames(2)
        await late.frames(2)
        assert gateway.hub.ready
        assert gateway.count("log_reachable") == 1
        for one in (client, late):
            one.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_history_reader_continues_after_an_outage_of_the_log() -> None:
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


async def test_streams_end_with_the_reason_after_a_long_outage() -> None:
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
        assert error.id == event.id, "the id of the last event"
        assert client.socket.complete
    gateway.assert_nobody_is_left()


async def test_a_topic_deleted_while_a_stream_opens_ends_it_with_the_reason() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:

        class Deleting(Socket):
            async def send(self, message: Any) -> None:
                await super().send(message)
                if message["type"] == "http.response.start":
                    log.delete_topic("t")
                    await gateway.hub.follower.refresh()

        client = Client(gateway, "t", socket=Deleting())
        tasks.create_task(client.serve())
        await client.ended()
        [frame] = client.socket.frames
        assert frame.event == "error"
        assert json.loads(frame.data)["name"] == "UnknownTopic"
        assert client.socket.complete
    gateway.assert_nobody_is_left()


@pytest.mark.parametrize("timestamp_ms", [None, 0, 1_000])
async def test_offsets_without_times_add_no_new_partitions(
    timestamp_ms: int | None,
) -> None:
    log = MemoryLog()
    await log.create_topic("t", 2)
    async with serving(log, ["t"]) as gateway:
        selection = gateway.streams._catalogue_watcher.catalogue.resolve(["t"])
        marks = [PartitionCursor(Partition("t", n), 0, timestamp_ms) for n in range(2)]
        start = await gateway.start_resolver.start(
            selection, everything(Format.SSE), cursors=marks, since_ms=None, client=""
        )
        assert start.spec.growing == (frozenset() if timestamp_ms is None else {"t"})
