"""Compressed streams: one compression for all members, and every response decodes to its end."""

from __future__ import annotations

import asyncio
import gzip

import cramjam
import pytest

from eventstreams.fanout import cohort as cohort_module
from eventstreams.fanout import compression
from eventstreams.fanout.subscription import Subscription
from eventstreams.log.memory import MemoryLog
from tests.fanout.gateway import Client, Gateway, Socket, events, joined, serving, settled
from tests.wire import frames_of, place_of

pytestmark = pytest.mark.anyio

CODINGS = ["none", "gzip", "zstd"]


def decoded(client: Client) -> bytes:
    """Of a whole response; whatever is wrong with its end raises."""
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


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone is let in at once."""
    monkeypatch.setattr(compression, "_KEYFRAME_EVERY_S", 0.0)


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Whatever is compressed from now on."""
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
async def test_who_leaves_and_comes_back_while_a_batch_is_written_gets_it_once(
    coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort_module, "_LOOK_EVERY", 1)
    monkeypatch.setattr(cohort_module, "_TURN_S", -1.0)
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
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
        assert cohort._writing, "it came back before the writing was over"
        await log.append(events("t", 0, 1))
        await settled(200)
        await gateway.hub.drain(0)
    for client in clients:
        assert offsets(decoded(client)) == [0, 1]


@pytest.mark.parametrize("coding", CODINGS)
async def test_what_was_given_up_before_it_was_sent_does_not_count(coding: str) -> None:
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
async def test_one_that_falls_behind_and_catches_up_decodes_to_its_end(coding: str) -> None:
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        slow = Client(
            gateway, "t", socket=Socket(high_water=300), query=f"compress={coding}", lent=False
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
async def test_a_bounded_stream_ends_whole(coding: str) -> None:
    log = await log_with(50)
    async with serving(log, ["t"], batch_bytes_max=2_000) as gateway:
        client = Client(gateway, "t", query=f"since=0&limit=33&compress={coding}")
        await client.serve()
    assert offsets(decoded(client)) == list(range(33))


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_stream_that_ends_with_an_error_ends_whole(coding: str) -> None:
    log = await log_with(5)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t", query=f"since=0&compress={coding}")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        log.delete_topic("t")
        await gateway.hub.feed.refresh()
        await client.ended()
    frames = frames_of(decoded(client))
    assert [frame.event for frame in frames] == ["message"] * 5 + ["error"]


async def test_late_ones_share_the_stream_from_the_next_keyframe_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until then they get the same, each batch on its own."""
    monkeypatch.setattr(compression, "_KEYFRAME_EVERY_S", 10.0**6)
    log = await log_with(0)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
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
        monkeypatch.setattr(compression, "_KEYFRAME_EVERY_S", 0.0)
        await log.append(events("t", 0, 1))
        await joined(gateway, early, late)
        await log.append(events("t", 0, 1))
        await late.frames(7)
        assert late.socket.bodies[-1] is early.socket.bodies[-1]
        await gateway.hub.drain(0)
    assert offsets(decoded(early)) == list(range(8))
    assert offsets(decoded(late)) == list(range(1, 8))


async def test_windows_are_given_back_with_their_cohorts() -> None:
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
