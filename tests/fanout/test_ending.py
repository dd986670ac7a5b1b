"""Streams end completely, for one reason, and leave no state, whatever they were doing."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.errors import LogUnavailable
from eventstreams.fanout.send import EndReason
from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Partition
from tests.support.fanout import Client, Gateway, Socket, events, joined, passed, serving, settled
from tests.support.wire import frames_of, place_of

pytestmark = pytest.mark.anyio


async def log_with(count: int) -> MemoryLog:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, count))
    return log


@pytest.mark.parametrize("format_", ["text/event-stream", "application/json"])
async def test_heartbeats_contain_no_event(format_: str) -> None:
    log = await log_with(0)
    beat = b":\n" if format_ == "text/event-stream" else b"\n"
    async with serving(log, ["t"], heartbeat_s=0.005) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, "t", accept=format_) for _ in range(2)]
        for client in clients:
            tasks.create_task(client.serve())
        for client in clients:
            await client.socket.until(lambda c=client: c.socket.bodies[1:4] == [beat] * 3)
        await log.append(events("t", 0, 1))
        for client in clients:
            await client.socket.until(lambda c=client: b'"text"' in c.socket.taken)
        if format_ == "text/event-stream":
            assert [len(client.socket.frames) for client in clients] == [1, 1]
        for client in clients:
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_subscription_outside_a_cohort_gets_heartbeats() -> None:
    log = await log_with(5)
    async with serving(log, ["t"], heartbeat_s=0.005) as gateway, asyncio.TaskGroup() as tasks:
        follower = gateway.hub.follower._follower
        assert follower is not None
        follower.drop(gateway.hub.tails.partitions("t"))
        await log.append(events("t", 0, 3))
        ahead = '[{"topic":"t","partition":0,"offset":8,"timestamp":1002}]'
        client = Client(gateway, "t", last_event_id=ahead)
        tasks.create_task(client.serve())
        await client.socket.until(lambda: client.socket.taken.endswith(b":\n:\n:\n"))
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_draining_ends_every_stream_completely_and_refuses_new_ones() -> None:
    log = await log_with(50)
    async with (
        serving(log, ["t"], batch_bytes_max=400, tail_bytes_max=1) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        live = [Client(gateway, "t") for _ in range(5)]
        behind = Client(gateway, "t", query="since=0", socket=Socket(high_water=100))
        lines = Client(gateway, "t", accept="application/json")
        for client in (*live, behind, lines):
            tasks.create_task(client.serve())
        await joined(gateway, *live, lines)
        await behind.opened()
        behind.socket.take(200)
        await settled()
        tasks.create_task(gateway.hub.drain(0.01))
        await settled()
        behind.socket.take_all()
        for client in (*live, behind, lines):
            await client.ended()
            assert client.socket.complete
            assert not client.socket.aborted
            if client is not lines:
                *whole, last = client.socket.taken.decode().split("\n\n")
                assert last.removeprefix("retry: ").strip().isdigit()
                assert all(frame.count("\n") == 2 for frame in whole[1:])
        assert [place_of(f)[2] for f in behind.socket.frames] == list(
            range(len(behind.socket.frames))
        )
        retries = {client.socket.taken.rsplit(b"\n\n")[-1] for client in live}
        assert len(retries) > 1, "clients must not all reconnect at the same time"
        late, late_lines = Client(gateway, "t"), Client(gateway, "t", accept="application/json")
        for client in (late, late_lines):
            tasks.create_task(client.serve())
            await client.ended()
        assert late.socket.status == 200, "an EventSource stops reconnecting after any other status"
        assert late.socket.taken.startswith(b":ok\n\nretry: ")
        assert late_lines.socket.status == 503
        assert gateway.count("streams_ended_total", reason="drained") == 7
        assert not gateway.hub.ready
    gateway.assert_nobody_is_left()


async def test_a_stream_that_opens_when_draining_begins_is_ended() -> None:
    """Its request was accepted just before, and it is not registered yet."""
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway:
        start = await gateway.start("t")
        await gateway.hub.drain(0.0)
        late = gateway.subscription(start, Socket())
        assert (await late.run()).reason is EndReason.DRAINED
    gateway.assert_nobody_is_left()


async def test_the_first_end_reason_is_kept() -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        [subscription] = gateway.hub.subscriptions
        subscription.end(EndReason.DRAINED)
        subscription.end(EndReason.LOG_ERROR, ValueError("later"))
        await client.ended()
        assert gateway.count("streams_ended_total", reason="drained") == 1
        assert frames_of(client.socket.taken) == []
    gateway.assert_nobody_is_left()


async def test_a_task_that_is_cancelled_from_outside_is_cancelled() -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway:
        for interrupted in (False, True):
            client = Client(gateway, "t")
            task = asyncio.ensure_future(client.serve())
            await joined(gateway, client)
            if interrupted:
                [subscription] = gateway.hub.subscriptions
                subscription.leave_cohort()
            task.cancel()
            await settled()
            assert task.cancelled()
            gateway.assert_nobody_is_left()


@pytest.mark.parametrize("exposed", [True, False])
@pytest.mark.parametrize("what", ["leave", "grow"])
async def test_an_interrupted_send_is_finished(what: str, *, exposed: bool) -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", exposed=exposed, socket=Socket(high_water=50))
        task = tasks.create_task(client.serve())
        await joined(gateway, client)
        for _ in range(3):  # the first fills the socket, the second is in flight
            await log.append(events("t", 0, 1))
            await settled()
        assert gateway.count("slow_total") == 1
        await _do(what, gateway, client, task)
        await settled()
        client.socket.take_all()
        frames = await client.frames(3)
        assert [place_of(frame)[2] for frame in frames] == [0, 1, 2]
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_a_final_error_has_the_id_of_the_written_events() -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", socket=Socket(high_water=50))
        tasks.create_task(client.serve())
        await joined(gateway, client)
        for _ in range(3):
            await log.append(events("t", 0, 1))
            await settled()
        [subscription] = gateway.hub.subscriptions
        subscription.end(EndReason.LOG_ERROR, LogUnavailable("gone"))
        await settled()
        client.socket.take_all()
        await client.ended()
        event, error = client.socket.frames
        assert error.event == "error"
        assert error.id == event.id
    gateway.assert_nobody_is_left()


interruptions = st.lists(
    st.tuples(
        st.sampled_from(["leave", "grow", "append", "take", "burst", "end", "hang_up", "cancel"]),
        st.integers(0, 8),
    ),
    max_size=14,
)


async def _do(what: str, gateway: Gateway, client: Client, task: asyncio.Task[None]) -> None:
    if what in {"append", "burst"}:
        await gateway.log.append(events("t", 0, 1 if what == "append" else 20))
    elif what == "take":
        client.socket.take(150)
    elif what == "hang_up":
        client.socket.hang_up()
    elif what == "cancel":
        task.cancel()
    for mine in [s for s in gateway.hub.subscriptions if s.send == client.socket.send]:
        if what == "leave":
            mine.leave_cohort()
        elif what == "grow":
            mine.grow()
        elif what == "end":
            mine.end(EndReason.DRAINED)


async def _interrupted(
    high_water: int | None, since: str, todo: list[tuple[str, int]], *, exposed: bool
) -> None:
    log = await log_with(20)
    sizes = {"tail_bytes_max": 2_000, "block_bytes": 50, "batch_bytes_max": 300}
    async with serving(log, ["t"], catch_up_slots=1, **sizes) as gateway:
        others = [Client(gateway, "t"), Client(gateway, "t", query="since=0")]
        client = Client(
            gateway, "t", query=since, exposed=exposed, socket=Socket(high_water=high_water)
        )
        socket = client.socket
        async with asyncio.TaskGroup() as tasks:
            for one in others:
                tasks.create_task(one.serve())
            task = tasks.create_task(client.serve())
            await others[1].opened()
            for what, turns in todo:
                await _do(what, gateway, client, task)
                await passed(turns)
            if since and not {"end", "hang_up", "cancel"} & {what for what, _ in todo}:
                socket.take_all()
                end = log.run(Partition("t", 0)).end
                await socket.until(lambda: len(socket.frames) >= end)
            offsets = [place_of(frame)[2] for frame in frames_of(bytes(socket.written))]
            first = offsets[0] if offsets else 0
            assert offsets == list(range(first, first + len(offsets)))
            assert not since or first == 0
            for one in (*others, client):
                one.socket.hang_up()
        gateway.assert_nobody_is_left()


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([None, 1, 400]), st.sampled_from(["", "since=0"]), interruptions, st.booleans()
)
def test_interruptions_never_tear_a_frame(
    high_water: int | None,
    since: str,
    todo: list[tuple[str, int]],
    exposed: bool,
) -> None:
    asyncio.run(_interrupted(high_water, since, todo, exposed=exposed))


@pytest.mark.parametrize("query", ["limit=5", "max_seconds=1000", "until=9999999999999"])
async def test_an_idle_stream_with_a_limit_detects_a_disconnect(
    query: str,
) -> None:
    """It waits outside a cohort, and its heartbeat is due in an hour."""
    log = await log_with(0)
    async with serving(log, ["t"], heartbeat_s=3600.0) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query=query)
        tasks.create_task(client.serve())
        await client.opened()
        await settled()
        client.socket.hang_up()
        await client.ended()
        assert gateway.count("streams_ended_total", reason="disconnected") == 1
        gateway.assert_nobody_is_left()


async def test_a_second_signal_ends_a_drain_immediately() -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway:
        gateway.hub.stop_admitting()
        began_s = gateway.hub._draining_since_s
        while time.monotonic() == began_s:
            await asyncio.sleep(0)
        gateway.hub.stop_admitting()
        assert gateway.hub._draining_since_s == began_s
