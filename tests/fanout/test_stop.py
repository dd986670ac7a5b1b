"""Streams with a stop condition: how far they may read, and when they end."""

from __future__ import annotations

import pytest

from eventstreams.fanout import stop
from eventstreams.fanout.spec import Format, SubscriptionSpec
from eventstreams.fanout.stop import StopTracker
from eventstreams.model.event import Partition
from eventstreams.model.position import Position
from eventstreams.model.stop_condition import StopCondition

pytestmark = pytest.mark.anyio

WANT = SubscriptionSpec((Partition("t", 0), Partition("t", 1)), frozenset({"t"}), Format.SSE)


class Ends:
    """The ends that a hub returns: those of its tails, and of the records before a time."""

    def __init__(self, tails: tuple[int, ...], before_time: tuple[int, ...]) -> None:
        self.tails = tails
        self.before_time = before_time

    def ends(self, spec: SubscriptionSpec) -> tuple[int, ...]:
        return self.tails

    async def ends_at(self, spec: SubscriptionSpec, until_ms: int) -> tuple[int, ...]:
        return self.before_time


async def test_a_bounded_stream_reads_up_to_its_time_and_the_tails() -> None:
    """Beyond the end of a tail there may be no records, because an election can truncate a log."""
    bound = StopTracker(StopCondition(until_ms=1))
    hub = Ends(tails=(10, 10), before_time=(7, 8))
    assert await bound.ends(WANT, hub) == (7, 8)
    hub.tails = (5, 9)
    assert await bound.ends(WANT, hub) == (5, 8)


@pytest.mark.parametrize("jump_ms", [-5 * 3_600_000, 5 * 3_600_000])
def test_setting_the_clock_moves_no_deadline(jump_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    began_ms, now_s = stop.now_ms(), 100.0
    monkeypatch.setattr(stop, "now_ms", lambda: began_ms)
    bound = StopTracker(StopCondition(deadline_ms=began_ms + 60_000), clock=lambda: now_s)
    monkeypatch.setattr(stop, "now_ms", lambda: began_ms + jump_ms)
    position = Position(WANT.partitions, (0, 0), (0, 0))
    now_s = 159.0
    assert not bound.is_reached(position)
    now_s = 160.0
    assert bound.is_reached(position)
