"""After a disconnect at any byte, resuming with the last id loses and repeats nothing."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.support.client import IncompleteResponse
from tests.support.gateway import Served, Site
from tests.support.waiting import PATIENCE_S
from tests.support.wire import frames_of, place_of

pytestmark = pytest.mark.anyio

EVENTS = 240


async def cut(gateway: Served, id_: str | None, bytes_max: int) -> bytes:
    """Return what a client has received if its connection breaks after this many bytes."""
    headers = {} if id_ is None else {"Last-Event-ID": id_}
    body = b""
    async with gateway.stream("s", headers, since="0") as stream:
        while len(body) < bytes_max:
            try:
                body += await asyncio.wait_for(stream.chunk(), 1.0) or b""
            except TimeoutError:
                break  # no more events
            except IncompleteResponse:
                break
    return body[:bytes_max]


@pytest.mark.parametrize("seed", range(3))
async def test_resuming_after_any_byte_loses_and_repeats_nothing(site: Site, seed: int) -> None:
    chance = random.Random(seed)
    topics = [await site.topic(2), await site.topic(1)]
    places = [(topics[0], 0), (topics[0], 1), (topics[1], 0)]

    async def producing() -> None:
        for n in range(EVENTS):
            topic, partition = places[n % 3]
            value = {"n": n, "text": "é\n" * chance.randrange(40)}
            await site.produce(topic, value, partition=partition, timestamp_ms=1_000 + n // 9)

    seen: list[tuple[str, int, int]] = []
    async with site.gateway({"s": topics}, batch_bytes_max=2_000) as gateway:
        id_ = None
        # In a task group, a failure of the producer ends the test.
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(producing())
            while len(seen) < EVENTS:
                frames = frames_of(await cut(gateway, id_, chance.randrange(1, 15_000)))
                assert {frame.event for frame in frames} <= {"message"}
                seen += [place_of(frame) for frame in frames]
                id_ = frames[-1].id if frames else id_
    for topic, partition in places:
        offsets = [offset for t, p, offset in seen if (t, p) == (topic, partition)]
        assert offsets == list(range(EVENTS // 3))
