"""How fast a stream that pulls alone may go, and when it is ended because it can't keep up."""

from __future__ import annotations

import random

import pytest

from eventstreams.errors import FilterTooCostly
from eventstreams.fanout.chunk import Portion
from eventstreams.fanout.throttle import Throttle
from eventstreams.model.position import Position

pytestmark = pytest.mark.anyio
NOWHERE = Position((), (), ())


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Allowance:
    def __init__(self) -> None:
        self.used_bytes = 0

    async def wait_s(self) -> float:
        return max(0.0, self.used_bytes - 100.0)

    def used(self, size: int) -> None:
        self.used_bytes += size


def looked(selecting_s: float, passed_bytes: int = 0) -> Portion:
    return Portion(None, NOWHERE, passed_bytes, selecting_s)


async def test_what_is_looked_at_and_what_is_sent_both_count() -> None:
    allowance = Allowance()
    throttle = Throttle(allowance=allowance, share=0.5, patience_s=1.0)
    throttle.looked(looked(0.0, passed_bytes=70))
    assert await throttle.rest_s(1) == 0.0
    throttle.sent(60)
    assert await throttle.rest_s(1) == 30.0


@pytest.mark.parametrize("share", [0.001, 0.25, 1.0])
async def test_over_time_a_stream_takes_no_more_than_its_share(share: float) -> None:
    clock = Clock()
    throttle = Throttle(allowance=None, share=share, patience_s=1e9, clock=clock)
    chosen = random.Random(0)
    spent_s = 0.0
    for _ in range(200):
        while (rest_s := await throttle.rest_s(1)) > 0:
            assert rest_s <= 1.0, "it is looked at again soon"
            clock.now_s += max(rest_s, 1e-6)
        assert spent_s <= (clock.now_s + 4.0) * share + 1e-6
        piece_s = chosen.uniform(0.0001, 0.05) * share
        throttle.looked(looked(piece_s))
        clock.now_s += piece_s
        spent_s += piece_s
    assert spent_s >= clock.now_s * share * 0.99, "and no less"


async def test_a_slowed_stream_that_falls_behind_is_ended() -> None:
    clock = Clock()
    throttle = Throttle(allowance=None, share=0.1, patience_s=60.0, clock=clock)
    throttle.looked(looked(100.0))
    assert await throttle.rest_s(10) > 0
    clock.now_s = 59.0
    assert await throttle.rest_s(1_000) > 0, "it has some time to come back"
    clock.now_s = 60.0
    with pytest.raises(
        FilterTooCostly, match=r"share of the gateway's time \(0.1 of a processor\)"
    ):
        await throttle.rest_s(10)


async def test_a_slowed_stream_that_gets_nearer_goes_on() -> None:
    clock = Clock()
    throttle = Throttle(allowance=None, share=0.1, patience_s=60.0, clock=clock)
    throttle.looked(looked(1e6))
    for behind in range(1_000, 0, -1):
        clock.now_s += 60.0
        assert await throttle.rest_s(behind) > 0
    throttle.caught_up()
    clock.now_s += 60.0
    assert await throttle.rest_s(5_000) > 0, "it has been at the end"


async def test_a_stream_that_ends_by_itself_is_slowed_only() -> None:
    clock = Clock()
    throttle = Throttle(allowance=None, share=0.1, patience_s=60.0, clock=clock)
    throttle.looked(looked(1e6))
    for _ in range(10):
        clock.now_s += 60.0
        assert await throttle.rest_s(None) > 0
