"""Compressed streams: a batch is compressed once, and every response can be decoded completely."""

from __future__ import annotations

import asyncio
import functools
import gzip
import math

import cramjam
import pytest

from eventstreams.fanout import compression
from eventstreams.fanout.send import EndReason
from eventstreams.fanout.subscription import Subscription
from eventstreams.fanout.timing import Timing
from eventstreams.log.memory import MemoryLog
from tests.support import fanout
from tests.support.fanout import Client, Gateway, Socket, events, joined, passed, settled
from tests.support.wire import frames_of, place_of

pytestmark = pytest.mark.anyio

CODINGS = ["none", "gzip", "zstd"]
ONE_BY_ONE = Timing(keyframe_every_s=0.0, turn_s=-1.0, members_per_look=1)
"""A cohort yields after each member that it writes to."""

serving = functools.partial(fanout.serving, timing=Timing(keyframe_every_s=0.0))


def decoded(client: Client) -> bytes:
    """Return the content of a complete response. Raises if its end is wrong."""
    assert client.socket.complete
    coding = client.socket.headers.get("content-encoding")
    content = client.socket.taken
    if coding == "gzip":
        return gzip.decompress(content)
    return bytes(cramjam.zstd.decompress(content)) if coding == "zstd" else content


def offsets(body: bytes) -> list[int]:
    return [place_of(frame)[2] for frame in frames_of(body)]


async def log_with(count: int) -> MemoryLog:
    log = MemoryLog()
    await log.create_topic("t", 1)
    if count:
        await log.append(events("t", 0, count))
    return log


