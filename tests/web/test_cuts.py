"""A connection that breaks at any byte: the next one, with the last id, goes on without a seam."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.web.client import PATIENCE_S, Torn
from tests.web.gateway import Served, Site
from tests.wire import frames_of, place_of

pytestmark = pytest.mark.anyio

EVENTS = 240


async def cut(gateway: Served, id_: str | None, bytes_max: int) -> bytes:
    """What a client had when its connection broke after so many bytes of body."""
    headers = {} if id_ is None else {"Last-Event-ID": id_}
    body = b""
    async with gateway.stream("s", headers, since="0") as stream:
        while len(body) < bytes_max:
            try:
                body += await asyncio.wait_for(stream.chunk(), 1.0) or b""
            except TimeoutError:
                break  # nothing more is there
            except Torn:
                break
    return body[:bytes_max]


@pytest.mark.parametrize("seed", range(3))
async def test_resuming_with_the_last_id_loses_and_repeats_nothing_wherever_it_was_cut(
    site: Site, seed: int
) -> None:
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
        producer = asyncio.create_task(producing())
        id_ = None
        async with asyncio.timeout(PATIENCE_S):
            while len(seen) < EVENTS:
                frames = frames_of(await cut(gateway, id_, chance.randrange(1, 15_000)))
                assert {frame.event for frame in frames} <= {"message"}
                seen += [place_of(frame) for frame in frames]
                id_ = frames[-1].id if frames else id_
        await producer
    for topic, partition in places:
        offsets = [offset for t, p, offset in seen if (t, p) == (topic, partition)]
        assert offsets == list(range(EVENTS // 3))
