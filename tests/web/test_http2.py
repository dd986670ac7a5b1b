"""Many streams on one connection: each is as good as one on a connection of its own."""

from __future__ import annotations

import asyncio
import random
import re
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eventstreams.server.http2 import Http2
from eventstreams.settings import LimitSettings
from tests.web.certificates import certificate
from tests.web.client import PATIENCE_S
from tests.web.gateway import Site
from tests.web.http2 import SSE, http2_client
from tests.web.http2_place import (
    CANCEL,
    PRIOR,
    WINDOW,
    connection_of,
    kept,
    nothing_runs,
    served,
)
from tests.web.test_leases import IP

pytestmark = pytest.mark.anyio


async def test_streams_of_one_connection_each_get_every_event(site: Site, tmp_path: Path) -> None:
    files, topic = certificate(tmp_path), await site.topic()
    async with (
        site.gateway({"s": [topic]}, http=files.http()) as gateway,
        http2_client(gateway.port, files.client("h2")) as client,
    ):
        streams = [client.ask("/v2/stream/s", SSE) for _ in range(10)]
        for stream in streams:
            await stream.opened()
            assert stream.status == 200
            assert stream.get("content-type") == "text/event-stream; charset=utf-8"
            assert stream.get("connection") is None
            assert stream.get("transfer-encoding") is None
        for n in range(5):
            await site.produce(topic, {"n": n})
        for stream in streams:
            assert [d["n"] for d in await stream.events(5)] == list(range(5))


async def test_it_shares_a_cohort_with_clients_of_http_1(embedded: Site) -> None:
    async with served(embedded) as (topic, gateway, client), gateway.stream("s") as other:
        mine = client.ask("/v2/stream/s", SSE)
        await mine.opened()
        await other.opened()
        async with asyncio.timeout(PATIENCE_S):
            while [len(c.members) for c in gateway.parts.hub._cohorts.values()] != [2]:
                await asyncio.sleep(0)
        for n in range(3):
            await embedded.produce(topic, {"n": n})
        assert [d["n"] for d in await mine.events(3)] == [0, 1, 2]
        assert [d["n"] for d in await other.documents(3)] == [0, 1, 2]
        assert bytes(mine.body) == b"".join(other.chunks)


async def test_a_client_that_comes_back_gets_the_rest(embedded: Site) -> None:
    async with served(embedded) as (topic, _, client):
        stream = client.ask("/v2/stream/s", SSE)
        await stream.opened()
        await embedded.produce(topic, {"n": 0}, {"n": 1})
        await stream.events(2)
        last = stream.frames[0].id
        stream.take_back()
        again = client.ask("/v2/stream/s", {**SSE, "last-event-id": last})
        assert [d["n"] for d in await again.events(1)] == [1]


async def test_history_larger_than_the_windows_comes_whole_as_credit_is_given(
    embedded: Site,
) -> None:
    async with served(embedded, window=WINDOW) as (topic, _, client):
        await embedded.produce(topic, *[{"n": n, "pad": "x" * 5_000} for n in range(200)])
        one, two = (client.ask("/v2/stream/s?since=0", SSE) for _ in range(2))
        for stream in (one, two):
            assert [d["n"] for d in await stream.events(200)] == list(range(200))


async def test_a_stalled_stream_holds_little_and_troubles_no_other(embedded: Site) -> None:
    async with served(embedded, window=WINDOW) as (topic, gateway, client):
        stuck = client.ask("/v2/stream/s", SSE, stalls=True)
        quick = client.ask("/v2/stream/s", SSE)
        await stuck.opened()
        await quick.opened()
        for n in range(60):
            await embedded.produce(topic, {"n": n, "pad": "x" * 10_000})
            await quick.events(n + 1)
        assert len(stuck.body) == WINDOW
        assert kept(gateway) < 11_000, "the rest of one event"
        stuck.resume()
        assert [d["n"] for d in await stuck.events(60)] == list(range(60))
        assert [d["n"] for d in quick.documents] == list(range(60))


