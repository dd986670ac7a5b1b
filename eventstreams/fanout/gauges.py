"""What has to be asked for to be measured: how far each tail is behind its partition, and holds."""

from __future__ import annotations

import asyncio
import contextlib

from eventstreams.errors import LogError, LogUnavailable
from eventstreams.fanout.tails import Tails
from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.event import Bounds, Partition


class Gauges:
    def __init__(self, log: Log, tails: Tails, metrics: Metrics) -> None:
        self._log = log
        self._tails = tails
        self._metrics = metrics
        self._shown: set[Partition] = set()

    async def measure(self, every_s: float) -> None:
        """Until cancelled. What is out of reach keeps its last figure; other metrics tell of it."""
        while True:
            tails = dict(self._tails.by_partition)
            for partition, bounds in (await self._bounds(set(tails))).items():
                tail = tails[partition]
                labels = (partition.topic, str(partition.number))
                behind = max(0, bounds.end - tail.next)
                self._metrics.partition_lag.labels(*labels).set(behind)
                self._metrics.tail_events.labels(*labels).set(len(tail))
                self._shown.add(partition)
            for partition in self._shown - tails.keys():
                labels = (partition.topic, str(partition.number))
                self._metrics.partition_lag.remove(*labels)
                self._metrics.tail_events.remove(*labels)
                self._shown.discard(partition)
            await asyncio.sleep(every_s)

    async def _bounds(self, partitions: set[Partition]) -> dict[Partition, Bounds]:
        with contextlib.suppress(LogError):
            try:
                return await self._log.bounds(partitions)
            except LogUnavailable as error:
                rest = partitions - error.partitions
                if error.partitions and rest:
                    return await self._log.bounds(rest)
        return {}
