"""10,000 clients, each with its own filter; 2,000 filters that cannot be indexed; their memory.

In the first part each client's filter names a wiki and a user, as a bot's would, and matches a
tenth of a percent of 50 recent changes a second. The feed is part of the gateway's processor
time. Heartbeats are turned off there and measured apart. In the second part 2,000 filters search
the comment, and 200 clients without a filter are measured beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple
from urllib.parse import quote

import orjson

from bench import events
from bench.child import Child, ChildFailed
from bench.figures import Figure, at_least, at_most
from bench.filters import Change, Client, literal
from bench.machine import cpu_s, memory_kib
from bench.stage import PATH, Stage

FEW, MANY, RATE = 1_000, 10_000, 50
SCANNING, PLAIN = 2_000, 200
MEASURE_S = 15.0
_WARM_S = 3.0
_SETTLE_S = 2.0
"""For clients that get an event after others."""
_PATIENCE_S = 300.0
_AT_ONCE = 50
"""How many clients connect at the same time."""
_NO_HEARTBEATS = {"fanout": {"heartbeat_s": 86_400}}
_UNBOUNDED = {"limits": {"connections_max": 16_000}}


def run(stage: Stage) -> list[Figure]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    many = 3_000 if stage.quick else MANY
    few_us, many_us, share, p99_ms, delivered = [], [], [], [], []
    plain_ms, beside_ms, lost, ended, scanning = [], [], [], [], []
    spec_kib, heartbeats = [], []
    for _ in stage.runs(3):
        few = _own(stage, many // 10)
        found = _own(stage, many)
        few_us.append(few.us_per_event)
        many_us.append(found.us_per_event)
        share.append(found.share)
        p99_ms.append(found.p99_ms)
        delivered.append(min(few.delivered, found.delivered))
        alone = _beside(stage, 0)
        beside = _beside(stage, SCANNING // (4 if stage.quick else 1))
        plain_ms.append(alone.p99_ms)
        beside_ms.append(beside.p99_ms)
        scanning.append(beside.filters_share)
        lost.append(alone.lost + beside.lost)
        ended.append(beside.ended)
    for _ in stage.runs(1):
        memory = _memory(stage, many)
        spec_kib.append(memory.kib_per_spec)
        heartbeats.append(memory.idle_share)
    ratio = [a / b for a, b in zip(many_us, few_us, strict=True)]
    return [
        Figure(f"{many // 10} filters, processor time per event", few_us, "us"),
        Figure(f"{many} filters, processor time per event", many_us, "us"),
        Figure(f"{many} filters / {many // 10}", ratio, "x", at_most(2)),
        Figure(f"{many} filters, processor, of one core", share, "", at_most(1)),
        Figure(f"{many} filters, latency, p99", p99_ms, "ms", at_most(250)),
        Figure("exactly the right events", delivered, "%", at_least(100)),
        Figure(f"{PLAIN} clients without a filter, latency, p99", plain_ms, "ms"),
        Figure("... beside filters that cannot be indexed", beside_ms, "ms", at_most(150)),
        Figure("these filters, processor, of one core", scanning, ""),
        Figure("of these filters, ended", ended),
        Figure("events lost or doubled", lost, "", at_most(0)),
        Figure("memory per different filter, beside its connection", spec_kib, "KiB", at_most(6)),
        Figure(f"heartbeats of {many} filters, processor, of one core", heartbeats),
    ]


class _Own(NamedTuple):
    share: float
    us_per_event: float
    p99_ms: float
    delivered: float
    """Per cent of the matching events; 0 if a client received others or duplicates."""


def _own(stage: Stage, count: int) -> _Own:
    settings = {**_NO_HEARTBEATS, **_UNBOUNDED}
    with stage.gateway(feed=RATE, edits=True, settings=settings) as (gateway, port):
        return asyncio.run(_measure_own(port, gateway, count, stage.seconds(MEASURE_S)))


async def _measure_own(port: int, gateway: Child, count: int, seconds: float) -> _Own:
    pairs = [events.wiki_and_user(n) for n in range(count)]
    clients = [Client(f"{PATH}?filter={quote(_filter(n, *pair))}") for n, pair in enumerate(pairs)]
    everything = Client(PATH, keeps_bodies=True)
    async with _reading(port, [*clients, everything]):
        await asyncio.sleep(_WARM_S)
        for client in (*clients, everything):
            client.late_ms.clear()
        first, began, used = max(everything.seqs, default=0), time.monotonic(), cpu_s(gateway.pid)
        await asyncio.sleep(seconds)
        used, took_s = cpu_s(gateway.pid) - used, time.monotonic() - began
        last = max(everything.seqs)
        await asyncio.sleep(_SETTLE_S)
    changes = _changes(everything, first, last)
    due = defaultdict[tuple[str, str], list[int]](list)
    for seq, change in changes.items():
        due[change["wiki"], change["user"]].append(seq)
    got = expected = 0
    for client, pair in zip(clients, pairs, strict=True):
        mine = [seq for seq in client.seqs if seq in changes]
        if mine != [seq for seq in due[pair] if seq in set(mine)]:
            return _Own(1.0, 0.0, 0.0, 0.0)
        got += len(mine)
        expected += len(due[pair])
    assert expected, "filters that match nothing measure nothing"
    late_ms = sorted(ms for client in clients for ms in client.late_ms)
    return _Own(
        share=used / took_s,
        us_per_event=used / max(1, last - first) * 1e6,
        p99_ms=_p99(late_ms),
        delivered=100 * got / expected,
    )


class _Beside(NamedTuple):
    p99_ms: float
    filters_share: float
    """The share of one core that choosing events took."""
    ended: float
    lost: float


def _beside(stage: Stage, count: int) -> _Beside:
    with stage.gateway(feed=RATE, unlike=True, settings=_UNBOUNDED) as (gateway, port):
        return asyncio.run(_measure_beside(port, gateway, count, stage.seconds(MEASURE_S)))


async def _measure_beside(port: int, gateway: Child, count: int, seconds: float) -> _Beside:
    texts = [f"event.comment.contains('no comment has {n} in it')" for n in range(count)]
    scanning = [Client(f"{PATH}?filter={quote(text)}") for text in texts]
    plain = [Client(PATH) for _ in range(PLAIN)]
    async with _reading(port, [*scanning, *plain], may_end=True):
        await asyncio.sleep(_WARM_S)
        for client in plain:
            client.late_ms.clear()
        first, before, began = max(plain[0].seqs), _filter_s(gateway), time.monotonic()
        await asyncio.sleep(seconds)
        spent_s, took_s = _filter_s(gateway) - before, time.monotonic() - began
        last = max(plain[0].seqs)
        await asyncio.sleep(_SETTLE_S)
        metrics = gateway.ask("metrics")
    due = list(range(first + 1, last + 1))
    got = [[seq for seq in client.seqs if first < seq <= last] for client in plain]
    late_ms = sorted(ms for client in plain for ms in client.late_ms)
    ended = metrics.get("eventstreams_streams_ended_total filter_error", 0.0)
    return _Beside(_p99(late_ms), spent_s / took_s, ended, float(sum(g != due for g in got)))


class _Memory(NamedTuple):
    kib_per_spec: float
    idle_share: float


def _memory(stage: Stage, count: int) -> _Memory:
    with stage.gateway(settings=_UNBOUNDED) as (gateway, port):
        return asyncio.run(_measure_memory(port, gateway, count, stage.seconds(30.0)))


async def _measure_memory(port: int, gateway: Child, count: int, seconds: float) -> _Memory:
    warm = [Client(f"{PATH}?filter={quote(_filter(-1, 'w', 'u'))}"), Client(PATH)]
    async with _reading(port, warm):
        gateway.ask("report trimmed")
    async with _reading(port, [Client(PATH) for _ in range(count)]):
        gateway.ask("report trimmed")
        plain_kib = memory_kib(gateway.pid)
    pairs = [events.wiki_and_user(n) for n in range(count)]
    async with _reading(
        port, [Client(f"{PATH}?filter={quote(_filter(n, *pair))}") for n, pair in enumerate(pairs)]
    ):
        gateway.ask("report trimmed")
        filtered_kib = memory_kib(gateway.pid)
        began, used = time.monotonic(), cpu_s(gateway.pid)
        await asyncio.sleep(seconds)
        idle_share = (cpu_s(gateway.pid) - used) / (time.monotonic() - began)
    return _Memory((filtered_kib - plain_kib) / count, idle_share)


@contextlib.asynccontextmanager
async def _reading(
    port: int, clients: Sequence[Client], *, may_end: bool = False
) -> AsyncGenerator[None]:
    """Have all clients read for the length of the block; they connect in this order."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def opened(client: Client) -> None:
        async with gate:
            await client.open(port)

    async def read(client: Client) -> None:
        try:
            await client.read()
        except (ChildFailed, asyncio.IncompleteReadError):
            if not may_end:
                raise

    try:
        async with asyncio.timeout(_PATIENCE_S), asyncio.TaskGroup() as opening:
            for client in clients:
                opening.create_task(opened(client))
        gc.freeze()
        async with asyncio.TaskGroup() as reading:
            tasks = [reading.create_task(read(client)) for client in clients]
            yield
            for task in tasks:
                task.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    finally:
        gc.unfreeze()
        for client in clients:
            client.close()


def _filter(n: int, wiki: str, user: str) -> str:
    """Return a filter of its own for each `n`; the last part is true for all events."""
    return f"event.wiki == {literal(wiki)} && event.user == {literal(user)} && event.seq > {n}"


def _changes(everything: Client, first: int, last: int) -> dict[int, Change]:
    seqs = [seq for seq in everything.seqs if first < seq <= last]
    return {seq: orjson.loads(everything.bodies[seq]) for seq in seqs}


def _filter_s(gateway: Child) -> float:
    found: float = gateway.ask("metrics")["eventstreams_filter_seconds_total"]
    return found


def _p99(late_ms: Sequence[float]) -> float:
    return late_ms[len(late_ms) * 99 // 100] if late_ms else 0.0
