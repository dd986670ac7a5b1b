"""A listener of a LogFollower."""

from __future__ import annotations

from collections.abc import Collection

from eventstreams.errors import LogUnavailable
from eventstreams.model.event import Partition


class RecordingListener:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.given_up: set[Partition] = set()
        self.gave_all_up = False
        self.grown: set[str] = set()
        self.gone: set[str] = set()

    def on_events(self, by_topic: object) -> None:
        pass

    def on_partitions_added(self, topics: Collection[str]) -> None:
        self.grown.update(topics)

    def on_topic_lost(self, topic: str, partitions: Collection[Partition]) -> None:
        self.gone.add(topic)

    def on_truncated(self, partition: Partition, end: int) -> None:
        raise AssertionError(f"{partition} was not truncated to {end}")

    def on_records_skipped(self, partition: Partition) -> None:
        raise AssertionError(partition)

    def on_unreachable(
        self, error: LogUnavailable, partitions: frozenset[Partition] | None = None
    ) -> None:
        if partitions is None:
            self.gave_all_up = True
        else:
            assert error.partitions == partitions
            self.given_up |= partitions
