"""Who counts as slow: a client that has no room for a chunk, and nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventstreams.log.memory import MemoryLog
from tests.fanout.gateway import Client, Socket, events, joined, serving

pytestmark = pytest.mark.anyio


class Gone(Socket):
    """Its peer goes before the first event is written; a server may raise then."""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body" and b"message" in message["body"]:
            self.hang_up()
            raise OSError("connection reset")
        await super().send(message)

    def write_framed(self, data: bytes) -> bool:
        return False


@pytest.mark.parametrize("lent", [True, False])
async def test_only_clients_without_room_count_as_slow_not_those_that_are_gone(
    *, lent: bool
) -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        gone = [Client(gateway, "t", socket=Gone()) for _ in range(3)]
        slow = [Client(gateway, "t", lent=lent, socket=Socket(high_water=100)) for _ in range(2)]
        quick = Client(gateway, "t", lent=lent)
        for client in (*gone, *slow, quick):
            tasks.create_task(client.serve())
        await joined(gateway, *gone, *slow, quick)
        for n in range(2):  # the first fills the sockets of the slow ones
            await log.append(events("t", 0, 1, "x" * 200))
            await quick.frames(n + 1)
        for client in gone:
            await client.ended()
        assert gateway.count("slow_total") == len(slow)
        assert gateway.count("events_out_total") == 2 * (len(slow) + 1)
        for client in (*slow, quick):
            client.socket.hang_up()
    gateway.assert_nobody_is_left()
