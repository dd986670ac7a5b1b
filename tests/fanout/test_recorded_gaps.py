"""A record that marks missing events reaches every reader as a gap, never as an event."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Partition
from eventstreams.model.gap_marker import gap_record
from tests.support.fanout import Client, Socket, events, joined, passed, serving, settled
from tests.support.wire import Frame, place_of

pytestmark = pytest.mark.anyio

CAUSE: dict[str, Any] = {
    "message": "retention",
    "partitions": [{"topic": "far", "partition": 7}],
}
PARTITIONS = [Partition("t", 0), Partition("t", 1)]


async def append(log: MemoryLog, what: list[tuple[int, bool]]) -> None:
    for number, is_gap in what:
        await log.append([gap_record("t", number, CAUSE)] if is_gap else events("t", number, 1))


def seen(frames: list[Frame]) -> dict[int, list[tuple[int, bool]]]:
    """Return the offsets of each partition, and whether each is a gap."""
    found: dict[int, list[tuple[int, bool]]] = {0: [], 1: []}
    for frame in frames:
        if frame.event == "gap":
            [entry] = json.loads(frame.data)["partitions"]
            assert (entry["topic"], entry["cause"], entry["upstream"]) == (
                "t",
                "upstream",
                CAUSE,
            )
            assert entry["resumed"] == entry["requested"] + 1
            found[entry["partition"]].append((entry["requested"], True))
        else:
            assert frame.event == "message"
            _, number, offset = place_of(frame)
            found[number].append((offset, False))
    return found


records = st.lists(st.tuples(st.integers(0, 1), st.booleans()), max_size=14)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    before=records,
    after=records,
    batch=st.sampled_from([1, 300, 10**6]),
    tail=st.sampled_from([1, 10**6]),
    high_water=st.sampled_from([None, 200]),
)
async def test_every_reader_gets_events_and_gaps_in_the_order_of_the_log(
    *,
    before: list[tuple[int, bool]],
    after: list[tuple[int, bool]],
    batch: int,
    tail: int,
    high_water: int | None,
) -> None:
    log = MemoryLog()
    await log.create_topic("t", 2)
    await append(log, before)
    async with (
        serving(log, ["t"], batch_bytes_max=batch, tail_bytes_max=tail) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        clients = [
            Client(
                gateway, "t", query="since=0", socket=Socket(high_water=high_water), exposed=exposed
            )
            for exposed in (True, False, True)
        ]
        for client in clients:
            tasks.create_task(client.serve())
        await settled()
        for each in after:
            await append(log, [each])
            await passed(3)
        everything = [*before, *after]
        expected = {
            number: list(enumerate(gap for where, gap in everything if where == number))
            for number in (0, 1)
        }
        for client in clients:
            client.socket.take_all()
            assert seen(await client.frames(len(everything))) == expected
            last = client.last_id
            client.socket.hang_up()
        if everything:
            assert last is not None
            back = Client(gateway, "t", last_event_id=last)
            tasks.create_task(back.serve())
            await joined(gateway, back)
            assert back.socket.frames == []
            back.socket.hang_up()
    gateway.assert_nobody_is_left()


@pytest.mark.parametrize("filter_", ["", "&filter=event.text%20%3D%3D%20%22none%22"])
async def test_streams_that_cannot_report_a_gap_end_before_it(filter_: str) -> None:
    log = MemoryLog()
    await append(log, [(0, False), (0, False)])
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        lines = Client(gateway, "t", accept="application/json", query=f"since=0{filter_}")
        strict = Client(gateway, "t", query=f"since=0&gap=fail{filter_}")
        lenient = Client(gateway, "t", query=f"since=0{filter_}")
        for client in (lines, strict, lenient):
            tasks.create_task(client.serve())
        await joined(gateway, lines, strict, lenient)
        await append(log, [(0, True), (0, False)])
        await lines.ended()
        await strict.ended()
        assert lines.socket.aborted
        count = 0 if filter_ else 2
        assert lines.socket.taken.count(b'"text"') == count
        *events_, error = strict.socket.frames
        assert len(events_) == count
        assert (error.event, json.loads(error.data)["name"]) == ("error", "GapFound")
        assert error.id is not None
        assert json.loads(error.id)[0]["offset"] == 2
        frames = await lenient.frames(1 if filter_ else 4)
        assert [frame.event for frame in frames].count("gap") == 1
        lenient.socket.hang_up()
    assert gateway.count("gaps_total", cause="upstream") == 3
    gateway.assert_nobody_is_left()


async def test_a_gap_marker_is_never_sent_as_an_event() -> None:
    log = MemoryLog()
    await append(log, [(0, False), (0, True), (0, False)])
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query="since=0&limit=2")
        tasks.create_task(client.serve())
        await client.ended()
        assert [frame.event for frame in client.socket.frames] == ["message", "gap", "message"]
    gateway.assert_nobody_is_left()
