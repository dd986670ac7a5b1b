"""Only clients whose sockets have no room for a batch count as slow."""

from __future__ import annotations

import asyncio

import pytest

from eventstreams.log.memory import MemoryLog
from tests.support.fanout import Client, FailingSocket, Socket, events, joined, serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("exposed", [True, False])
async def test_disconnected_clients_do_not_count_as_slow(*, exposed: bool) -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        gone = [Client(gateway, "t", socket=FailingSocket()) for _ in range(3)]
        slow = [
            Client(gateway, "t", exposed=exposed, socket=Socket(high_water=100)) for _ in range(2)
        ]
        quick = Client(gateway, "t", exposed=exposed)
        for client in (*gone, *slow, quick):
            tasks.create_task(client.serve())
        await joined(gateway, *gone, *slow, quick)
        for n in range(2):  # the first batch fills the sockets of the slow clients
            await log.append(events("t", 0, 1, "x" * 200))
            await quick.frames(n + 1)
        for client in gone:
            await client.ended()
        assert gateway.count("slow_total") == len(slow)
        assert gateway.count("events_out_total") == 2 * (len(slow) + 1)
        for client in (*slow, quick):
            client.socket.hang_up()
    gateway.assert_nobody_is_left()
