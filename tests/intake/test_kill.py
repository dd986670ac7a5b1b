"""Accepted events survive the death of the gateway or broker at any moment.

Real processes are killed while several senders post batches. A sender that gets no response, or a
retryable error, posts the same events again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from eventstreams.config.settings import SqliteSettings
from eventstreams.log.base import Log
from eventstreams.log.sqlite.log import SqliteLog
from tests.support.intake import SHIPPED, TEST, event
from tests.support.kafka_node import own_node, require
from tests.support.kafka_tools import opened, read_all, topic_with
from tests.support.process import RestartedGateway

pytestmark = pytest.mark.anyio

PATIENCE_S = 240.0
REQUEST_TIMEOUT_S = 2.0
"""The gateway's timeout for requests to brokers."""
POST_TIMEOUT_S = 60.0
"""The senders' limit, beyond which a request counts as hanging."""
SENDERS = 6
BATCH = 5
PARTITIONS = 2


class Gateway(RestartedGateway):
    """A gateway that listens at another port after each restart."""

    def __init__(self, folder: Path, topic: str, log: dict[str, Any]) -> None:
        key = {"key": "test_map.key"}
        stream = {"schema_title": "test/event", "topics": [topic], "message_key_fields": key}
        (folder / "streams.yaml").write_text(yaml.safe_dump({"streams": {TEST: stream}}))
        config = folder / "settings.yaml"
        chosen = {"schemas": [str(SHIPPED)], "log": log, "http": {"port": 0}, "only": "intake"}
        config.write_text(yaml.safe_dump(chosen))
        super().__init__(config, patience_s=PATIENCE_S)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Gateway]:
        try:
            await self.start()
            yield self
        finally:
            await self.kill()


class Load:
    """Senders, with the responses that they got so far."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.senders = [Sender(f"s{n}", self) for n in range(SENDERS)]
        self.cut = 0
        """Posts without a response."""
        self.failed = 0
        """Events that may not be in the log according to the gateway."""
        self.over = False
        self._news = asyncio.Condition()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            for sender in self.senders:
                tasks.create_task(sender.run())
            yield self
            self.over = True

    async def until(self, met: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(met)

    async def more(self, batches: int) -> None:
        """Wait until every sender has had this many more events accepted."""
        wanted = {sender: len(sender.taken) + batches * BATCH for sender in self.senders}
        await self.until(lambda: all(len(s.taken) >= count for s, count in wanted.items()))

    async def tell(self) -> None:
        async with self._news:
            self._news.notify_all()


class Sender:
    def __init__(self, name: str, load: Load) -> None:
        self.name = name
        self.load = load
        self.posted = 0
        self.taken: list[int] = []

    async def run(self) -> None:
        async with httpx.AsyncClient(timeout=POST_TIMEOUT_S) as http:
            while not self.load.over:
                batch = list(range(self.posted, self.posted + BATCH))
                self.posted += BATCH
                while batch:
                    batch = await self._post(http, batch)
                    await self.load.tell()

    async def _post(self, http: httpx.AsyncClient, batch: list[int]) -> list[int]:
        """Return the events to post again."""
        gateway = self.load.gateway
        await gateway.up.wait()
        # With a key, an event that is posted again goes to the same partition.
        keys = [f"{self.name}.{number % 2}" for number in batch]
        body = [
            event(f"{self.name}:{number}", test_map={"key": key})
            for number, key in zip(batch, keys, strict=True)
        ]
        if batch[0] % 3 == 0:
            body.append(event(7))  # invalid, so that the response is 207
        try:
            answer = await http.post(f"{gateway.url}/v1/events", json=body)
        except httpx.TimeoutException:
            raise  # the request hangs
        except httpx.TransportError:
            assert not gateway.up.is_set()
            self.load.cut += 1
            return batch
        assert answer.status_code in (201, 207, 500)
        reported = answer.json() if answer.content else {"invalid": [], "error": []}
        assert [element["index"] for element in reported["invalid"]] == [
            *range(len(batch), len(body))
        ]
        assert all(element["context"]["retryable"] for element in reported["error"])
        again = [batch[element["index"]] for element in reported["error"]]
        self.load.failed += len(again)
        self.taken += [number for number in batch if number not in again]
        return again


async def check(load: Load, log: Log, topic: str) -> None:
    """Check that accepted events are in the log, in the order of posting."""
    kept: set[tuple[str, int]] = set()
    for partition in (await log.partitions([topic]))[topic]:
        texts = [
            json.loads(record.value or b"")["test"] for record in await read_all(log, partition)
        ]
        found = dict.fromkeys((name, int(n)) for name, _, n in (t.partition(":") for t in texts))
        for sender in load.senders:
            numbers = [number for name, number in found if name == sender.name]
            assert numbers == sorted(numbers)
        kept |= found.keys()
    for sender in load.senders:
        assert {(sender.name, number) for number in sender.taken} <= kept
        assert len(sender.taken) == len(set(sender.taken))
    assert kept <= {(sender.name, n) for sender in load.senders for n in range(sender.posted)}


async def kill_under_load(gateway: Gateway) -> Load:
    load = Load(gateway)
    async with load.running():
        for _ in range(3):
            await load.more(batches=10)
            await gateway.kill()
            await gateway.start()
        await load.more(batches=2)
    assert load.cut
    return load


async def test_kill_9_under_load_loses_nothing_of_an_embedded_log(
    tmp_path: Path,
) -> None:
    sqlite = {"partitions_per_topic": PARTITIONS}
    gateway = Gateway(tmp_path, TEST, {"data_dir": str(tmp_path), "sqlite": sqlite})
    async with gateway.running():
        load = await kill_under_load(gateway)
    log = SqliteLog(directory=tmp_path, settings=SqliteSettings())
    await log.start()
    try:
        await check(load, log, TEST)
    finally:
        await log.aclose()


def of_kafka(bootstrap: str) -> dict[str, Any]:
    kafka = {"bootstrap_servers": [bootstrap], "request_timeout_s": REQUEST_TIMEOUT_S}
    return {"backend": "kafka", "kafka": kafka}


@pytest.mark.kafka
async def test_kill_9_under_load_loses_nothing_on_kafka(tmp_path: Path, kafka: str) -> None:
    topic = await topic_with(kafka, PARTITIONS)
    gateway = Gateway(tmp_path, topic, of_kafka(kafka))
    async with gateway.running():
        load = await kill_under_load(gateway)
    async with opened(kafka) as log:
        await check(load, log, topic)


@pytest.mark.kafka
async def test_a_hanging_broker_loses_nothing_and_blocks_no_post(
    tmp_path: Path,
) -> None:
    with own_node() as node:
        bootstrap = await asyncio.to_thread(require, node)
        topic = await topic_with(bootstrap, PARTITIONS)
        gateway = Gateway(tmp_path, topic, of_kafka(bootstrap))
        async with gateway.running():
            load = Load(gateway)
            async with load.running():
                with node.hanging():
                    await load.until(lambda: load.failed >= SENDERS * BATCH)
                await load.more(batches=4)
                failed = load.failed
                await asyncio.to_thread(node.kill)
                await load.until(lambda: load.failed >= failed + SENDERS * BATCH)
                await asyncio.to_thread(node.start)
                await load.more(batches=4)
        async with opened(bootstrap) as log:
            await check(load, log, topic)
