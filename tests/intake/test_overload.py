"""Under overload requests are refused before their bodies are read; nothing grows without bound."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import IntakeFull, IntakeShareUsed, Later
from eventstreams.intake.admission import Admission
from tests.intake.place import event, place
from tests.web.client import PATIENCE_S, connected

pytestmark = pytest.mark.anyio

_HEAD = (
    b"POST /v1/events HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)


async def test_beyond_what_may_be_under_way_requests_get_503_in_the_middle_of_their_body(
    tmp_path: Path,
) -> None:
    async with (
        place(tmp_path, in_flight_bytes_max=100_000) as here,
        connected(here.served.port) as first,
        connected(here.served.port) as second,
    ):
        body = json.dumps([event("x" * 90_000)]).encode()
        first.writer.write(_HEAD % len(body) + body[:-100])
        async with asyncio.timeout(PATIENCE_S):
            while here.parts.intake.admission.bytes < 80_000:
                await asyncio.sleep(0.005)
        second.writer.write(_HEAD % len(body) + body[:20_000])  # and no more of the body
        head = await second.head()
        assert head.status == 503
        assert int(head.get("retry-after") or "") >= 1
        first.writer.write(body[-100:])
        assert (await first.head()).status == 201
        assert (await here.post(event())).status_code == 201
        assert here.parts.intake.admission.bytes == 0


async def test_who_only_says_how_much_will_come_keeps_nobody_out(tmp_path: Path) -> None:
    heads = [_HEAD % 4_000_000, _HEAD.replace(b"content-length: %d", b"transfer-encoding: chunked")]
    async with (
        place(tmp_path, in_flight_bytes_max=100_000) as here,
        contextlib.AsyncExitStack() as stack,
    ):
        for n in range(200):
            client = await stack.enter_async_context(connected(here.served.port))
            client.writer.write(heads[n % 2])
        async with asyncio.timeout(PATIENCE_S):
            while len(here.served.server.server_state.tasks) < 200:
                await asyncio.sleep(0.005)
        assert here.parts.intake.admission.bytes == 0
        assert (await here.post(event())).status_code == 201


async def test_small_bodies_in_gzip_take_no_more_room_than_they_need(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(event()).encode())
    headers = {"content-encoding": "gzip"}
    async with place(tmp_path) as here:
        posts = [here.post(packed, headers=headers) for _ in range(60)]
        assert {answer.status_code for answer in await asyncio.gather(*posts)} == {201}
        assert here.parts.intake.admission.bytes == 0


async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async with (
        place(tmp_path, body_timeout_s=0.2) as here,
        connected(here.served.port) as client,
    ):
        client.writer.write(_HEAD % 1000 + b"[")
        assert (await client.head()).status == 408
        assert here.parts.intake.admission.bytes == 0


async def test_who_hangs_up_in_the_middle_posts_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        async with connected(here.served.port) as client:
            client.writer.write(_HEAD % 1000 + json.dumps(event()).encode())
            async with asyncio.timeout(PATIENCE_S):
                while not here.parts.intake.admission.bytes:
                    await asyncio.sleep(0.005)
        await here.served.until("intake_requests_total", 1, status="499")
        assert here.parts.intake.admission.bytes == 0
        assert await here.documents() == []


async def test_a_length_beyond_the_limit_is_refused_at_once(tmp_path: Path) -> None:
    async with (
        place(tmp_path, body_bytes_max=1000) as here,
        connected(here.served.port) as client,
    ):
        client.writer.write(_HEAD % 10_000)
        assert (await client.head()).status == 413


async def test_gzip_that_unpacks_to_more_than_a_body_may_have_is_not_unpacked(
    tmp_path: Path,
) -> None:
    async with place(tmp_path, body_bytes_max=100_000) as here:
        packed = gzip.compress(b"[" + b" " * 50_000_000 + b"]")
        assert len(packed) < 100_000
        answer = await here.post(packed, headers={"content-encoding": "gzip"})
        assert answer.status_code == 413


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 200_000)), max_size=30))
def test_leases_are_returned_and_nobody_gets_more_than_a_share(
    posts: list[tuple[str, int]],
) -> None:
    whole, share, bodies = 200_000, 100_000, 4
    admission = Admission(bytes_max=whole, client_bytes_max=share, client_bodies_max=bodies)
    held: list[tuple[str, int, contextlib.ExitStack]] = []
    errors: list[Later] = []
    for site, size in posts:
        before = admission.bytes
        mine = [taken for of, taken, _ in held if of == site]
        took = max(size, 16 * 1024)
        lease = contextlib.ExitStack()
        try:
            lease.enter_context(admission.lease(site)).cover(size)
        except IntakeShareUsed as error:
            lease.close()
            errors.append(error)
            assert mine
            assert len(mine) == bodies or sum(mine) + took > share
        except IntakeFull as error:
            lease.close()
            errors.append(error)
            assert before + took > whole - whole // 8
            assert before + took > whole or sum(mine) + took > 64 * 1024
        else:
            held.append((site, took, lease))
            assert len(mine) < bodies or not before
            assert not before or admission.bytes <= whole
            assert not mine or before == sum(mine) == 0 or sum(mine) + took <= share
        assert admission.bytes == sum(taken for _, taken, _ in held)
    assert all(error.retry_after_s for error in errors)
    for _, _, lease in held:
        lease.close()
    assert admission.bytes == 0
