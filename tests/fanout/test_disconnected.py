"""No work is done for clients that disconnect while nothing is sent to them."""

from __future__ import annotations

import asyncio

import pytest

from eventstreams.log.base import Slice
from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Partition
from tests.support.fanout import Client, events, serving

pytestmark = pytest.mark.anyio
EVENTS, READ = 2_000, 10


class SlowLog(MemoryLog):
    """A log whose reads return few events."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        self.reads += 1
        await asyncio.sleep(0)
        found = await super().read(partition, offset, max_bytes)
        events = [event for event in found.events if event.offset < offset + READ]
        following = events[-1].offset + 1 if events else found.next
        return found._replace(events=events, next=following)


@pytest.mark.parametrize(
    "query",
    [
        "filter=event.none==1",
        "filter=event.none==1&limit=5",
        "sample=0.0000001",
        "filter=event.none==1&compress=gzip",
    ],
)
async def test_a_scan_of_history_ends_when_its_client_disconnects(query: str) -> None:
    log = SlowLog()
    await log.create_topic("t", 1)
    await log.append(events("t", 0, EVENTS))
    async with serving(log, ["t"], heartbeat_s=60.0) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query=f"since=earliest&{query}")
        tasks.create_task(client.serve())
        await client.opened()
        while log.reads < 5:
            await asyncio.sleep(0)
        client.socket.hang_up()
        await client.ended()
        assert log.reads < EVENTS / READ / 2
    gateway.assert_nobody_is_left()
