"""Our gateway passes every check, on both logs and through each proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eventstreams.verify.target import Target
from tests.support.backends import Backend, Kafka, Sqlite
from tests.support.gateway import Served, Site, site_of
from tests.support.proxies import KINDS, before
from tests.verify.examining import QUICK, examine, failures, skipped, target_at

pytestmark = pytest.mark.anyio

BACKENDS = [pytest.param(kind, id=kind.name, marks=kind.marks) for kind in (Sqlite, Kafka)]
PATIENCE = replace(QUICK, cuts=6)
FIRST_KEPT = 2


def event(stream: str, n: int) -> dict[str, Any]:
    return {"n": n, "meta": {"stream": stream}}


@asynccontextmanager
async def gateway_over(kind: type[Backend]) -> AsyncIterator[tuple[Site, Served, str]]:
    """Run a gateway with the streams `one`, which has lost its first events, and `two`; also yield
    the topic for test events.
    """
    async with site_of(kind) as site:
        one, two = await site.topic(), await site.topic(partitions=2)
        await site.produce(one, *(event("one", n) for n in range(6)))
        await site.forget_before(one, FIRST_KEPT)
        for partition in (0, 1):
            await site.produce(two, event("two", 1), event("two", 2), partition=partition)
        async with site.gateway({"one": [one], "two": [two]}, heartbeat_s=0.5) as gateway:
            yield site, gateway, one


def target_of(site: Site, gateway: Served, topic: str, port: int) -> tuple[Target, list[Any]]:
    """Make a target with its resources."""
    begun: list[asyncio.Task[None]] = []

    async def post(events: list[dict[str, Any]]) -> None:
        await site.produce(topic, *events)

    async def drain() -> None:
        begun.append(asyncio.create_task(gateway.server.drain()))

    names = ["one", "two"]
    target = target_at(
        port, names, patience=PATIENCE, post=post, template=event("one", 0), drain=drain
    )
    return target, begun


@pytest.mark.parametrize("kind", BACKENDS)
async def test_our_gateway_passes_every_check(kind: type[Backend]) -> None:
    async with gateway_over(kind) as (site, gateway, topic):
        target, begun = target_of(site, gateway, topic, gateway.port)
        results = await examine(target)
        await asyncio.gather(*begun)
    assert failures(results) == {}
    assert skipped(results) == {}


@pytest.mark.parametrize("proxy_kind", KINDS)
async def test_our_gateway_passes_every_check_through_a_proxy(
    proxy_kind: str, tmp_path: Path
) -> None:
    async with (
        gateway_over(Sqlite) as (site, gateway, topic),
        before(proxy_kind, gateway, tmp_path) as proxy,
    ):
        target, begun = target_of(site, gateway, topic, proxy.port)
        results = await examine(target)
        await asyncio.gather(*begun)
    assert failures(results) == {}
    assert skipped(results) == {}


async def test_without_posting_live_checks_are_skipped() -> None:
    async with gateway_over(Sqlite) as (_, gateway, _topic):
        results = await examine(target_at(gateway.port, ["one", "two"], patience=PATIENCE))
    assert failures(results) == {}
    reasons = skipped(results)
    assert {"live.prompt", "live.burst", "resume.seam", "resume.while-away"} <= set(reasons)
    assert {name.partition(".")[0] for name in reasons} <= {
        "live",
        "resume",
        "framing",
        "http",
        "drain",
    }
    for name in ("live.prompt", "resume.seam", "framing.separators"):
        assert "--produce" in reasons[name]
    assert "--drain-pid" in reasons["drain.ends"]