def subscription_of(gateway: Gateway, client: Client) -> Subscription:
    return next(s for s in gateway.hub.subscriptions if s.connection is client.socket)


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return all bodies that are compressed from now on."""
    bodies: list[bytes] = []
    for name in ("_Deflate", "_Zstd"):
        kind = getattr(compression, name)

        def encode(self: object, body: bytes, real: object = kind.encode) -> bytes:
            bodies.append(body)
            return real(self, body)  # type: ignore[operator, no-any-return]

        monkeypatch.setattr(kind, "encode", encode)
    return bodies


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_batch_is_compressed_once_for_all_members(
    coding: str, compressed: list[bytes]
) -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, "t", query=f"compress={coding}") for _ in range(20)]
        for client in clients:
            tasks.create_task(client.serve())
        await joined(gateway, *clients)
        compressed.clear()
        await log.append(events("t", 0, 3))
        for client in clients:
            await client.socket.until(lambda c=client: len(c.socket.bodies) > 1)
        assert len(compressed) == 1
        assert all(c.socket.bodies[1] is clients[0].socket.bodies[1] for c in clients)
        await gateway.hub.drain(0)
    for client in clients:
        assert offsets(decoded(client)) == [0, 1, 2]


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_member_that_rejoins_during_a_batch_gets_it_once(coding: str) -> None:
    log = await log_with(0)
    async with serving(log, ["t"], timing=ONE_BY_ONE) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, "t", query=f"compress={coding}") for _ in range(60)]
        for client in clients:
            tasks.create_task(client.serve())
        await joined(gateway, *clients)
        [cohort] = gateway.hub._cohorts.values()
        last = subscription_of(gateway, clients[-1])
        await log.append(events("t", 0, 1))
        await clients[0].socket.until(lambda: len(clients[0].socket.bodies) > 1)
        last.grow()
        assert last.cohort is None
        while last.cohort is None:
            await asyncio.sleep(0)
        assert last.cohort is cohort
        assert cohort._writing, "it rejoined before the batch was written"
        await log.append(events("t", 0, 1))
        await passed(200)
        await gateway.hub.drain(0)
    for client in clients:
        assert offsets(decoded(client)) == [0, 1]


@pytest.mark.parametrize("coding", CODINGS)
async def test_unsent_bytes_are_not_counted(coding: str) -> None:
    log = await log_with(400)
    async with serving(log, ["t"], batch_bytes_max=1_000) as gateway, asyncio.TaskGroup() as tasks:
        socket = Socket(high_water=200)
        client = Client(gateway, "t", socket=socket, query=f"since=0&compress={coding}")
        tasks.create_task(client.serve())
        await client.opened()
        for _ in range(5):
            await socket.until(lambda: not socket._writable.is_set())
            await settled()
            subscription_of(gateway, client).grow()
            await settled()
            socket.take(150)
        socket.take_all()
        await joined(gateway, client)
        await gateway.hub.drain(0)
    assert offsets(decoded(client)) == list(range(400))


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_client_that_catches_up_decodes_to_the_end(coding: str) -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        slow = Client(
            gateway, "t", socket=Socket(high_water=300), query=f"compress={coding}", exposed=False
        )
        quick = Client(gateway, "t", query=f"compress={coding}")
        for client in (slow, quick):
            tasks.create_task(client.serve())
        await joined(gateway, slow, quick)
        for n in range(12):
            await log.append(events("t", 0, 30, text=str(n) * 50))
            await quick.socket.until(lambda n=n: len(quick.socket.bodies) > 1 + n)
            if n % 4 == 3:
                slow.socket.take_all()
                await joined(gateway, slow, quick)
                slow.socket.high_water = 300
        assert gateway.count("slow_total") >= 1
        slow.socket.take_all()
        await joined(gateway, slow, quick)
        await gateway.hub.drain(0)
    for client in (slow, quick):
        assert offsets(decoded(client)) == list(range(360))


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_compressed_stream_with_a_limit_ends_completely(coding: str) -> None:
    log = await log_with(50)
    async with serving(log, ["t"], batch_bytes_max=2_000) as gateway:
        client = Client(gateway, "t", query=f"since=0&limit=33&compress={coding}")
        await client.serve()
    assert offsets(decoded(client)) == list(range(33))


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_compressed_stream_that_fails_ends_completely(coding: str) -> None:
    log = await log_with(5)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query=f"since=0&compress={coding}")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        log.delete_topic("t")
        await gateway.hub.follower.refresh()
        await client.ended()
    frames = frames_of(decoded(client))
    assert [frame.event for frame in frames] == ["message"] * 5 + ["error"]


async def test_late_clients_share_the_stream_from_the_next_keyframe() -> None:
    """Until then they receive the same events, each batch compressed on its own."""
    log = await log_with(0)
    timing = Timing(keyframe_every_s=math.inf)
    async with serving(log, ["t"], timing=timing) as gateway, asyncio.TaskGroup() as tasks:
        early = Client(gateway, "t", query="compress=gzip")
        tasks.create_task(early.serve())
        await joined(gateway, early)
        await log.append(events("t", 0, 1))
        await early.frames(1)
        late = Client(gateway, "t", query="compress=gzip")
        tasks.create_task(late.serve())
        await late.opened()
        for n in range(5):
            await log.append(events("t", 0, 1))
            await early.frames(2 + n)
            await late.frames(1 + n)
            assert subscription_of(gateway, late).cohort is None
        [cohort] = gateway.hub._cohorts.values()
        cohort._stream.keyframe_at = -math.inf  # the next keyframe is due
        await log.append(events("t", 0, 1))
        await joined(gateway, early, late)
        await log.append(events("t", 0, 1))
        await late.frames(7)
        assert late.socket.bodies[-1] is early.socket.bodies[-1]
        await gateway.hub.drain(0)
    assert offsets(decoded(early)) == list(range(8))
    assert offsets(decoded(late)) == list(range(1, 8))


async def test_a_cohort_releases_its_compression_window() -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query="compress=zstd")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        await log.append(events("t", 0, 1))
        await client.socket.until(lambda: len(client.socket.bodies) > 1)
        assert len(gateway.hub._windows._streams) == 1
        client.socket.hang_up()
        await client.ended()
        assert not gateway.hub._windows._streams


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_member_that_leaves_during_a_batch_gets_a_decodable_response(
    coding: str,
) -> None:
    """It leaves while the batch is still written to the others."""
    log = await log_with(0)
    async with serving(log, ["t"], timing=ONE_BY_ONE) as gateway, asyncio.TaskGroup() as tasks:
        clients = [Client(gateway, "t", query=f"compress={coding}") for _ in range(60)]
        for client in clients:
            tasks.create_task(client.serve())
        await joined(gateway, *clients)
        [cohort] = gateway.hub._cohorts.values()
        first = subscription_of(gateway, clients[0])
        await log.append(events("t", 0, 1))
        await clients[0].socket.until(lambda: len(clients[0].socket.bodies) > 1)
        first.end(EndReason.CLOSED)
        while not clients[0].socket.complete:
            await asyncio.sleep(0)
        assert cohort._writing, "the batch must still be in progress"
        for client in clients:
            await client.socket.until(lambda c=client: len(c.socket.bodies) > 1)
        await gateway.hub.drain(0)
    for client in clients:
        assert offsets(decoded(client)) == [0]
