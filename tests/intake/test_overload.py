"""Under overload, requests are refused before their bodies are read, and memory is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import IntakeFull, IntakeShareUsed, RetryLater
from eventstreams.intake.admission import Admission
from tests.support.client import connected
from tests.support.intake import event, place
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

_HEAD = (
    b"POST /v1/events HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)


async def test_without_memory_requests_get_503_during_their_body(
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
        second.writer.write(_HEAD % len(body) + body[:20_000])  # the rest is never sent
        head = await second.head()
        assert head.status == 503
        assert int(head.get("retry-after") or "") >= 1
        first.writer.write(body[-100:])
        assert (await first.head()).status == 201
        assert (await here.post(event())).status_code == 201
        assert here.parts.intake.admission.bytes == 0


async def test_an_announced_length_reserves_no_memory(tmp_path: Path) -> None:
    heads = [_HEAD % 4_000_000, _HEAD.replace(b"content-length: %d", b"transfer-encoding: chunked")]
    async with (
        place(tmp_path, in_flight_bytes_max=100_000) as here,
        contextlib.AsyncExitStack() as stack,
    ):
        for n in range(200):
            client = await stack.enter_async_context(connected(here.served.port))
            client.writer.write(heads[n % 2])
        tasks = here.served.server.server_state.tasks
        async with asyncio.timeout(PATIENCE_S):  # on a busy machine, some have timed out already
            while len(tasks) + here.served.count("intake_requests_total", status="408") < 200:
                assert here.parts.intake.admission.bytes == 0
                await asyncio.sleep(0.005)
        assert here.parts.intake.admission.bytes == 0
        assert (await here.post(event())).status_code == 201


async def test_small_gzip_bodies_use_little_memory(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(event()).encode())
    headers = {"content-encoding": "gzip"}
    async with place(tmp_path) as here:
        posts = [here.post(packed, headers=headers) for _ in range(60)]
        assert {answer.status_code for answer in await asyncio.gather(*posts)} == {201}
        assert here.parts.intake.admission.bytes == 0


async def test_a_missing_body_times_out(tmp_path: Path) -> None:
    async with (
        place(tmp_path, body_timeout_s=0.2) as here,
        connected(here.served.port) as client,
    ):
        client.writer.write(_HEAD % 1000 + b"[")
        assert (await client.head()).status == 408
        assert here.parts.intake.admission.bytes == 0


async def test_a_disconnect_during_a_body_leaves_nothing(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        async with connected(here.served.port) as client:
            client.writer.write(_HEAD % 1000 + json.dumps(event()).encode())
            async with asyncio.timeout(PATIENCE_S):
                while not here.parts.intake.admission.bytes:
                    await asyncio.sleep(0.005)
        await here.served.until("intake_requests_total", 1, status="499")
        assert here.parts.intake.admission.bytes == 0
        assert await here.documents() == []


async def test_a_content_length_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    async with (
        place(tmp_path, body_bytes_max=1000) as here,
        connected(here.served.port) as client,
    ):
        client.writer.write(_HEAD % 10_000)
        assert (await client.head()).status == 413


async def test_an_oversized_gzip_body_is_refused(
    tmp_path: Path,
) -> None:
    async with place(tmp_path, body_bytes_max=100_000) as here:
        packed = gzip.compress(b"[" + b" " * 50_000_000 + b"]")
        assert len(packed) < 100_000
        answer = await here.post(packed, headers={"content-encoding": "gzip"})
        assert answer.status_code == 413


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 200_000)), max_size=30))
def test_leases_are_returned_and_shares_are_kept(
    posts: list[tuple[str, int]],
) -> None:
    whole, share, bodies = 200_000, 100_000, 4
    admission = Admission(bytes_max=whole, client_bytes_max=share, client_bodies_max=bodies)
    held: list[tuple[str, int, contextlib.ExitStack]] = []
    errors: list[RetryLater] = []
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
