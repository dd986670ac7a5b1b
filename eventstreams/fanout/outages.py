"""Which partitions are out of reach, since when, and why. Pure: the time is an argument.

Two who cannot read are told apart: the follower, who says so again as long as it lasts, and readers
of history, who may have met a moment's trouble. A partition is back when an event of it came; or
when it answers, and the follower has been quiet about it for longer than it ever is in trouble.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import NamedTuple

from eventstreams.errors import LogUnavailable
from eventstreams.model.event import Partition


class _Outage(NamedTuple):
    error: LogUnavailable
    since_s: float
    failed_s: float
    """When the follower last said so."""


class Outages:
    def __init__(self, *, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._by_partition: dict[Partition, _Outage] = {}

    def __contains__(self, partition: Partition) -> bool:
        return partition in self._by_partition

    def __bool__(self) -> bool:
        return bool(self._by_partition)

    @property
    def partitions(self) -> frozenset[Partition]:
        return frozenset(self._by_partition)

    def begin(
        self,
        partitions: Iterable[Partition],
        error: LogUnavailable,
        now_s: float,
        *,
        follower: bool,
    ) -> list[Partition]:
        """Returns those that were in reach until now."""
        new: list[Partition] = []
        for partition in partitions:
            known = self._by_partition.get(partition)
            if known is None:
                new.append(partition)
                known = _Outage(error, now_s, -math.inf)
            self._by_partition[partition] = known._replace(
                error=error, failed_s=now_s if follower else known.failed_s
            )
        return new

    def end(self, partition: Partition) -> bool:
        """Whether it was out of reach."""
        return self._by_partition.pop(partition, None) is not None

    def is_quiet(self, partition: Partition, now_s: float) -> bool:
        """Whether the follower has not complained of it lately."""
        known = self._by_partition.get(partition)
        return known is None or now_s - known.failed_s > self._quiet_s

    def error(self, partitions: Iterable[Partition]) -> LogUnavailable | None:
        """Why the first of these that is out of reach is so; it names all of them that are."""
        out = [partition for partition in partitions if partition in self._by_partition]
        if not out:
            return None
        error = self._by_partition[out[0]].error
        return LogUnavailable(f"{_names(out)} out of reach: {error}", out)

    def longer_than(self, patience_s: float, now_s: float) -> frozenset[Partition]:
        return frozenset(
            partition
            for partition, outage in self._by_partition.items()
            if now_s - outage.since_s > patience_s
        )

    def until_patience_ends_s(self, patience_s: float, now_s: float) -> float | None:
        """In s, of the first whose end is ahead."""
        ahead = (out.since_s + patience_s - now_s for out in self._by_partition.values())
        return min((left for left in ahead if left >= 0), default=None)


def names(partitions: Collection[Partition]) -> list[str]:
    """As topic/number, in order."""
    return [f"{topic}/{number}" for topic, number in sorted(partitions)]


def _names(partitions: Collection[Partition]) -> str:
    first, *more = names(partitions)
    return first + (f" and {len(more)} more" if more else "") + (" are" if more else " is")