async def test_a_stalled_stream_is_reset_in_time_and_the_others_live_on(embedded: Site) -> None:
    async with served(embedded, window=WINDOW, stall_timeout_s=0.3) as (topic, gateway, client):
        stuck = client.ask("/v2/stream/s", SSE, stalls=True)
        quick = client.ask("/v2/stream/s", SSE)
        await stuck.opened()
        await quick.opened()
        n = 0
        while stuck.reset is None:  # that the others of the connection move is no credit to it
            await embedded.produce(topic, {"n": n, "pad": "x" * 10_000})
            n += 1
            await quick.events(n)
        assert stuck.reset == CANCEL
        await gateway.until("streams_ended_total", 1, reason="stalled")
        await embedded.produce(topic, {"n": n})
        assert [d["n"] for d in await quick.events(n + 1)] == list(range(n + 1))


@pytest.mark.parametrize("target", ["/v2/stream/s", "/v2/ui/"])
async def test_who_gives_no_credit_at_all_is_given_up_in_time(embedded: Site, target: str) -> None:
    limits = LimitSettings(streams_max=1)
    async with served(embedded, window=0, stall_timeout_s=0.3, limits=limits) as (
        _,
        gateway,
        client,
    ):
        for _ in range(2):  # what it held is given back
            answer = await client.answer(target, headers=SSE)
            assert (answer.status, answer.reset, bytes(answer.body)) == (200, CANCEL, b"")
            await nothing_runs(gateway)


async def test_a_slow_stream_that_moves_is_not_stalled(embedded: Site) -> None:
    async with served(embedded, window=WINDOW, stall_timeout_s=0.5) as (topic, gateway, client):
        await embedded.produce(topic, *[{"n": n, "pad": "x" * 10_000} for n in range(40)])
        slow = client.ask("/v2/stream/s?since=0", SSE, stalls=True)
        await slow.until(lambda it: it.unpaid >= WINDOW)
        for _ in range(15):  # 1.5 s in all, and each time less than a chunk
            await asyncio.sleep(0.1)
            client.h2.acknowledge_received_data(2_000, slow.number)
            slow.unpaid -= 2_000
            client.flush()
        slow.resume()
        assert [d["n"] for d in await slow.events(40)] == list(range(40))
        assert gateway.count("streams_ended_total", reason="stalled") == 0


async def test_streams_share_the_window_of_their_connection(embedded: Site) -> None:
    """It is the one that runs out: each gets all the same, as credit comes for any."""
    topic = await embedded.topic()
    await embedded.produce(topic, *[{"n": n, "pad": "x" * 8_000} for n in range(50)])
    async with (
        embedded.gateway({"s": [topic]}, http=PRIOR) as gateway,
        http2_client(gateway.port, connection_window=0) as client,
    ):
        streams = [client.ask("/v2/stream/s?since=0", SSE) for _ in range(4)]
        for stream in streams:
            assert [d["n"] for d in await stream.events(50)] == list(range(50))


def test_those_who_share_a_window_take_turns() -> None:
    class Endless(SimpleNamespace):
        """One that takes all there is, and has more."""

        __hash__ = object.__hash__
        rest, needs_room = b"more", False

        def go_on(self) -> bool:
            if self.conn.send_window:
                self.turns.append(self.name)
            self.conn.send_window = 0
            return False

    conn, turns = SimpleNamespace(send_window=0), list[str]()
    connection = Http2.__new__(Http2)
    connection.conn = cast("Any", conn)
    connection.behind = cast(
        "Any", {Endless(name=n, conn=conn, turns=turns): None for n in ("a", "b", "c")}
    )
    for _ in range(6):
        conn.send_window = 1000
        connection.wake()
    assert turns == ["a", "b", "c"] * 2


async def test_taking_a_request_back_ends_its_stream_and_gives_back_its_lease(
    embedded: Site,
) -> None:
    limits = LimitSettings(client_ip_connections=2)
    ip = {**SSE, "x-client-ip": IP["X-Client-IP"]}
    async with served(embedded, limits=limits) as (topic, gateway, client):
        one, two = (client.ask("/v2/stream/s", ip) for _ in range(2))
        await one.opened()
        await two.opened()
        assert (await client.answer("/v2/stream/s", headers=ip)).status == 429
        one.take_back()
        await gateway.until("streams_ended_total", 1, reason="disconnected")
        again = client.ask("/v2/stream/s", ip)
        await again.opened()
        assert (await client.answer("/v2/stream/s", headers=ip)).status == 429
        await embedded.produce(topic, {"n": 1})
        assert [d["n"] for d in await two.events(1)] == [1]
        assert [d["n"] for d in await again.events(1)] == [1]
    await nothing_runs(gateway)


