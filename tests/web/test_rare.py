"""With a filter that rarely matches, a reconnect does not read all history again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventstreams.filters.selector import Selector
from eventstreams.model.event import Record
from tests.support.client import Frame
from tests.support.gateway import T0, Served, Site
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

EVENTS = 60_000
RARE = (15_000, 59_990)
MOST = 40_000
_AT_ONCE = 20_000
_ALIGN = 256
"""Reads of the log begin at multiples of this, so that they can be shared."""


async def fill(site: Site) -> str:
    topic = await site.topic()
    common, rare = b'{"kind":"common"}', b'{"kind":"rare"}'
    for first in range(0, EVENTS, _AT_ONCE):
        offsets = range(first, first + _AT_ONCE)
        values = (rare if offset in RARE else common for offset in offsets)
        await site.log.append([Record(topic, value, None, T0, 0) for value in values])
    return topic


class Client:
    """A client that reconnects with its last id, like a browser."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.last_id: str | None = None
        self.got: list[Frame] = []

    @property
    def offset(self) -> int:
        assert self.last_id is not None
        return Frame("", "", self.last_id).position[self.topic, 0]

    async def read(self, gateway: Served, *, until: int) -> None:
        """Read up to the first id, and then disconnect."""
        query = {"filter": 'event.kind == "rare"', "since": "earliest", "heartbeat": "checkpoint"}
        async with (
            asyncio.timeout(2 * PATIENCE_S),
            gateway.stream("s", last_event_id=self.last_id, **query) as stream,
        ):
            while self.last_id is None or self.offset < until:
                frame = await stream.frame()
                self.last_id = frame.id
                self.got += [frame] if frame.event == "message" else []


async def test_a_rare_filter_resumes_without_rereading_history(
    embedded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0
    select = Selector.select

    def counting(self: Selector, *arguments: Any) -> bytes | None:
        nonlocal looked_at
        looked_at += 1
        return select(self, *arguments)

    monkeypatch.setattr(Selector, "select", counting)
    topic = await fill(embedded)
    client = Client(topic)
    async with embedded.gateway({"s": [topic]}, heartbeat_s=0.01, filter_share=1.0) as gateway:
        await client.read(gateway, until=MOST)
        assert [frame.place[2] for frame in client.got] == [RARE[0]]
        assert MOST <= client.offset < EVENTS, "disconnected in history"
    cut_at, looked_at = client.offset, 0
    async with embedded.gateway({"s": [topic]}, heartbeat_s=0.01, filter_share=1.0) as gateway:
        await client.read(gateway, until=EVENTS)
        assert looked_at == EVENTS - cut_at
        assert 0 < gateway.count("history_events_total") <= EVENTS - cut_at + cut_at % _ALIGN
    assert [frame.place[2] for frame in client.got] == list(RARE)
