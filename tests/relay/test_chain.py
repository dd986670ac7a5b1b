"""A chain of gateways, A <- B <- C, loses and repeats nothing when they are killed under load.

Real processes have embedded logs. Another process constantly appends to the log of A, so events
are always in transit when one of them dies. `EVENTSTREAMS_CHAIN_KILLS=100` makes it long.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventstreams.config.settings import SqliteSettings
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Partition, Record
from tests.relay.scripted import numbers
from tests.support.ports import free_port
from tests.support.process import RestartedGateway
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("EVENTSTREAMS_CHAIN_KILLS", "6"))
PATIENCE_S = 120.0
TOPICS = ("eqiad.edits", "codfw.edits")
BATCH = 5
PAUSE_S = 0.02


class Gateway(RestartedGateway):
    """A gateway that listens at the same port after each restart."""

    def __init__(self, folder: Path, upstream: Gateway | None) -> None:
        folder.mkdir()
        self.port = free_port()
        self.data = folder / "data"
        stream = {"topics": list(TOPICS)}
        (folder / "streams.yaml").write_text(yaml.safe_dump({"streams": {"edits": stream}}))
        settings: dict[str, Any] = {
            "http": {"port": self.port},
            "log": {"data_dir": str(self.data)},
            "only": "gateway",
        }
        if upstream is not None:
            url = f"http://127.0.0.1:{upstream.port}"
            relay = {"url": url, "streams": ["edits"], "since": "earliest", "stall_timeout_s": 40}
            settings["relays"] = {"chain": relay}
        config = folder / "settings.yaml"
        config.write_text(yaml.safe_dump(settings))
        super().__init__(config, patience_s=PATIENCE_S)


@asynccontextmanager
async def opened(gateway: Gateway) -> AsyncIterator[SqliteLog]:
    settings = SqliteSettings(sync="normal", retention_age_s=None, retention_bytes=None)
    log = SqliteLog(directory=gateway.data, settings=settings)
    await log.start()
    try:
        yield log
    finally:
        await log.aclose()


async def count(log: SqliteLog) -> int:
    bounds = await log.bounds([Partition(topic, 0) for topic in TOPICS])
    return sum(each.end for each in bounds.values())


class Load:
    """Append numbered events to both topics of the first log until stopped."""

    def __init__(self, log: SqliteLog) -> None:
        self._log = log
        self.over = False
        self.appended = dict.fromkeys(TOPICS, 0)

    async def run(self) -> None:
        while not self.over:
            for topic in TOPICS:
                first = self.appended[topic]
                await self._log.append(
                    [
                        Record(topic, b'{"n":%d}' % n, partition=0)
                        for n in range(first, first + BATCH)
                    ]
                )
                self.appended[topic] = first + BATCH
            await asyncio.sleep(PAUSE_S)

    @property
    def total(self) -> int:
        return sum(self.appended.values())


async def until_count(log: SqliteLog, enough: int) -> None:
    async def is_reached() -> bool:
        return await count(log) >= enough

    await until(is_reached, every_s=0.05, patience_s=PATIENCE_S)


async def test_a_chain_of_relays_survives_kills_without_loss_or_duplicates(tmp_path: Path) -> None:
    a = Gateway(tmp_path / "a", None)
    b = Gateway(tmp_path / "b", a)
    c = Gateway(tmp_path / "c", b)
    chain = [a, b, c]
    rng = random.Random(KILLS)
    try:
        for gateway in chain:
            await gateway.start()
        async with opened(a) as first, opened(b) as second, opened(c) as last:
            load = Load(first)
            loading = asyncio.create_task(load.run())
            for kill in range(KILLS):
                # Events from after the previous kill have reached the end of the chain.
                await until_count(last, load.total - rng.randrange(2 * BATCH))
                await asyncio.sleep(rng.random() * 0.1)  # at any moment of a batch
                victim = chain[kill % 3]
                await victim.kill()
                await victim.start()
            load.over = True
            await loading
            await until_count(last, load.total)
            for topic in TOPICS:
                expected = list(range(load.appended[topic]))
                assert await numbers(first, topic) == expected
                assert await numbers(second, topic) == expected
                assert await numbers(last, topic) == expected
    finally:
        for gateway in chain:
            await gateway.kill()
