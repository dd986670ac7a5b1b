"""Filters that are evaluated for every event delay nobody but each other."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from eventstreams.fanout.hub import Hub
from eventstreams.fanout.timing import Timing
from eventstreams.filters.selector import Selector
from eventstreams.log.memory import MemoryLog
from tests.support.fanout import Client, Socket, events, joined, serving

pytestmark = pytest.mark.anyio

EACH_ALONE = Timing(scan_s=-1.0)
"""Each evaluation is a piece of work of its own."""


def examined(number: int) -> str:
    """Return a query whose filter no index describes; each number has another filter."""
    return f"filter=offset%20>=%20-{number}"


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[Selector]:
    """Return all evaluations, which tests count."""
    found: list[Selector] = []
    select = Selector.select

    def counted(selector: Selector, *arguments: Any) -> bytes | None:
        found.append(selector)
        return select(selector, *arguments)

    monkeypatch.setattr(Selector, "select", counted)
    return found


async def test_clients_without_a_filter_wait_for_few_evaluations(
    evaluations: list[Selector], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    arrived_at: list[int] = []
    written_at: list[int] = []

    class Watched(Socket):
        def _write(self, body: bytes) -> None:
            super()._write(body)
            written_at.append(len(evaluations))

    on_events = Hub.on_events

    def arrived(hub: Hub, *arguments: Any) -> None:
        arrived_at.append(len(evaluations))
        on_events(hub, *arguments)

    monkeypatch.setattr(Hub, "on_events", arrived)
    filters = 50
    async with serving(log, ["t"], timing=EACH_ALONE) as gateway, asyncio.TaskGroup() as tasks:
        plain = Client(gateway, "t", socket=Watched())
        clients = [plain, *(Client(gateway, "t", query=examined(n)) for n in range(filters))]
        for client in clients:
            tasks.create_task(client.serve())
        await joined(gateway, *clients)
        arrived_at.clear()
        written_at.clear()
        for n in range(5):  # each arrives while filters are evaluated for the one before
            await log.append(events("t", 0, 1))
            await plain.frames(n + 1)
            while len(evaluations) <= n * filters + n:
                await asyncio.sleep(0)
        for client in clients:
            await client.frames(5)
            client.socket.hang_up()
    assert len(written_at) == len(arrived_at) == 5
    waits = [written - came for came, written in zip(arrived_at, written_at, strict=True)]
    assert max(waits) <= 3
    assert len(evaluations) == 5 * filters


async def test_streams_whose_filters_cost_too_much_end_a_few_at_a_time(
    evaluations: list[Selector],
) -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"], timing=EACH_ALONE) as gateway, asyncio.TaskGroup() as tasks:
        own = [Client(gateway, "t", query=examined(n)) for n in range(30)]
        same = [Client(gateway, "t", query=examined(1_000)) for _ in range(30)]
        clients = [*own, *same]
        for client in clients:
            tasks.create_task(client.serve())
        await joined(gateway, *clients)
        await log.append(events("t", 0, 1))
        for client in clients:
            await client.frames(1)
        ending = tasks.create_task(gateway.hub._examining._end_costliest(0.0, 60.0))
        ended = [0]
        while ended[-1] < len(clients):
            await asyncio.sleep(0)
            ended.append(gateway.hub.ended)
        await ending
        steps = [after - before for before, after in itertools.pairwise(ended)]
        assert max(steps) <= EACH_ALONE.ends_at_once
        for client in clients:
            await client.ended()
            assert b"FilterTooCostly" in client.socket.taken
        assert len(evaluations) == 31
    gateway.assert_nobody_is_left()
