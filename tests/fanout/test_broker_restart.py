"""Clients disconnect and reconnect while a broker crashes and restarts."""

from __future__ import annotations

import asyncio
import json

import pytest

from eventstreams.errors import LogUnavailable
from eventstreams.log.base import Log
from eventstreams.model.event import Partition, Record
from tests.fanout.reader import History, Reader
from tests.support.fanout import Client, Gateway, Socket, serving
from tests.support.kafka_node import KafkaNode, new_topic, own_node, require
from tests.support.kafka_tools import opened, read_all
from tests.support.waiting import PATIENCE_S
from tests.support.wire import Frame

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

BATCHES = 24
PARTITIONS = 2


class Visitor:
    def __init__(self, gateway: Gateway, topic: str, high_water: int | None) -> None:
        self.gateway = gateway
        self.topic = topic
        self.high_water = high_water
        self.frames: list[Frame] = []
        self.last_id = json.dumps(
            [
                {"topic": topic, "partition": n, "offset": 0, "timestamp": 0}
                for n in range(PARTITIONS)
            ]
        )
        self.client: Client | None = None

    def come(self, tasks: asyncio.TaskGroup) -> Client:
        """Reconnect with the last id that was read completely."""
        if self.client is not None:
            self.client.socket.hang_up()
            self.frames += self.client.socket.frames
            self.last_id = self.client.last_id or self.last_id
        socket = Socket(high_water=self.high_water)
        self.client = Client(self.gateway, self.topic, socket=socket, last_event_id=self.last_id)
        tasks.create_task(self.client.serve())
        return self.client

    async def finish(self, tasks: asyncio.TaskGroup, count: int) -> None:
        client = self.client
        assert client is not None
        while True:
            socket = client.socket
            socket.take_all()
            await client.socket.until(
                lambda c=client: c.done.is_set() or len(self.frames) + len(c.socket.frames) >= count
            )
            if len(self.frames) + len(socket.frames) >= count:
                break
            client = self.come(tasks)  # it was refused while no broker responded
        socket.hang_up()
        self.frames += socket.frames


async def append(log: Log, records: list[Record]) -> None:
    """Append until it is acknowledged. Unacknowledged records may be stored as well."""
    async with asyncio.timeout(PATIENCE_S * 2):
        while True:
            try:
                await log.append(records)
                return
            except LogUnavailable:
                continue


def restart(node: KafkaNode) -> None:
    node.kill()
    node.start()


async def history_of(log: Log, topic: str) -> History:
    """Return all records of the log, including unacknowledged ones."""
    history = History()
    for number in range(PARTITIONS):
        for event in await read_all(log, Partition(topic, number)):
            text = json.loads(event.value or b"")["text"]
            history.add(event.partition, event.offset, event.timestamp_ms, text)
    return history


async def test_reconnecting_while_a_broker_restarts_loses_and_repeats_nothing() -> None:
    with own_node() as node:
        bootstrap = await asyncio.to_thread(require, node)
        topic = new_topic()
        async with opened(bootstrap, request_timeout_s=2.0) as log:
            await log.create_topic(topic, PARTITIONS)
            async with serving(log, [topic], log_patience_s=60.0) as gateway:
                async with asyncio.TaskGroup() as tasks:
                    visitors = [Visitor(gateway, topic, size) for size in (None, 1, 700)]
                    for visitor in visitors:
                        visitor.come(tasks)
                    for batch in range(BATCHES):
                        if batch == BATCHES // 3:
                            tasks.create_task(asyncio.to_thread(restart, node))
                        text = json.dumps({"text": f"{batch}"}).encode()
                        number = batch % PARTITIONS
                        await append(log, [Record(topic, text, partition=number)] * 5)
                        for n, visitor in enumerate(visitors):
                            assert visitor.client is not None
                            visitor.client.socket.take(97 * (n + 1))
                            if (batch + n) % 4 == 0:
                                visitor.come(tasks)
                    history = await history_of(log, topic)
                    count = sum(len(texts) for texts in history.texts.values())
                    assert count >= BATCHES * 5
                    for visitor in visitors:
                        await visitor.finish(tasks, count)
                gateway.assert_nobody_is_left()
            for visitor in visitors:
                reader = Reader(history, dict.fromkeys(history.texts, 0), {topic})
                reader.take(visitor.frames)
                assert reader.got == count
                assert not reader.gaps
