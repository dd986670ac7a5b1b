"""The gauges of lag and depth of each partition."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from eventstreams.errors import LogUnavailable
from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Bounds, Partition, Record
from tests.support.fanout import Gateway, serving
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


class Ahead(MemoryLog):
    """A log whose ends are beyond its records, and which does not return the ends of some."""

    ahead = 0
    silent = frozenset[Partition]()

    async def bounds(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        if lost := self.silent.intersection(partitions):
            raise LogUnavailable("no leader", lost)
        found = await super().bounds(partitions)
        return {p: Bounds(b.oldest, b.end + self.ahead) for p, b in found.items()}


async def until(gateway: Gateway, name: str, value: float | None, topic: str) -> None:
    labels = {"topic": topic, "partition": "0"}
    async with asyncio.timeout(PATIENCE_S):
        while gateway.metrics.registry.get_sample_value(f"eventstreams_{name}", labels) != value:
            await asyncio.sleep(0.01)


async def test_lag_and_depth_of_partitions_are_measured_and_removed() -> None:
    log = Ahead()
    for topic in "tu":
        await log.create_topic(topic, 1)
    async with serving(log, ["t", "u"], refresh_s=0.02) as gateway:
        await log.append([Record("t", b"{}", None, None, 0)] * 3)
        await until(gateway, "tail_events", 3, "t")
        await until(gateway, "partition_lag", 0, "t")
        log.ahead = 7
        await until(gateway, "partition_lag", 7, "t")
        log.silent = frozenset({Partition("u", 0)})
        log.ahead = 9
        await until(gateway, "partition_lag", 9, "t")
        await until(gateway, "partition_lag", 7, "u")
        log.silent = frozenset()
        log.ahead = 0
        log.delete_topic("t")
        await until(gateway, "partition_lag", None, "t")
        await until(gateway, "tail_events", None, "t")
        await until(gateway, "partition_lag", 0, "u")
