"""Batches rendered for one client that pulls are cached for others while they are current."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest

from eventstreams.fanout import catch_up as catch_up_module
from eventstreams.fanout.batch import Batch, EncodedBatch, encode_batch
from eventstreams.fanout.compression import Encoding
from eventstreams.fanout.spec import Format, SubscriptionSpec
from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Partition, Record
from eventstreams.model.position import Position
from eventstreams.model.redaction import Redaction, Rule
from tests.support.fanout import serving

pytestmark = pytest.mark.anyio

P = Partition("t", 0)
WANT = SubscriptionSpec((P,), frozenset({"t"}), Format.SSE)


async def test_a_batch_rendered_before_a_redaction_is_neither_sent_nor_cached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    event = {"meta": {"domain": "example.org"}, "page_title": "Secret"}
    await log.append([Record("t", json.dumps(event).encode(), partition=0)])
    rule = Rule(domain="example.org", titles=("Secret",), remove=("page_title",))
    async with serving(log, ["t"]) as gateway:
        hub = gateway.hub
        start = Position((P,), (0,), (0,))

        def interrupted(chunk: Batch, encoding: Encoding) -> Generator[None, None, EncodedBatch]:
            """Add the rule while the batch is encoded."""
            hub.redact({"t": Redaction([rule])})
            yield
            return (yield from encode_batch(chunk, encoding))

        monkeypatch.setattr(catch_up_module, "encode_batch", interrupted)
        for client in ("early", "late"):
            found = await hub.catch_up.read(WANT, start, (1,), None, client=client)
            assert found.piece is not None
            assert found.piece.events == 1
            assert b"Secret" not in found.piece.content


async def test_batches_of_records_that_changed_meanwhile_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    await log.append([Record("t", b"{}", partition=0)])
    rendered: list[Batch] = []
    async with serving(log, ["t"]) as gateway:
        catch_up = gateway.hub.catch_up

        def interrupted(chunk: Batch, encoding: Encoding) -> Generator[None, None, EncodedBatch]:
            if not rendered:
                catch_up.forget(P)  # the log was truncated after the records had been read
            rendered.append(chunk)
            return (yield from encode_batch(chunk, encoding))

        monkeypatch.setattr(catch_up_module, "encode_batch", interrupted)
        await catch_up.read(WANT, Position((P,), (0,), (0,)), (1,), None, client="early")
        before = len(rendered)
        for _ in range(2):
            await catch_up.read(WANT, Position((P,), (0,), (0,)), (1,), None, client="late")
        assert len(rendered) == before + 1, "the first of these two is kept"
