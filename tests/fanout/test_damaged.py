"""Damaged records become gaps for clients of history, live events and several partitions."""

from __future__ import annotations

import asyncio
import json

import pytest

from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Partition
from tests.support.fanout import Client, events, places, serving, settled

pytestmark = pytest.mark.anyio

T0, T1 = Partition("t", 0), Partition("t", 1)


def gaps(client: Client) -> list[dict[str, object]]:
    return [
        gap
        for frame in client.socket.frames
        if frame.event == "gap"
        for gap in json.loads(frame.data)["partitions"]
    ]


async def test_a_live_client_gets_a_gap_and_later_events() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, "t") for _ in range(3)]
        for client in clients:
            tasks.create_task(client.serve())
            await client.opened()
        await log.append(events("t", 0, 2))
        for client in clients:
            await client.socket.until(lambda client=client: len(places(client)) == 2)
        log.damage(T0, 3)
        log.damage(T0, 4)
        await log.append(events("t", 0, 4))
        for client in clients:
            await client.socket.until(lambda client=client: places(client)[-1:] == [(0, 5)])
            assert places(client) == [(0, 0), (0, 1), (0, 2), (0, 5)]
            [gap] = gaps(client)
            assert gap == {
                "topic": "t",
                "partition": 0,
                "requested": 3,
                "available": {"oldest": 0, "end": 6},
                "resumed": 5,
                "cause": "damaged",
            }
        assert gateway.count("gaps_total", cause="damaged") == 3
        await log.append(events("t", 0, 1))
        for client in clients:
            await client.socket.until(lambda client=client: places(client)[-1:] == [(0, 6)])
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_damage_in_one_partition_does_not_affect_the_others() -> None:
    log = MemoryLog()
    await log.create_topic("t", 2)
    await log.append([*events("t", 0, 6), *events("t", 1, 6)])
    log.damage(T0, 2)
    log.damage(T1, 5)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query="since=0")
        tasks.create_task(client.serve())
        await client.opened()
        await client.socket.until(lambda: len(places(client)) + len(gaps(client)) == 12)
        await settled()
        assert sorted(places(client)) == sorted(
            [(0, n) for n in range(6) if n != 2] + [(1, n) for n in range(5)]
        )
        assert [(gap["partition"], gap["requested"]) for gap in gaps(client)] in (
            [(0, 2), (1, 5)],
            [(1, 5), (0, 2)],
        )
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


@pytest.mark.parametrize("at", [0, 3, 5])
async def test_a_client_can_resume_at_and_after_a_damaged_record(at: int) -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, 6))
    log.damage(T0, at)
    async with serving(log, ["t"]) as gateway:
        for start in range(7):
            async with asyncio.TaskGroup() as tasks:
                stamp = 1_000 + start - 1 if start else 0
                id_ = [{"topic": "t", "partition": 0, "offset": start, "timestamp": stamp}]
                client = Client(gateway, "t", last_event_id=json.dumps(id_))
                tasks.create_task(client.serve())
                await client.opened()
                expected = [(0, n) for n in range(start, 6) if n != at]
                count = len(expected) + (start <= at)
                await client.socket.until(
                    lambda c=client, n=count: len(places(c)) + len(gaps(c)) == n
                )
                assert places(client) == expected
                client.socket.hang_up()


async def test_a_stream_that_allows_no_gap_ends_at_damage() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, 6))
    log.damage(T0, 2)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query="since=0&gap=fail")
        tasks.create_task(client.serve())
        await client.socket.until(lambda: any(f.event == "error" for f in client.socket.frames))
        assert places(client) == [(0, 0), (0, 1)]
    gateway.assert_nobody_is_left()


async def test_a_gateway_starts_despite_damaged_newest_records() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, 3))
    for offset in (1, 2):
        log.damage(T0, offset)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        await client.opened()
        await log.append(events("t", 0, 1))
        await client.socket.until(lambda: places(client) == [(0, 3)])
        client.socket.hang_up()
    gateway.assert_nobody_is_left()
