"""One client does not affect others, and a crowd causes one read of the log."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.scale.crowd import numbers, produce, streams, unruly
from tests.support.client import Stream, frames_of
from tests.support.gateway import Site
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

STALLED_BYTES_MAX = 256 * 1024


async def test_clients_that_never_read_use_bounded_memory(
    embedded: Site,
) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"crowd": [topic]}) as served,
        streams(served, "crowd", 20) as readers,
        streams(served, "crowd", 10, receive_buffer=4096) as stalled,
    ):
        for stream in stalled:
            stream.client.pause()
        connections = served.server.server_state.connections
        held = [0]
        for first in range(0, 9000, 500):
            await produce(embedded, topic, first, 500)
            for reader in readers:
                assert numbers(await reader.frames(500)) == list(range(first, first + 500))
            held += [each.transport.get_write_buffer_size() for each in connections]
        assert 0 < max(held) <= STALLED_BYTES_MAX
        assert served.count("slow_total") >= len(stalled)


async def test_clients_that_make_no_progress_are_closed_and_counted(embedded: Site) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"crowd": [topic]}, stall_timeout_s=2.0) as served,
        streams(served, "crowd", 3) as readers,
        streams(served, "crowd", 5, receive_buffer=4096) as stalled,
    ):
        for stream in stalled:
            stream.client.pause()
        await produce(embedded, topic, 0, 1000)
        for reader in readers:
            assert numbers(await reader.frames(1000)) == list(range(1000))
        await served.until("streams_ended_total", len(stalled), reason="stalled")
        await served.until("clients", len(readers))


async def test_a_stalled_client_resumes_without_loss(embedded: Site) -> None:
    topic = await embedded.topic()
    async with embedded.gateway({"crowd": [topic]}, stall_timeout_s=0.3) as served:
        async with served.stream("crowd", receive_buffer=4096) as stream:
            await stream.opened()
            await produce(embedded, topic, 0, 1)
            [first] = await stream.frames(1)
            stream.client.pause()
            await produce(embedded, topic, 1, 6000)
            await served.until("streams_ended_total", 1, reason="stalled")
        async with served.stream("crowd", last_event_id=first.id) as again:
            assert numbers(await again.frames(6000)) == list(range(1, 6001))


@pytest.mark.parametrize("apart", [0, 40])
async def test_a_reconnect_storm_causes_one_read_of_the_log(site: Site, apart: int) -> None:
    behind, clients = 2000, 40
    topic = await site.topic()
    await produce(site, topic, 0, 100 + behind)
    async with site.gateway({"crowd": [topic]}) as before, before.stream("crowd", since="0") as one:
        ids = [frame.id for frame in await one.frames(100)]
    async with site.gateway({"crowd": [topic]}) as served:

        async def returns(number: int) -> None:
            seen = 99 - (number % apart if apart else 0)
            async with served.stream("crowd", last_event_id=ids[seen]) as stream:
                rest = numbers(await stream.frames(100 + behind - seen - 1))
            assert rest == list(range(seen + 1, 100 + behind))

        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(returns(number))
        assert served.count("history_events_total") <= 1.2 * (100 + behind)


async def test_clients_continue_at_another_gateway_after_a_drain(site: Site) -> None:
    topic = await site.topic()
    async with (
        site.gateway({"crowd": [topic]}) as second,
        site.gateway({"crowd": [topic]}) as first,
        streams(first, "crowd", 12) as clients,
    ):
        await produce(site, topic, 0, 1)
        firsts = [await client.frame() for client in clients]
        # More events arrive; some clients get them before their stream ends, others later.
        producing = asyncio.create_task(produce(site, topic, 1, 499))
        draining = asyncio.create_task(first.parts.hub.drain(2.0))

        async def comes_back(client: Stream, newest: str) -> None:
            got, retry = [0], b""
            while (chunk := await client.chunk()) is not None:
                body, _, retry = chunk.partition(b"retry: ")
                for frame in frames_of(body):
                    got.append(frame.document["n"])
                    newest = frame.id
            assert retry.removesuffix(b"\n").isdigit(), "each response ends with its own delay"
            assert got == list(range(len(got)))
            async with second.stream("crowd", last_event_id=newest) as again:
                rest = numbers(await again.frames(500 - len(got)))
            assert rest == list(range(len(got), 500))

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            for client, frame in zip(clients, firsts, strict=True):
                tasks.create_task(comes_back(client, frame.id))
        await producing
        await draining


async def test_misbehaving_clients_leave_nothing_behind(embedded: Site) -> None:
    topic = await embedded.topic()
    async with embedded.gateway({"crowd": [topic]}) as served:
        async with streams(served, "crowd", 1):
            await produce(embedded, topic, 0, 1)
        await served.until("clients", 0)
        tasks_before = len(asyncio.all_tasks())
        files_before = len(os.listdir("/proc/self/fd"))
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(_feed(embedded, topic))
            async with asyncio.TaskGroup() as clients:
                for seed in range(25):
                    clients.create_task(unruly(served, "crowd", 12, seed))
            feeding.cancel()
        await served.until("clients", 0)
        hub = served.parts.hub
        assert not hub.subscriptions
        assert not hub._cohorts
        async with asyncio.timeout(PATIENCE_S):
            while served.server.server_state.connections:
                await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) <= tasks_before
        assert len(os.listdir("/proc/self/fd")) <= files_before


async def _feed(site: Site, topic: str) -> None:
    first = 1
    while True:
        await produce(site, topic, first, 20)
        first += 20
