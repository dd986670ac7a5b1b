"""Streams end whole, for one reason, and leave nothing behind, whatever they were doing."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.errors import LogUnavailable
from eventstreams.fanout.compression import Encoding, begin
from eventstreams.fanout.ending import Reason
from eventstreams.fanout.subscription import Subscription
from eventstreams.fanout.want import Format, everything
from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Partition
from tests.fanout.gateway import Client, Gateway, Socket, events, joined, serving, settled
from tests.wire import frames_of, place_of

pytestmark = pytest.mark.anyio


async def log_with(count: int) -> MemoryLog:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, count))
    return log


@pytest.mark.parametrize("format_", ["text/event-stream", "application/json"])
async def test_a_quiet_stream_has_heartbeats_that_are_no_events(format_: str) -> None:
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


async def test_one_that_waits_alone_has_heartbeats_too() -> None:
    log = await log_with(5)
    async with serving(log, ["t"], heartbeat_s=0.005) as gateway, asyncio.TaskGroup() as tasks:
        follower = gateway.hub.feed._follower
        assert follower is not None
        follower.drop(gateway.hub.tails.partitions("t"))
        await log.append(events("t", 0, 3))
        ahead = '[{"topic":"t","partition":0,"offset":8,"timestamp":1002}]'
        client = Client(gateway, "t", last_event_id=ahead)
        tasks.create_task(client.serve())
        await client.socket.until(lambda: client.socket.taken.endswith(b":\n:\n:\n"))
        client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_draining_ends_every_stream_whole_and_refuses_new_ones() -> None:
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
        assert len(retries) > 1, "they do not all come back at once"
        late, late_lines = Client(gateway, "t"), Client(gateway, "t", accept="application/json")
        for client in (late, late_lines):
            tasks.create_task(client.serve())
            await client.ended()
        assert late.socket.status == 200, "an EventSource gives up on any other status"
        assert late.socket.taken.startswith(b":ok\n\nretry: ")
        assert late_lines.socket.status == 503
        assert gateway.count("streams_ended_total", reason="drained") == 7
        assert not gateway.hub.ready
    gateway.assert_nobody_is_left()


async def test_one_that_comes_in_while_draining_begins_is_ended_too() -> None:
    """It was let in just before, and is not yet among those that are told."""
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway:
        selection = gateway.streams._declarations.catalogue.resolve(["t"])
        start = await gateway.starter.start(
            selection, everything(Format.SSE), marks=None, since_ms=None
        )
        await gateway.hub.drain(0.0)
        socket = Socket()
        late = Subscription(
            hub=gateway.hub,
            want=start.want,
            position=start.position,
            response=begin(Encoding.IDENTITY, b":ok\n\n")[0],
            receive=socket.receive,
            send=socket.send,
            connection=socket,
            client="192.0.2.1",
        )
        assert (await late.run()).reason is Reason.DRAINED
    gateway.assert_nobody_is_left()


async def test_the_first_reason_stands() -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        [subscription] = gateway.hub.subscriptions
        subscription.end(Reason.DRAINED)
        subscription.end(Reason.LOG_ERROR, ValueError("later"))
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


@pytest.mark.parametrize("lent", [True, False])
@pytest.mark.parametrize("what", ["leave", "grow"])
async def test_a_send_that_is_given_up_in_flight_is_made_again(what: str, *, lent: bool) -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", lent=lent, socket=Socket(high_water=50))
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


async def test_an_error_carries_the_id_of_what_was_written_not_of_what_was_in_flight() -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", socket=Socket(high_water=50))
        tasks.create_task(client.serve())
        await joined(gateway, client)
        for _ in range(3):
            await log.append(events("t", 0, 1))
            await settled()
        [subscription] = gateway.hub.subscriptions
        subscription.end(Reason.LOG_ERROR, LogUnavailable("gone"))
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
            mine.end(Reason.DRAINED)


async def _interrupted(
    high_water: int | None, since: str, todo: list[tuple[str, int]], *, lent: bool
) -> None:
    log = await log_with(20)
    sizes = {"tail_bytes_max": 2_000, "block_bytes": 50, "batch_bytes_max": 300}
    async with serving(log, ["t"], catch_up_slots=1, **sizes) as gateway:
        others = [Client(gateway, "t"), Client(gateway, "t", query="since=0")]
        client = Client(gateway, "t", query=since, lent=lent, socket=Socket(high_water=high_water))
        socket = client.socket
        async with asyncio.TaskGroup() as tasks:
            for one in others:
                tasks.create_task(one.serve())
            task = tasks.create_task(client.serve())
            await others[1].opened()
            for what, turns in todo:
                await _do(what, gateway, client, task)
                await settled(turns)
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
def test_interrupted_at_any_moment_a_stream_stays_whole_or_ends_without_a_trace(
    high_water: int | None,
    since: str,
    todo: list[tuple[str, int]],
    lent: bool,
) -> None:
    asyncio.run(_interrupted(high_water, since, todo, lent=lent))


@pytest.mark.parametrize("query", ["limit=5", "max_seconds=1000", "until=9999999999999"])
async def test_a_bounded_stream_with_nothing_to_send_notices_that_its_client_has_gone(
    query: str,
) -> None:
    """It never joins a cohort, but waits by itself; its heartbeat is an hour away."""
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
