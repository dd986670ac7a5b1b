"""The system's clock jumps ahead and back by a day; running streams do not depend on it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from eventstreams.config.settings import AccessSettings, LimitSettings, SqliteSettings
from eventstreams.model.event import Partition
from tests.support.backends import Sqlite
from tests.support.gateway import Served, site_of, stream_of
from tests.support.issuer import SECRET, secret_token
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

DAY_S = 86_400
TOGETHER = 3
"""Events between one jump and the next."""


class Clock:
    """Moves the time of day in this process; monotonic clocks do not jump."""

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
async def test_clock_jumps_do_not_affect_streams(clock: Clock, jumps: tuple[int, ...]) -> None:
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
async def test_relative_since_works_after_a_clock_jump(clock: Clock, jump_s: int) -> None:
    async with site_of(Sqlite) as site:
        topic = await site.topic()
        await site.produce(topic, *({"n": n} for n in range(TOGETHER)))
        clock.ahead_s += jump_s
        async with site.gateway({"s": [topic]}) as gateway:
            await site.produce(topic, *({"n": n} for n in range(TOGETHER, 2 * TOGETHER)))
            # Events dated a day ahead are after any relative time; events a day old are not.
            first = TOGETHER if jump_s > 0 else 0
            expected = [*range(first, 2 * TOGETHER)]
            assert await numbers(gateway, len(expected), since="-1h") == expected
            all_of_it = [*range(2 * TOGETHER)]
            assert await numbers(gateway, len(all_of_it), since="-25h") == all_of_it


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S], ids=["ahead", "back"])
async def test_clock_jumps_do_not_affect_access_and_limits(
    clock: Clock, tmp_path: Path, jump_s: int
) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    access = AccessSettings(hs256_secret_file=str(tmp_path / "secret"))
    limits = LimitSettings(client_ip_connects_per_minute=4)
    one = {"X-Client-IP": "192.0.2.1"}
    token = secret_token(scope="read", exp=time.time() + 2 * DAY_S)
    good = {"Authorization": f"Bearer {token}"}
    async with site_of(Sqlite) as site:
        topic = await site.topic()
        streams = {"s": stream_of("s", [topic])._replace(scope="read")}
        async with (
            site.gateway(streams, access=access, limits=limits) as gateway,
            gateway.stream("s", {**good, **one}) as stream,
        ):
            await stream.opened()
            issued = await gateway.ask("POST", "/v2/ticket", {**good, **one})
            ticket = issued.json()["ticket"]
            statuses = []
            for jump in (jump_s, -jump_s):
                clock.ahead_s += jump
                await site.produce(topic, {"at": jump})
                assert (await stream.frame()).document["at"] == jump
                for _ in range(2):
                    target = f"/v2/stream/s?ticket={ticket}"
                    statuses.append((await gateway.ask("HEAD", target, one)).status)
            assert statuses == [200, 401, 429, 429], (
                "valid once; four connects per minute, including that of the ticket"
            )


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S], ids=["ahead", "back"])
async def test_retention_after_a_clock_jump_is_reported_as_a_gap(clock: Clock, jump_s: int) -> None:
    """With the clock a day ahead, all records are a day old; with the clock set back, none is."""
    async with site_of(Sqlite) as site:
        topic = await site.topic()
        await site.produce(topic, *({"n": n} for n in range(TOGETHER)))
        log = msgspec.structs.replace(
            site.settings,
            sqlite=SqliteSettings(retention_age_s=3600.0, retention_every_s=0.05, sync="normal"),
        )
        start = [{"topic": topic, "partition": 0, "offset": 0}]
        async with site.gateway({"s": [topic]}, log=log) as gateway:
            clock.ahead_s += jump_s
            await site.produce(topic, *({"n": n} for n in range(TOGETHER, 2 * TOGETHER)))
            dropped = TOGETHER if jump_s > 0 else 0
            partition = Partition(topic, 0)
            async with asyncio.timeout(PATIENCE_S):
                while (await site.log.bounds([partition]))[partition].oldest < dropped:
                    await asyncio.sleep(0.01)
            async with gateway.stream("s", last_event_id=start) as stream:
                if dropped:
                    gap = await stream.frame()
                    [reported] = gap.document["partitions"]
                    assert (gap.event, reported["resumed"]) == ("gap", dropped)
                found = [d["n"] for d in await stream.documents(2 * TOGETHER - dropped)]
            assert found == [*range(dropped, 2 * TOGETHER)]