async def test_a_stalled_stream_that_is_taken_back_ends_at_once(embedded: Site) -> None:
    async with served(embedded, window=WINDOW) as (topic, gateway, client):
        await embedded.produce(topic, *[{"pad": "x" * 10_000}] * 10)
        stuck = client.ask("/v2/stream/s?since=0", SSE, stalls=True)
        await stuck.until(lambda it: len(it.body) == WINDOW)
        stuck.take_back()
        await gateway.until("streams_ended_total", 1, reason="disconnected")
        await nothing_runs(gateway)


async def test_a_connection_that_breaks_ends_all_its_streams(embedded: Site) -> None:
    async with served(embedded) as (_, gateway, client):
        for stream in [client.ask("/v2/stream/s", SSE) for _ in range(5)]:
            await stream.opened()
        client.writer.transport.abort()
        await gateway.until("streams_ended_total", 5, reason="disconnected")
        await nothing_runs(gateway)
        assert not gateway.server.server_state.connections


async def test_compressed_streams_are_decoded_as_they_come(embedded: Site) -> None:
    async with served(embedded) as (topic, _, client):
        headers = {**SSE, "accept-encoding": "gzip"}
        streams = [client.ask("/v2/stream/s?compress=gzip", headers) for _ in range(2)]
        for n in range(5):
            if n == 0:
                for stream in streams:
                    await stream.until(lambda it: bool(it.body))
                    assert stream.get("content-encoding") == "gzip"
            await embedded.produce(topic, {"n": n, "pad": "ä" * 3_000})
            for stream in streams:
                await stream.until(lambda it, n=n: inflated(it.body).count(b"\nid: ") == n + 1)


def inflated(body: bytes) -> bytes:
    return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body)


async def test_a_request_without_a_body_has_an_empty_one(embedded: Site) -> None:
    async with served(embedded) as (_, _, client):
        kind = {"content-type": "application/json"}
        assert (await client.answer("/v1/events", headers=kind, method="POST")).status == 400


async def test_a_large_body_is_read_beside_a_stream(embedded: Site) -> None:
    async with served(embedded) as (topic, _, client):
        stream = client.ask("/v2/stream/s", SSE)
        await stream.opened()
        kind = {"content-type": "application/json"}
        post = client.ask("/v1/events", kind, method="POST", open_ended=True)
        for _ in range(40):
            await post.until(lambda it: client.h2.local_flow_control_window(it.number) > 16_000)
            client.h2.send_data(post.number, b" " * 16_000)
            client.flush()
        client.h2.send_data(post.number, b"nothing", end_stream=True)
        client.flush()
        await post.over()
        assert post.status == 400
        await embedded.produce(topic, {"n": 1})
        assert [d["n"] for d in await stream.events(1)] == [1]


async def test_a_body_that_nobody_reads_does_not_stop_the_connection(embedded: Site) -> None:
    async with served(embedded, window=WINDOW) as (topic, _, client):
        await embedded.produce(topic, *[{"n": n, "pad": "x" * 10_000} for n in range(20)])
        odd = client.ask("/v2/stream/s?since=0", SSE, stalls=True, open_ended=True)
        await odd.until(lambda it: len(it.body) == WINDOW)
        for _ in range(20):
            await odd.until(lambda it: client.h2.local_flow_control_window(it.number) > 16_000)
            client.h2.send_data(odd.number, b"x" * 16_000)
            client.flush()
        odd.resume()
        assert [d["n"] for d in await odd.events(20)] == list(range(20))


async def test_cookies_that_come_one_by_one_are_one_header(embedded: Site) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(pair for pair in scope["headers"] if pair[0] == b"cookie")
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with served(embedded) as (_, gateway, client):
        assert (await client.answer("/healthz")).status == 200
        connection_of(gateway).app = app
        await client.answer("/", cookies=("a=1", "b=2", "c=3"))
        assert seen == [(b"cookie", b"a=1; b=2; c=3")]


async def test_pages_and_refusals_are_those_of_http_1(embedded: Site) -> None:
    async with served(embedded) as (_, gateway, client):
        for target in ("/healthz", "/v2/streams", "/nope", "/v2/stream/nope", "/v2/ui/", "*", "x"):
            answer = await client.answer(target)
            if target.startswith("/"):
                plain = await gateway.get(target)
                assert answer.status == plain.status
                if answer.status == 200:
                    assert bytes(answer.body) == plain.body
            assert answer.ended
            assert answer.reset is None
        head = await client.answer("/v2/stream/s", headers=SSE, method="HEAD")
        assert (head.status, bytes(head.body), head.ended) == (200, b"", True)


