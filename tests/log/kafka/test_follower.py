"""The follower discards answers to requests from before an `assign`. No broker."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

import pytest

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import OffsetOutOfRange
from eventstreams.log.base import Slice
from eventstreams.log.kafka.brokers import Brokers
from eventstreams.log.kafka.errors import NONE, OFFSET_OUT_OF_RANGE
from eventstreams.log.kafka.fetch import Fetched
from eventstreams.log.kafka.follower import KafkaFollower, _Arrived
from eventstreams.model.event import Bounds, Event, Partition

pytestmark = pytest.mark.anyio

P = Partition("t", 0)
BOUNDS = Bounds(100, 200)


class NoCluster:
    """A cluster of which no topic is known."""

    def topic_id(self, topic: str) -> bytes | None:
        return None


async def bounds(partitions: Collection[Partition]) -> Mapping[Partition, Bounds]:
    return dict.fromkeys(partitions, BOUNDS)


def follower_at(offset: int) -> KafkaFollower:
    return KafkaFollower(
        {P: offset}, brokers=cast("Brokers", NoCluster()), settings=KafkaSettings(), bounds=bounds
    )


def answer(asked: int, code: int = NONE) -> _Arrived:
    """Return the answer to a fetch at an offset: one event, or an error."""
    found = Fetched(P, code, 200, None, b"", None)
    events = [Event(P, asked, 1_000, b"x")]
    return _Arrived(found, asked, Slice(P, events, asked + 1) if code == NONE else None)


async def test_answers_to_fetches_before_an_assign_are_discarded() -> None:
    follower = follower_at(150)
    follower._arrived.append(answer(150))
    follower.assign({P: 120})
    assert list(follower._take_arrived()) == []
    follower._arrived.append(answer(120))
    assert [one.next for one in follower._take_arrived()] == [121]


async def test_assign_makes_a_partition_out_of_range_readable_again() -> None:
    follower = follower_at(50)
    follower._arrived.append(answer(50, OFFSET_OUT_OF_RANGE))
    assert list(follower._take_arrived()) == []
    follower.assign({P: 100})
    await follower._raise_out_of_range()
    follower._arrived.append(answer(100, OFFSET_OUT_OF_RANGE))
    assert list(follower._take_arrived()) == []
    with pytest.raises(OffsetOutOfRange) as caught:
        await follower._raise_out_of_range()
    assert caught.value.bounds == BOUNDS
