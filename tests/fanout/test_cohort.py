"""Cohorts: equal subscriptions get the same bytes, rendered once; slow clients delay no others."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from eventstreams.fanout.cohort import Cohort
from eventstreams.fanout.timing import Timing
from eventstreams.log.memory import MemoryLog
from eventstreams.turns import RESTS, Turns
from tests.support.fanout import (
    Client,
    FailingSocket,
    Socket,
    events,
    joined,
    passed,
    serving,
    settled,
)
from tests.support.wire import place_of

pytestmark = pytest.mark.anyio


async def topic(log: MemoryLog, name: str = "t", partitions: int = 1) -> str:
    await log.create_topic(name, partitions)
    return name


def offsets(client: Client) -> list[int]:
    return [place_of(frame)[2] for frame in client.socket.frames]


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return every batch of events that is rendered for a cohort."""
    batches: list[bytes] = []
    queue = Cohort.queue

    def counted(cohort: Any, parts: Sequence[bytes], events: int, before: Any) -> None:
        if events:
            batches.append(b"".join(parts))
        queue(cohort, parts, events, before)

    monkeypatch.setattr(Cohort, "queue", counted)
    return batches


@pytest.mark.parametrize("exposed", [True, False])
async def test_equal_subscriptions_share_bytes_rendered_once(
    rendered: list[bytes], *, exposed: bool
) -> None:
    log = MemoryLog()
    timing = Timing(scan_s=math.inf)  # a scan on a busy machine must not end early
    async with (
        serving(log, [await topic(log)], timing=timing) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        clients = [Client(gateway, "t", exposed=exposed) for _ in range(50)]
        for client in clients:
            tasks.create_task(client.serve())
        await joined(gateway, *clients)
        assert gateway.count("cohorts") == 1
        for round_ in range(3):
            await log.append(events("t", 0, 2))
            for client in clients:
                await client.frames(2 * round_ + 2)
        assert len(rendered) == 3
        for n, body in enumerate(rendered):
            received = {id(client.socket.bodies[1 + n]): client for client in clients}
            assert [client.socket.bodies[1 + n] for client in received.values()] == [body]
        assert len({client.last_id for client in clients}) == 1
        assert gateway.count("events_out_total") == 50 * 6
        assert {client.socket.direct_writes for client in clients} == {3 if exposed else 0}
        for client in clients:
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_different_specs_have_different_cohorts() -> None:
    log = MemoryLog()
    names = [await topic(log, name) for name in "tu"]
    async with serving(log, names) as gateway, asyncio.TaskGroup() as tasks:
        clients = [
            Client(gateway, "t"),
            Client(gateway, "t", accept="application/json"),
            Client(gateway, "u"),
            Client(gateway, "all"),
        ]
        for client in clients:
            tasks.create_task(client.serve())
        await joined(gateway, *clients)
        assert gateway.count("cohorts") == 4
        await log.append(events("t", 0, 1))
        await clients[0].frames(1)
        await clients[3].frames(1)
        await clients[1].socket.until(lambda: clients[1].socket.taken.count(b"\n") == 2)
        assert json.loads(clients[1].socket.taken) == json.loads(clients[0].socket.frames[0].data)
        assert clients[2].socket.frames == []
        for client in clients:
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_joining_member_has_its_cohorts_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = MemoryLog()
    name = await topic(log)
    await log.append(events("t", 0, 20))
    async with serving(log, [name], batch_bytes_max=1) as gateway, asyncio.TaskGroup() as tasks:
        seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        join = gateway.hub.join

        def watched(subscription: Any) -> bool:
            joins = join(subscription)
            if joins:
                seen.append((subscription.position.offsets, subscription.cohort.position.offsets))
            return joins

        monkeypatch.setattr(gateway.hub, "join", watched)
        clients = [Client(gateway, "t", query="since=0") for _ in range(5)]
        for client in clients:
            tasks.create_task(client.serve())
            await log.append(events("t", 0, 1))
            await passed(3)
        for client in clients:
            await client.frames(25)
            assert offsets(client) == list(range(25))
        await joined(gateway, *clients)
        assert len(seen) >= 5
        assert all(mine == theirs for mine, theirs in seen)
        for client in clients:
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_client_that_pulls_stops_at_its_cohorts_position() -> None:
    log = MemoryLog()
    async with serving(log, [await topic(log)]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        [subscription] = gateway.hub.subscriptions
        [partition] = gateway.hub.tails.partitions("t")
        gateway.hub.tails.append(partition, [], 7)  # the tail is ahead of what was written
        assert gateway.hub.ends(subscription.spec) == (0,)
        assert gateway.hub.now(subscription.spec).offsets == (0,)
        client.socket.hang_up()
        await client.ended()
        assert gateway.hub.ends(subscription.spec) == (7,)
    gateway.assert_nobody_is_left()


@pytest.mark.parametrize("exposed", [True, False])
async def test_a_slow_member_leaves_and_rejoins_without_loss(*, exposed: bool) -> None:
    log = MemoryLog()
    async with serving(log, [await topic(log)]) as gateway, asyncio.TaskGroup() as tasks:
        slow = Client(gateway, "t", exposed=exposed, socket=Socket(high_water=300))
        quick = [Client(gateway, "t") for _ in range(3)]
        for client in (slow, *quick):
            tasks.create_task(client.serve())
        await joined(gateway, slow, *quick)
        for n in range(20):
            await log.append(events("t", 0, 1))
            for client in quick:
                await client.frames(n + 1)
        assert gateway.count("slow_total") == 1
        assert sum(s.cohort is not None for s in gateway.hub.subscriptions) == 3
        written = len(slow.socket.written)
        await log.append(events("t", 0, 5))
        await quick[0].frames(25)
        assert len(slow.socket.written) == written, "nothing may be written to a full socket"
        while len(slow.socket.frames) < 25:
            slow.socket.take(37)
            await passed(3)
        assert offsets(slow) == list(range(25))
        slow.socket.take_all()
        await joined(gateway, slow, *quick)
        await log.append(events("t", 0, 1))
        for client in (slow, *quick):
            await client.frames(26)
            assert offsets(client) == list(range(26))
        assert slow.last_id == quick[0].last_id
        for client in (slow, *quick):
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_clients_that_wait_for_turns_join_while_events_arrive() -> None:
    """Each has its own filter. All share one address, so one of them has a turn for each event."""
    log, count = MemoryLog(), 30
    async with serving(log, [await topic(log)]) as gateway, asyncio.TaskGroup() as tasks:
        gateway.hub.catch_up._turns = Turns(pass_s=1e-9)
        clients = [
            Client(gateway, "t", query=f"since=0&filter=offset%20>=%20-{n}") for n in range(count)
        ]
        for client in clients:
            tasks.create_task(client.serve())
        appended = 0
        while sum(s.cohort is not None for s in gateway.hub.subscriptions) < count:
            assert appended < 4 * count, "clients that had their turn must have joined"
            await log.append(events("t", 0, 1))
            appended += 1
            await passed(1 + RESTS)
        await log.append(events("t", 0, 1))
        for client in clients:
            await client.socket.until(lambda c=client: offsets(c)[-1:] == [appended])
            got = offsets(client)
            assert got == list(range(appended + 1))
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_no_events_are_queued_for_a_client_that_does_not_read() -> None:
    log = MemoryLog()
    name = await topic(log)
    limits = {"batch_bytes_max": 2_000, "tail_bytes_max": 20_000, "cache_bytes_max": 20_000}
    async with serving(log, [name], **limits) as gateway, asyncio.TaskGroup() as tasks:
        stuck = [Client(gateway, "t", socket=Socket(high_water=500)) for _ in range(5)]
        reader = Client(gateway, "t")
        for client in (*stuck, reader):
            tasks.create_task(client.serve())
        await joined(gateway, *stuck, reader)
        for n in range(1, 41):
            await log.append(events("t", 0, 10, "x" * 50))
            await reader.frames(10 * n)
        for client in stuck:
            assert client.socket.unsent() <= 500 + 2 * limits["batch_bytes_max"]
        for subscription in gateway.hub.subscriptions:
            held = [getattr(subscription, name, None) for name in subscription.__slots__]
            assert sum(len(v) for v in held if isinstance(v, bytes | bytearray | list)) == 0
        assert gateway.hub.tails.trim() <= limits["tail_bytes_max"]
        for client in stuck:  # the tail no longer has these events: history is read
            client.socket.take_all()
            await client.frames(400)
            assert offsets(client) == list(range(400))
        for client in (*stuck, reader):
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_stream_to_a_client_that_never_reads_ends_as_stalled() -> None:
    log = MemoryLog()
    name = await topic(log)
    async with serving(log, [name], stall_timeout_s=0.02) as gateway, asyncio.TaskGroup() as tasks:
        for start in ("now", "history"):
            stuck = Client(
                gateway,
                "t",
                socket=Socket(high_water=1),
                query="since=0" if start == "history" else "",
            )
            tasks.create_task(stuck.serve())
            stuck.socket.take(len(b":ok\n\n"))
            await stuck.opened()
            await log.append(events("t", 0, 3))
            await settled()
            await log.append(events("t", 0, 3))
            await stuck.ended()
            assert stuck.socket.aborted
            assert not stuck.socket.complete
        assert gateway.count("streams_ended_total", reason="stalled") == 2
    gateway.assert_nobody_is_left()


async def test_a_failed_send_ends_only_its_client() -> None:
    log = MemoryLog()
    async with serving(log, [await topic(log)]) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, "t", socket=FailingSocket()), Client(gateway, "t")]
        for client in clients:
            tasks.create_task(client.serve())
        await joined(gateway, *clients)
        await log.append(events("t", 0, 1))
        await clients[1].frames(1)
        await clients[0].ended()
        assert gateway.count("streams_ended_total", reason="disconnected") == 1
        clients[1].socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_cohort_loses_nothing_in_a_burst_larger_than_the_tail() -> None:
    log = MemoryLog()
    name = await topic(log)
    async with serving(log, [name], tail_bytes_max=3_000) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, "t") for _ in range(4)]
        for client in clients:
            tasks.create_task(client.serve())
        await joined(gateway, *clients)
        await log.append(events("t", 0, 500))
        for client in clients:
            await client.frames(500)
            assert offsets(client) == list(range(500))
        await joined(gateway, *clients)
        for client in clients:
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_many_new_clients_read_the_log_once() -> None:
    log = MemoryLog()
    name = await topic(log)
    await log.append(events("t", 0, 1_000))
    limits: dict[str, Any] = {"tail_bytes_max": 1, "catch_up_slots": 3, "batch_bytes_max": 4_000}
    async with serving(log, [name], **limits) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, "t", query="since=0") for _ in range(30)]
        for client in clients:
            tasks.create_task(client.serve())
        for client in clients:
            await client.socket.until(lambda c=client: c.socket.taken.count(b"\n\n") == 1_001)
            assert offsets(client) == list(range(1_000))
        assert gateway.count("history_events_total") <= 1.2 * 1_000
        bodies = {id(body) for client in clients for body in client.socket.bodies[1:]}
        batches = len(clients[0].socket.bodies) - 1
        assert len(bodies) <= 1.2 * batches, "batches are rendered once for all"
        for client in clients:
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_client_ahead_of_its_cohort_waits_for_it() -> None:
    """Its id is from another gateway that has read more of the log."""
    log = MemoryLog()
    name = await topic(log)
    await log.append(events("t", 0, 5))
    async with serving(log, [name]) as gateway, asyncio.TaskGroup() as tasks:
        follower = gateway.hub.follower._follower
        assert follower is not None
        follower.drop(gateway.hub.tails.partitions("t"))  # this gateway lags
        await log.append(events("t", 0, 3))
        ahead = '[{"topic":"t","partition":0,"offset":8,"timestamp":1002}]'
        client = Client(gateway, "t", last_event_id=ahead)
        tasks.create_task(client.serve())
        await client.opened()
        await settled()
        assert all(s.cohort is None for s in gateway.hub.subscriptions)
        follower.assign(dict.fromkeys(gateway.hub.tails.partitions("t"), 5))
        await joined(gateway, client)
        await log.append(events("t", 0, 1))
        await client.frames(1)
        assert offsets(client) == [8]
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


@pytest.mark.parametrize("exposed", [True, False])
async def test_writing_to_many_members_does_not_block_the_event_loop(*, exposed: bool) -> None:
    log = MemoryLog()
    timing = Timing(turn_s=-1.0, members_per_look=4)
    turns = 0
    async with (
        serving(log, [await topic(log)], timing=timing) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        written_at: list[int] = []

        class Watched(Socket):
            def _write(self, body: bytes) -> None:
                super()._write(body)
                written_at.append(turns)

        async def rest() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        clients = [Client(gateway, "t", exposed=exposed, socket=Watched()) for _ in range(40)]
        for client in clients:
            tasks.create_task(client.serve())
        await joined(gateway, *clients)
        written_at.clear()
        others = tasks.create_task(rest())
        await log.append(events("t", 0, 1))
        for client in clients:
            await client.frames(1)
        assert len(set(written_at)) >= 10
        others.cancel()
        for client in clients:
            client.socket.hang_up()
    gateway.assert_nobody_is_left()
