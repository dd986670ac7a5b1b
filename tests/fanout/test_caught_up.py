"""`caught_up=event`: each connection gets one frame between history and live events."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Partition
from tests.support.fanout import Client, Gateway, Socket, events, passed, serving
from tests.support.waiting import PATIENCE_S
from tests.support.wire import Frame, place_of

pytestmark = pytest.mark.anyio

PARTITIONS = [Partition("t", 0), Partition("t", 1), Partition("u", 0)]
NOTHING = "event.text%20%3D%3D%20%22none%22"
COSTLY = "event.text.matches('^(a%7Cb%7Cc%7Cd)*$')%20%7C%7C%20event.text.contains('x')"


async def log_with(counts: list[int]) -> MemoryLog:
    log = MemoryLog()
    await log.create_topic("t", 2)
    await log.create_topic("u", 1)
    for partition, count in zip(PARTITIONS, counts, strict=True):
        await log.append(events(partition.topic, partition.number, count, "x"))
    return log


def position_of(frame: Frame) -> dict[Partition, int]:
    assert frame.id is not None
    return {Partition(e["topic"], e["partition"]): e["offset"] for e in json.loads(frame.id)}


def id_at(starts: dict[Partition, int]) -> str:
    return json.dumps(
        [
            {"topic": p.topic, "partition": p.number, "offset": offset, "timestamp": 0}
            for p, offset in starts.items()
        ]
    )


def place(frame: Frame) -> tuple[Partition, int]:
    topic, number, offset = place_of(frame)
    return Partition(topic, number), offset


def check(
    gateway: Gateway, frames: list[Frame], starts: dict[Partition, int], ends: dict[Partition, int]
) -> None:
    """Check the frames. `ends` are those of the log when the client connected."""
    [at] = [i for i, frame in enumerate(frames) if frame.event == "caught-up"]
    reported = position_of(frames[at])
    assert all(reported[p] >= max(ends[p], starts[p]) for p in PARTITIONS), (reported, ends)
    before = [place(frame) for frame in frames[:at]]
    after = [place(frame) for frame in frames[at + 1 :]]
    for p in PARTITIONS:
        now = gateway.hub.tails.end(p)
        assert [o for q, o in before if q == p] == list(range(starts[p], reported[p]))
        assert [o for q, o in after if q == p] == list(range(reported[p], now))


sizes = st.fixed_dictionaries(
    {
        "batch_bytes_max": st.sampled_from([1, 500, 10**6]),
        "tail_bytes_max": st.sampled_from([1, 10**6]),
    }
)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    counts=st.lists(st.integers(0, 12), min_size=3, max_size=3),
    percent=st.integers(0, 100),
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 6)), max_size=8),
    high_water=st.sampled_from([None, 1, 600]),
    compress=st.sampled_from(["none", "gzip"]),
    sizes=sizes,
)
async def test_the_caught_up_frame_is_between_history_and_live_events(
    *,
    counts: list[int],
    percent: int,
    steps: list[tuple[int, int, int]],
    high_water: int | None,
    compress: str,
    sizes: dict[str, int],
) -> None:
    log = await log_with(counts)
    ends = dict(zip(PARTITIONS, counts, strict=True))
    starts = {p: end * percent // 100 for p, end in ends.items()}
    async with (
        serving(log, ["t", "u"], **sizes) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        clients = [
            Client(
                gateway,
                socket=Socket(high_water=high_water),
                last_event_id=id_at(starts),
                query=f"caught_up=event&compress={compress}",
                exposed=exposed,
            )
            for exposed in (True, False)
        ]
        for client in clients:
            tasks.create_task(client.serve())
        for which, count, turns in steps:
            partition = PARTITIONS[which]
            await log.append(events(partition.topic, partition.number, count, "x"))
            for client in clients:
                client.socket.take(400)
            await passed(turns)
        bounds = await log.bounds(PARTITIONS)
        total = sum(bounds[p].end - starts[p] for p in PARTITIONS)
        for client in clients:
            client.socket.take_all()
            check(gateway, await client.frames(total + 1), starts, ends)
        await log.append(events("t", 1, 1, "x"))
        for client in clients:
            check(gateway, await client.frames(total + 2), starts, ends)
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


@pytest.mark.parametrize("filter_", [NOTHING, COSTLY])
@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
async def test_a_filter_changes_only_events_before_the_caught_up_frame(
    filter_: str, compress: str
) -> None:
    log = await log_with([40, 3, 0])
    async with (
        serving(log, ["t", "u"], batch_bytes_max=200) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        query = f"since=0&caught_up=event&compress={compress}&filter={filter_}"
        clients = [Client(gateway, query=query) for _ in range(2)]
        for client in clients:
            tasks.create_task(client.serve())
        async with asyncio.timeout(PATIENCE_S):
            while any(s._reports_caught_up for s in gateway.hub.subscriptions) or not (
                gateway.hub.subscriptions
            ):
                await asyncio.sleep(0)
        if compress != "zstd":
            count = 0 if filter_ == NOTHING else 43
            for client in clients:
                frames = await client.frames(count + 1)
                assert [frame.event for frame in frames] == ["message"] * count + ["caught-up"]
                assert position_of(frames[-1]) == dict(zip(PARTITIONS, [40, 3, 0], strict=True))
        for client in clients:
            client.socket.hang_up()
    gateway.assert_nobody_is_left()


async def test_the_caught_up_frame_does_not_split_a_cohort() -> None:
    log = await log_with([5, 0, 0])
    async with serving(log, ["t", "u"]) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, query=query) for query in ("caught_up=event", "since=0", "")]
        for client in clients:
            tasks.create_task(client.serve())
        async with asyncio.timeout(PATIENCE_S):
            while sum(s.cohort is not None for s in gateway.hub.subscriptions) < len(clients):
                await asyncio.sleep(0)
        assert len(gateway.hub._cohorts) == 1
        asked, replayed, live = (client.socket.frames for client in clients)
        assert [frame.event for frame in asked] == ["caught-up"]
        assert [frame.event for frame in replayed] == ["message"] * 5
        assert live == []
        for client in clients:
            client.socket.hang_up()
    gateway.assert_nobody_is_left()
