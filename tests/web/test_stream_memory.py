"""A stream that has ended leaves nothing for the garbage collector, in which all others wait."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from eventstreams.fanout.subscription import Subscription
from eventstreams.server.http1 import HttpConnection
from tests.support.gateway import Site
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

KINDS = (HttpConnection, RequestResponseCycle, Subscription)


@pytest.fixture
def _no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def existing() -> Counter[str]:
    return Counter(
        kind.__name__ for each in gc.get_objects() for kind in KINDS if isinstance(each, kind)
    )


@pytest.mark.usefixtures("_no_collections")
@pytest.mark.parametrize("query", [{}, {"filter": "event.n > 0"}, {"limit": "1"}])
async def test_an_ended_stream_is_freed_without_a_collection(
    embedded: Site, query: dict[str, str]
) -> None:
    topic = await embedded.topic()
    async with embedded.gateway({"s": [topic]}) as gateway:
        before = existing()
        async with gateway.opened(f"/v2/stream/s?{urlencode(query)}") as stream:
            await stream.opened()
            assert existing() - before
            await embedded.produce(topic, {"n": 1})
            await stream.documents(1)
        del stream
        async with asyncio.timeout(PATIENCE_S):
            while existing() - before:
                await asyncio.sleep(0)
