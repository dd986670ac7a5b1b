"""What was answered as taken survives the death of the gateway, or of the broker, at any moment.

Real processes, killed under the load of several who post at the same time, each one batch after
the other. Who gets no answer, or is told to try again, posts the same events again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from eventstreams.log.base import Log
from eventstreams.log.sqlite import SqliteLog
from eventstreams.settings import SqliteSettings
from tests.intake.place import SHIPPED, TEST, event
from tests.kafka_node import own_node, require
from tests.log.kafka_tools import opened, read_all, topic_with

pytestmark = pytest.mark.anyio

PATIENCE_S = 40.0
REQUEST_TIMEOUT_S = 2.0
"""Of the gateway, for what it asks of the brokers."""
POST_TIMEOUT_S = 10.0
"""Of the senders; beyond it a request hangs."""
SENDERS = 6
BATCH = 5
PARTITIONS = 2


class Gateway:
    """A process that is killed and started again, at another port each time."""

    def __init__(self, folder: Path, topic: str, log: dict[str, Any]) -> None:
        key = {"key": "test_map.key"}
        stream = {"schema_title": "test/event", "topics": [topic], "message_key_fields": key}
        (folder / "streams.yaml").write_text(yaml.safe_dump({"streams": {TEST: stream}}))
        self._config = folder / "settings.yaml"
        chosen = {"schemas": [str(SHIPPED)], "log": log, "http": {"port": 0}, "only": "intake"}
        self._config.write_text(yaml.safe_dump(chosen))
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.url = ""
        self.up = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Gateway]:
        try:
            await self.start()
            yield self
        finally:
            await self.kill()

    async def start(self) -> None:
        command = (sys.executable, "-m", "eventstreams", "serve", "--config", str(self._config))
        self._process = await asyncio.create_subprocess_exec(*command, stderr=PIPE)
        self._reading = asyncio.create_task(self._read(self._process))
        async with asyncio.timeout(PATIENCE_S):
            await self.up.wait()

    async def kill(self) -> None:
        assert self._process is not None
        assert self._reading is not None
        self.up.clear()
        self._process.kill()
        await self._process.wait()
        await self._reading

    async def _read(self, process: Process) -> None:
        """All that it says, lest it waits for somebody to read it."""
        assert process.stderr is not None
        async for line in process.stderr:
            assert b"Traceback" not in line
            if url := json.loads(line).get("url"):
                self.url = url
                self.up.set()


class Load:
    """Senders, and what they were told so far."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.senders = [Sender(f"s{n}", self) for n in range(SENDERS)]
        self.cut = 0
        """Posts that got no answer."""
        self.failed = 0
        """Events that the gateway said are perhaps not in the log."""
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
        """Until every sender got so many more of them through."""
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
        """What is to be posted again."""
        gateway = self.load.gateway
        await gateway.up.wait()
        # By its key an event that is posted again goes where it went before.
        keys = [f"{self.name}.{number % 2}" for number in batch]
        body = [
            event(f"{self.name}:{number}", test_map={"key": key})
            for number, key in zip(batch, keys, strict=True)
        ]
        if batch[0] % 3 == 0:
            body.append(event(7))  # one that is refused, so that the answer is 207
        try:
            answer = await http.post(f"{gateway.url}/v1/events", json=body)
        except httpx.TimeoutException:
            raise  # it hangs
        except httpx.TransportError:
            assert not gateway.up.is_set()
            self.load.cut += 1
            return batch
        assert answer.status_code in (201, 207, 500)
        told = answer.json() if answer.content else {"invalid": [], "error": []}
        assert [element["index"] for element in told["invalid"]] == [*range(len(batch), len(body))]
        assert all(element["context"]["retryable"] for element in told["error"])
        again = [batch[element["index"]] for element in told["error"]]
        self.load.failed += len(again)
        self.taken += [number for number in batch if number not in again]
        return again


async def check(load: Load, log: Log, topic: str) -> None:
    """What was taken is there, and came in the order in which it was posted."""
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
        for _ in range(4):
            await load.more(batches=10)
            await gateway.kill()
            await gateway.start()
        await load.more(batches=2)
    assert load.cut
    return load


async def test_a_gateway_killed_under_load_has_lost_nothing_of_its_embedded_log(
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
async def test_a_gateway_killed_under_load_has_lost_nothing_that_kafka_was_to_hold(
    tmp_path: Path, kafka: str
) -> None:
    topic = await topic_with(kafka, PARTITIONS)
    gateway = Gateway(tmp_path, topic, of_kafka(kafka))
    async with gateway.running():
        load = await kill_under_load(gateway)
    async with opened(kafka) as log:
        await check(load, log, topic)


@pytest.mark.kafka
async def test_a_broker_that_hangs_and_dies_costs_nothing_that_was_taken_and_no_post_hangs(
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
