"""How fast a stream outside a cohort may read, and when it ends because it is too slow."""

from __future__ import annotations

import random

import pytest

from eventstreams.errors import FilterTooCostly
from eventstreams.fanout.batch import EncodedBatch
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


def looked(selecting_s: float, passed_bytes: int = 0) -> EncodedBatch:
    return EncodedBatch(None, NOWHERE, passed_bytes, selecting_s)


async def test_examined_and_sent_bytes_count() -> None:
    allowance = Allowance()
    throttle = Throttle(allowance=allowance, share=lambda: 0.5, patience_s=1.0)
    throttle.looked(looked(0.0, passed_bytes=70))
    assert await throttle.rest_s(1) == 0.0
    throttle.sent(60)
    assert await throttle.rest_s(1) == 30.0


@pytest.mark.parametrize("share", [0.001, 0.25, 1.0])
async def test_a_stream_uses_its_share_over_time(share: float) -> None:
    clock = Clock()
    throttle = Throttle(allowance=None, share=lambda: share, patience_s=1e9, clock=clock)
    chosen = random.Random(0)
    spent_s = 0.0
    for _ in range(200):
        while (rest_s := await throttle.rest_s(1)) > 0:
            assert rest_s <= 1.0, "the wait is short, so that changes take effect soon"
            clock.now_s += max(rest_s, 1e-6)
        assert spent_s <= (clock.now_s + 4.0) * share + 1e-6
        piece_s = chosen.uniform(0.0001, 0.05) * share
        throttle.looked(looked(piece_s))
        clock.now_s += piece_s
        spent_s += piece_s
    assert spent_s >= clock.now_s * share * 0.99, "the share is used completely"


async def test_a_slowed_stream_that_falls_behind_is_ended() -> None:
    clock = Clock()
    throttle = Throttle(allowance=None, share=lambda: 0.1, patience_s=60.0, clock=clock)
    throttle.looked(looked(100.0))
    assert await throttle.rest_s(10) > 0
    clock.now_s = 59.0
    assert await throttle.rest_s(1_000) > 0, "it has some time to catch up"
    clock.now_s = 60.0
    with pytest.raises(
        FilterTooCostly, match=r"share of the gateway's time \(0.1 of a processor\)"
    ):
        await throttle.rest_s(10)


async def test_a_slowed_stream_that_catches_up_continues() -> None:
    clock = Clock()
    throttle = Throttle(allowance=None, share=lambda: 0.1, patience_s=60.0, clock=clock)
    throttle.looked(looked(1e6))
    for behind in range(1_000, 0, -1):
        clock.now_s += 60.0
        assert await throttle.rest_s(behind) > 0
    throttle.caught_up()
    clock.now_s += 60.0
    assert await throttle.rest_s(5_000) > 0, "it was at the end, so its time starts again"


async def test_a_stream_with_a_stop_condition_is_only_slowed() -> None:
    clock = Clock()
    throttle = Throttle(allowance=None, share=lambda: 0.1, patience_s=60.0, clock=clock)
    throttle.looked(looked(1e6))
    for _ in range(10):
        clock.now_s += 60.0
        assert await throttle.rest_s(None) > 0