# The end.


async def test_draining_ends_each_stream_whole_and_closes_the_connection(embedded: Site) -> None:
    async with served(embedded, drain_s=1.0) as (topic, gateway, client):
        streams = [client.ask("/v2/stream/s", SSE) for _ in range(5)]
        for stream in streams:
            await stream.opened()
        await embedded.produce(topic, {"n": 1})
        for stream in streams:
            await stream.events(1)
        await gateway.server.drain()
        for stream in streams:
            assert stream.ended
            assert re.fullmatch(rb"retry: [1-8]\d\d\d\n", stream.parts[-1])
        await client.end()
        assert client.goaway is not None
        assert client.goaway.error_code == 0
        assert gateway.count("streams_ended_total", reason="drained") == 5


async def test_a_client_in_the_middle_of_history_gets_whole_frames_and_goes_on_elsewhere(
    embedded: Site,
) -> None:
    async with served(embedded, window=WINDOW, drain_s=3.0) as (topic, gateway, client):
        for _ in range(10):
            await embedded.produce(topic, *[{"pad": "x" * 50_000}] * 5)
        streams = [client.ask("/v2/stream/s?since=0", SSE, stalls=True) for _ in range(5)]
        for stream in streams:
            await stream.until(lambda it: len(it.body) == WINDOW)
        draining = asyncio.create_task(gateway.server.drain())
        async with asyncio.timeout(PATIENCE_S):
            while not gateway.parts.hub.draining:
                await asyncio.sleep(0)
        for stream in streams:
            stream.resume()
        for stream in streams:
            await stream.over()
            assert stream.ended
            assert stream.parts[-1].endswith(b"\n")
            *_, last = bytes(stream.body).split(b"\n\n")
            assert last.startswith(b"retry: ")
        await draining
    async with (
        embedded.gateway({"s": [topic]}, http=PRIOR) as other,
        http2_client(other.port) as client,
    ):
        for stream in streams:
            first = stream.frames
            again = client.ask("/v2/stream/s", {**SSE, "last-event-id": first[-1].id})
            await again.events(50 - len(first))
            assert [frame.place[2] for frame in [*first, *again.frames]] == list(range(50))


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_stalled_resumed_and_taken_back_nothing_is_missed_or_doubled(
    embedded: Site, seed: int
) -> None:
    chance = random.Random(seed)
    async with served(embedded, window=WINDOW, heartbeat_s=0.1) as (topic, gateway, client):
        walks = [[client.ask("/v2/stream/s?since=0", SSE)] for _ in range(12)]
        ids: list[str | None] = [None] * len(walks)
        seen: list[list[int]] = [[] for _ in walks]

        def come_back(i: int) -> None:
            frames = [frame for frame in walks[i][-1].frames if frame.data]
            seen[i] += [frame.document["n"] for frame in frames]
            ids[i] = frames[-1].id if frames else ids[i]
            start = "?since=0" if ids[i] is None else ""
            headers = SSE if ids[i] is None else {**SSE, "last-event-id": ids[i] or ""}
            walks[i].append(client.ask(f"/v2/stream/s{start}", headers))

        for n in range(80):
            await embedded.produce(topic, {"n": n, "pad": "x" * chance.randrange(12_000)})
            i = chance.randrange(len(walks))
            stream = walks[i][-1]
            if stream.stalls:
                stream.resume()
            elif chance.random() < 0.6:
                stream.stalls = True
            else:
                stream.take_back()
                come_back(i)
            await client.heard()
        for i, walk in enumerate(walks):
            walk[-1].resume()
            await walk[-1].events(80 - len(seen[i]))
            assert seen[i] + [d["n"] for d in walk[-1].documents] == list(range(80))
        assert client.goaway is None
    await nothing_runs(gateway)


async def test_a_stalled_stream_does_not_keep_a_process_that_is_to_stop(embedded: Site) -> None:
    async with served(embedded, window=WINDOW, drain_s=1.0) as (topic, gateway, client):
        await embedded.produce(topic, *[{"pad": "x" * 10_000}] * 10)
        stuck = client.ask("/v2/stream/s?since=0", SSE, stalls=True)
        await stuck.until(lambda it: len(it.body) == WINDOW)
        async with asyncio.timeout(PATIENCE_S):
            await gateway.server.drain()
        await client.end()
        assert not gateway.server.server_state.connections
