"""The partitions of records, including partitions that were just added. No broker."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import pytest

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import UnknownPartition
from eventstreams.log.kafka.appender import Appender
from eventstreams.log.kafka.brokers import Brokers
from eventstreams.model.event import Partition, Record

pytestmark = pytest.mark.anyio


class Cluster:
    """Each topic has `there` partitions, of which `known` are known until the next refresh."""

    def __init__(self, *, known: int, there: int) -> None:
        self.known = known
        self.there = there

    async def partition_count(self, topic: str) -> int:
        return self.known

    async def refresh(self, topics: Collection[str]) -> dict[str, int]:
        self.known = self.there
        return dict.fromkeys(topics, self.there)


def appender_of(cluster: Cluster) -> Appender:
    return Appender(brokers=cast("Brokers", cluster), settings=KafkaSettings())


@pytest.mark.parametrize("number", [2, 3])
async def test_a_record_reaches_a_partition_that_was_just_added(number: int) -> None:
    appender = appender_of(Cluster(known=2, there=4))
    homes = await appender._homes([Record("t", b"x", partition=number)])
    assert homes == [Partition("t", number)]


async def test_a_record_for_a_missing_partition_is_refused() -> None:
    appender = appender_of(Cluster(known=2, there=4))
    with pytest.raises(UnknownPartition):
        await appender._homes([Record("t", b"x", partition=4)])
