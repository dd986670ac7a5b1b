"""Unreachable partitions: their streams wait, then end, and are refused. Others are served."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

import pytest

from eventstreams.fanout.start import StartResolver
from eventstreams.fanout.timing import Timing
from eventstreams.model.event import Partition
from eventstreams.turns import Turns
from tests.support import fanout
from tests.support.fanout import Client, Gateway, Socket, events, joined
from tests.support.partial_log import PartialLog
from tests.support.waiting import PATIENCE_S
from tests.support.wire import place_of

pytestmark = pytest.mark.anyio

T0, T1, U0 = Partition("t", 0), Partition("t", 1), Partition("u", 0)


serving = functools.partial(fanout.serving, timing=Timing(retry_s=0.002, quiet_s=0.004))


async def made(*away: Partition, count: int = 0) -> PartialLog:
    log = PartialLog()
    await log.create_topic("t", 2)
    await log.create_topic("u", 1)
    for partition in (T0, T1, U0):
        await log.append(events(*partition, count))
    log.lose(*away)
    return log


def places(client: Client) -> list[tuple[str, int, int]]:
    return [place_of(frame) for frame in client.socket.frames if frame.event == "message"]


async def unreachable(gateway: Gateway, *partitions: Partition) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while gateway.hub.follower.unreachable != set(partitions):
            await asyncio.sleep(0)


async def test_streams_of_a_lost_partition_end_and_others_continue() -> None:
    log = await made()
    named = '[{"topic":"t","partition":0,"offset":0}]'
    async with (
        serving(log, ["t", "u"], log_patience_s=0.01) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        doomed = [Client(gateway, name) for name in ("t", "all")]
        safe = [Client(gateway, "u"), Client(gateway, "t", last_event_id=named)]
        for client in (*doomed, *safe):
            tasks.create_task(client.serve())
        await joined(gateway, *doomed, *safe)
        log.lose(T1)
        for client in doomed:
            await client.ended()
            [error] = client.socket.frames
            assert error.event == "error"
            reported = json.loads(error.data)
            assert reported["name"] == "LogUnavailable"
            assert reported["message"] == "t/1 is unreachable: no leader"
        await log.append([*events("u", 0, 1), *events("t", 0, 1)])
        for client in safe:
            await client.frames(1)
            assert not client.done.is_set()
        assert gateway.hub.ready
        log.regain(T1)
        await unreachable(gateway)
        back = Client(gateway, "t", last_event_id=doomed[0].last_id)
        tasks.create_task(back.serve())
        await log.append(events("t", 1, 1))
        await back.frames(2)
        assert sorted(places(back)) == [("t", 0, 0), ("t", 1, 0)]
        for client in (*safe, back):
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_short_outage_of_a_partition_ends_no_stream() -> None:
    log = await made()
    async with serving(log, ["t", "u"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "all")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        log.lose(T1)
        await unreachable(gateway, T1)
        await log.append([*events("t", 1, 2), *events("u", 0, 1)])
        await client.frames(1)
        assert places(client) == [("u", 0, 0)], "the reachable partitions continue"
        log.regain(T1)
        await client.frames(3)
        assert places(client)[1:] == [("t", 1, 0), ("t", 1, 1)]
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


@pytest.mark.parametrize("when", ["from the start", "later"])
@pytest.mark.parametrize("query", ["", "since=0"])
async def test_requests_for_a_lost_partition_are_refused_by_name(when: str, query: str) -> None:
    log = await made(*([T1] if when == "from the start" else []), count=2)
    async with serving(log, ["t", "u"]) as gateway, asyncio.TaskGroup() as tasks:
        log.lose(T1)
        await unreachable(gateway, T1)
        gateway.streams._start_resolver = StartResolver(
            hub=gateway.hub, turns=Turns(), patience_s=0.01
        )
        refused = Client(gateway, "t", query=query)
        await refused.serve()
        assert refused.socket.status == 503
        assert 5 <= int(refused.socket.headers["retry-after"]) <= 15
        assert json.loads(refused.socket.taken)["message"] == (
            "The log is unreachable: t/1 is unreachable: no leader"
        )
        named = '[{"topic":"t","partition":0,"offset":0}]'
        for client in (
            Client(gateway, "u", query="since=0"),
            Client(gateway, "t", last_event_id=named),
        ):
            tasks.create_task(client.serve())
            await client.frames(2)
            client.socket.hang_up()
            await client.ended()
        assert gateway.hub.ready
    gateway.assert_nobody_is_left()


async def test_a_request_waits_for_a_partition_that_returns() -> None:
    log = await made(T1)
    async with serving(log, ["t", "u"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        log.regain(T1)
        await joined(gateway, client)
        await log.append(events("t", 1, 1))
        await client.frames(1)
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_an_older_id_gets_an_added_partition_when_it_returns() -> None:
    log = await made(T1)
    whole = '[{"topic":"t","partition":0,"offset":0,"timestamp":1}]'
    async with serving(log, ["t", "u"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", last_event_id=whole)
        tasks.create_task(client.serve())
        await joined(gateway, client)
        await log.append([*events("t", 0, 1), *events("t", 1, 2)])
        await client.frames(1)
        log.regain(T1)
        await client.frames(3)
        assert sorted(places(client)) == [("t", 0, 0), ("t", 1, 0), ("t", 1, 1)]
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_readers_of_a_lost_partition_do_not_delay_others() -> None:
    log = await made(count=30)
    slow: dict[str, Any] = {
        "catch_up_slots": 1,
        "batch_bytes_max": 1,
        "block_bytes": 1,
        "cache_bytes_max": 1,
    }
    async with serving(log, ["t", "u"], **slow) as gateway, asyncio.TaskGroup() as tasks:
        waiting = [Client(gateway, "t", query="since=0", socket=Socket(high_water=1))]
        waiting += [Client(gateway, "t", query="since=1", socket=Socket(high_water=1))]
        for client in waiting:
            tasks.create_task(client.serve())
            await client.opened()
        log.lose(T0, T1)
        await unreachable(gateway, T0, T1)
        for client in waiting:
            client.socket.take_all()
        log.asked.clear()
        other = Client(gateway, "u", query="since=0")
        tasks.create_task(other.serve())
        await other.frames(30)
        assert set(log.asked) == {U0}
        log.regain(T0, T1)
        for client in waiting:
            await client.frames(60)
            assert sorted(places(client)) == [("t", n, o) for n in (0, 1) for o in range(30)]
        for client in (*waiting, other):
            client.socket.hang_up()
    gateway.assert_nobody_is_left()
