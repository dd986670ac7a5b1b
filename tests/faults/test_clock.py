"""The system's clock jumps by a day, ahead and back: nothing that goes on goes by it."""

from __future__ import annotations

import time

import pytest

from tests.log.backends import Sqlite
from tests.web.gateway import Served, site_of

pytestmark = pytest.mark.anyio

DAY_S = 86_400
TOGETHER = 3
"""Events between one jump and the next."""


class Clock:
    """What the process takes for the time of day; monotonic clocks do not jump."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0
        seconds, nanoseconds = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: seconds() + self.ahead_s)
        monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + self.ahead_s * 10**9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def numbers(gateway: Served, count: int, **start: str) -> list[int]:
    async with gateway.stream("s", **start) as stream:  # type: ignore[arg-type]
        return [document["n"] for document in await stream.documents(count)]


@pytest.mark.parametrize("jumps", [(DAY_S, -DAY_S), (-DAY_S, DAY_S)], ids=["ahead", "back"])
async def test_streams_heartbeats_and_ids_do_not_care_when_the_clock_jumps(
    clock: Clock, jumps: tuple[int, ...]
) -> None:
    async with site_of(Sqlite) as site:
        topic = await site.topic()
        async with (
            site.gateway({"s": [topic]}, heartbeat_s=0.05) as gateway,
            gateway.stream("s") as stream,
        ):
            await stream.opened()
            produced, ids = 0, []
            for jump in (0, *jumps):
                clock.ahead_s += jump
                stream.chunks.clear()
                while b":\n" not in stream.chunks:
                    await stream.chunk()
                assert not stream.taken()
                await site.produce(topic, *({"n": n} for n in range(produced, produced + TOGETHER)))
                frames = await stream.frames(TOGETHER)
                assert [f.document["n"] for f in frames] == [*range(produced, produced + TOGETHER)]
                ids += [frame.id for frame in frames]
                produced += TOGETHER
            for n, last in enumerate(ids[:-1], 1):
                assert await numbers(gateway, produced - n, last_event_id=last) == [
                    *range(n, produced)
                ]


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S], ids=["ahead", "back"])
async def test_since_a_time_ago_has_all_that_came_after_a_jump_of_the_clock(
    clock: Clock, jump_s: int
) -> None:
    async with site_of(Sqlite) as site:
        topic = await site.topic()
        await site.produce(topic, *({"n": n} for n in range(TOGETHER)))
        clock.ahead_s += jump_s
        async with site.gateway({"s": [topic]}) as gateway:
            await site.produce(topic, *({"n": n} for n in range(TOGETHER, 2 * TOGETHER)))
            # What has times of a day ahead is at or after any time ago; what is a day old is not.
            first = TOGETHER if jump_s > 0 else 0
            expected = [*range(first, 2 * TOGETHER)]
            assert await numbers(gateway, len(expected), since="-1h") == expected
            all_of_it = [*range(2 * TOGETHER)]
            assert await numbers(gateway, len(all_of_it), since="-25h") == all_of_it
