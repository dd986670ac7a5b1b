"""A start from an id of very many partitions, and its first frames, pause for other work."""

from __future__ import annotations

import asyncio

import pytest

from eventstreams.fanout.resume import gap_document, gap_document_in_steps
from eventstreams.fanout.spec import Format, everything
from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Partition, Record
from eventstreams.model.position import EARLIEST, LATEST, PartitionCursor, Position
from eventstreams.turns import Turns
from tests.support.fanout import Gateway, serving

pytestmark = pytest.mark.anyio

COUNT = 4_000
FORMS = {
    "behind": (0, None),
    "at the end": (1, 1_700_000_000_000),
    "beyond the end": (9, 1_700_000_000_000),
    "earliest": (EARLIEST, None),
    "latest": (LATEST, None),
    "a time": (None, 1_600_000_000_000),
}


async def many() -> MemoryLog:
    log = MemoryLog()
    await log.create_topic("t", COUNT)
    await log.append([Record("t", b"{}", None, 1_700_000_000_000, n) for n in range(COUNT)])
    return log


def watch(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the clients in whose turns the resolver continues, one for each pause."""
    paused: list[str] = []
    turns: Turns = gateway.start_resolver._turns
    pause = turns.pause

    async def noted(client: str) -> None:
        paused.append(client)
        await pause(client)

    monkeypatch.setattr(turns, "pause", noted)
    return paused


@pytest.mark.parametrize("form", FORMS)
async def test_a_start_from_many_partitions_takes_many_turns(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset, timestamp_ms = FORMS[form]
    async with serving(await many(), ["t"]) as gateway:
        paused = watch(gateway, monkeypatch)
        selection = gateway.streams._catalogue_watcher.catalogue.resolve(["t"])
        marks = [PartitionCursor(Partition("t", n), offset, timestamp_ms) for n in range(COUNT)]
        start = await gateway.start_resolver.start(
            selection, everything(Format.SSE), cursors=marks, since_ms=None, client="a"
        )
        few = len(paused)
        await gateway.start_resolver.start(
            selection, everything(Format.SSE), cursors=marks[:9], since_ms=None, client="a"
        )
    at = 1 if form in ("at the end", "latest") else 0
    assert set(start.position.offsets) == {at}
    assert len(start.gaps) == (COUNT if form == "beyond the end" else 0)
    assert set(paused) == {"a"}
    assert len(paused) == few >= 4


async def test_gaps_of_many_partitions_are_described_in_steps() -> None:
    async with serving(await many(), ["t"]) as gateway:
        selection = gateway.streams._catalogue_watcher.catalogue.resolve(["t"])
        marks = [PartitionCursor(Partition("t", n), 9, None) for n in range(COUNT)]
        start = await gateway.start_resolver.start(
            selection, everything(Format.SSE), cursors=marks, since_ms=None, client="a"
        )
    assert sum(1 for _ in gap_document_in_steps(start.gaps)) == COUNT // 256
    document = gap_document(start.gaps)
    assert document["partitions"] == [gap.document() for gap in start.gaps]


async def test_a_subscription_that_gains_nothing_keeps_its_spec_and_position() -> None:
    async with serving(await many(), ["t"]) as gateway:
        start = await gateway.start("t")
        grown = gateway.hub.grown(start.spec, start.position)
        assert grown[0] is start.spec
        assert grown[1] is start.position
        fewer = start.spec._replace(partitions=start.spec.partitions[:-2])
        short = Position(fewer.partitions, (5,) * (COUNT - 2), (6,) * (COUNT - 2))
        spec, position = gateway.hub.grown(fewer, short)
    assert spec.partitions == start.spec.partitions
    assert position.offsets == (*short.offsets, 0, 0)


async def test_a_pause_lets_other_work_run_and_charges_before_it_waits() -> None:
    clock = iter(range(10**6))
    turns = Turns(clock=lambda: float(next(clock)))  # every step takes longer than a turn
    order: list[str] = []

    async def work(name: str) -> None:
        for _ in range(3):
            order.append(name)
            await turns.pause(name)

    await asyncio.gather(turns.run("a", work("a")), turns.run("b", work("b")))
    assert order == ["a", "b", "a", "b", "a", "b"]
