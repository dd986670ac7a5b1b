"""A topic is deleted and recreated, and soon has more records than before.

The offsets are the same, but the records differ. Readers of the old topic get a gap.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from eventstreams.model.event import Partition, Record
from eventstreams.tasks import background
from tests.faults.clients import Client, until
from tests.support.client import connected
from tests.support.gateway import SSE
from tests.support.kafka_tools import admin, eventually, opened, topic_with
from tests.support.process import Gateway, over_kafka, serving_over, streaming
from tests.support.waiting import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

OLD, NEW = 6, 20
CLIENTS = 100


@contextmanager
def looking_away(gateway: Gateway) -> Generator[None]:
    """Pause the gateway, so that it misses what happens, as on an overloaded host."""
    os.kill(gateway.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(gateway.process.pid, signal.SIGCONT)


async def fill(kafka: str, topic: str, name: str, count: int, at_ms: int) -> None:
    async with opened(kafka) as log:
        records = (b'{"log":"%s","n":%d}' % (name.encode(), n) for n in range(count))
        await log.append([Record(topic, v, None, at_ms + n, 0) for n, v in enumerate(records)])


async def recreate(kafka: str, topic: str) -> None:
    async with admin(kafka) as client:
        await client.delete_topics([topic])

        async def made() -> bool:
            answer = await client.create_topics([NewTopic(topic, 1, 1)])
            return answer.topic_errors[0][1] == 0

        await eventually(made)
    async with opened(kafka) as log:

        async def there() -> bool:
            return await log.partitions([topic]) == {topic: (Partition(topic, 0),)}

        await eventually(there)
    await fill(kafka, topic, "new", NEW, at_ms=5_000_000)


@pytest.mark.parametrize("unseen", [True, False], ids=["unseen", "seen"])
async def test_a_recreated_topic_with_a_higher_end_is_a_gap(
    kafka: str, tmp_path: Path, *, unseen: bool
) -> None:
    topic = await topic_with(kafka)
    await fill(kafka, topic, "old", OLD, at_ms=1_000_000)
    start = f'[{{"topic":"{topic}","partition":0,"offset":0}}]'
    async with serving_over(tmp_path, over_kafka(kafka), {"s": [topic]}) as gateway:
        async with streaming(gateway.port, last_event_id=start) as reader:
            old = await reader.frames(OLD)
            assert {frame.document["log"] for frame in old} == {"old"}
            if unseen:
                with looking_away(gateway):
                    await recreate(kafka, topic)
            else:
                await recreate(kafka, topic)
            error = await reader.frame()
            assert (error.event, error.id) == ("error", old[-1].id), "nothing is skipped silently"
            assert error.document["name"] == "UnknownTopic"
        async with asyncio.timeout(PATIENCE_S):
            while True:  # until it has found the new topic
                async with connected(gateway.port) as client:
                    await client.send("GET", "/v2/stream/s", {**SSE, "Last-Event-ID": error.id})
                    if (await client.head()).status == 200:
                        break
                await asyncio.sleep(0.05)
        async with streaming(gateway.port, last_event_id=error.id) as back:
            gap, *new = await back.frames(1 + NEW)
    assert gap.event == "gap"
    [reported] = gap.document["partitions"]
    assert (reported["requested"], reported["resumed"], reported["cause"]) == (OLD, 0, "other_log")
    assert [(f.document["log"], f.document["n"]) for f in new] == [("new", n) for n in range(NEW)]


class Returning(Client):
    """Reconnects with its last id until it gets a gap for the new topic."""

    def __init__(self, port: int, topic: str, **options: int) -> None:
        super().__init__(port, topic, 1, **options)
        self.old: list[int] = []
        self.reported: list[str] = []

    def _take(self, frame: str) -> None:
        if frame.startswith("event: gap"):
            self.reported += re.findall(r'"cause":"(\w+)"', frame)
            self.old = [*self.got.pop(0, {}).values()]
            self._last_id = frame.rpartition("id: ")[2]
        elif '"UnknownTopic"' not in frame:
            super()._take(frame)


async def test_a_recreated_topic_loses_and_repeats_nothing(kafka: str, tmp_path: Path) -> None:
    """Some clients disconnect in the old or new topic."""
    topic = await topic_with(kafka)
    await fill(kafka, topic, "old", OLD, at_ms=1_000_000)
    async with serving_over(tmp_path, over_kafka(kafka), {"s": [topic]}) as gateway:
        crowd = [
            Returning(gateway.port, topic, hangs_up_every=0 if n % 4 else 2 + n % 5)
            for n in range(CLIENTS)
        ]
        async with background(*(client.run() for client in crowd)):
            await until(crowd, lambda client: client.count >= OLD, "all of the old")
            await recreate(kafka, topic)
            await until(crowd, lambda client: client.count >= OLD + NEW, "all of the new")
    for client in crowd:
        assert client.wrong == []
        assert client.reported == ["other_log"]
        assert client.old == [*range(OLD)]
        assert client.got == {0: {n: n for n in range(NEW)}}
