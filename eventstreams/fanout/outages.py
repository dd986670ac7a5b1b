"""Tracks which partitions are unreachable, since when, and why. Pure: the time is an argument.

Failures come from two sources: the follower, which repeats them for as long as they last, and
readers of history, which may have met a brief failure. A partition is reachable again when an event
of it arrives, or when it answers and the follower has reported no failure for `quiet_s`.
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
    """When the follower last reported a failure."""


class Outages:
    """The unreachable partitions. Times are in seconds, by the caller's clock."""

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
        """Record a failure of these partitions; return those that were reachable until now.

        `follower` says whether the follower reported it, rather than a reader of history.
        """
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
        """Record that a partition is reachable; return whether it was unreachable."""
        return self._by_partition.pop(partition, None) is not None

    def is_quiet(self, partition: Partition, now_s: float) -> bool:
        """Return whether the follower has reported no failure within `quiet_s`."""
        known = self._by_partition.get(partition)
        return known is None or now_s - known.failed_s > self._quiet_s

    def error(self, partitions: Iterable[Partition]) -> LogUnavailable | None:
        """Return an error that names those of these partitions that are unreachable, or None.

        It gives the cause for the first of them.
        """
        out = [partition for partition in partitions if partition in self._by_partition]
        if not out:
            return None
        error = self._by_partition[out[0]].error
        return LogUnavailable(f"{_names(out)} unreachable: {error}", out)

    def longer_than(self, patience_s: float, now_s: float) -> frozenset[Partition]:
        """Return the partitions that have been unreachable for longer than `patience_s`."""
        return frozenset(
            partition
            for partition, outage in self._by_partition.items()
            if now_s - outage.since_s > patience_s
        )

    def until_patience_ends_s(self, patience_s: float, now_s: float) -> float | None:
        """Return the seconds until the next outage reaches `patience_s`; None if none will."""
        ahead = (out.since_s + patience_s - now_s for out in self._by_partition.values())
        return min((left for left in ahead if left >= 0), default=None)


def names(partitions: Collection[Partition]) -> list[str]:
    """Return the partitions as "topic/number", sorted."""
    return [f"{topic}/{number}" for topic, number in sorted(partitions)]


def _names(partitions: Collection[Partition]) -> str:
    first, *more = names(partitions)
    return first + (f" and {len(more)} more" if more else "") + (" are" if more else " is")
