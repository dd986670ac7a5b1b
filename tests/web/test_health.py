"""Readiness: whether clients are well served here, and what is not."""

from __future__ import annotations

import asyncio

import pytest

from eventstreams.model.event import Partition
from eventstreams.web.health import Health
from tests.fanout.gateway import PATIENCE_S, serving
from tests.fanout.partial_log import PartialLog
from tests.web.gateway import Site

pytestmark = pytest.mark.anyio

WELL = {"ready": True, "log": "ok", "unreachable": [], "fed": True, "draining": False}


async def test_health_is_well_and_ready_on_a_log_in_reach(site: Site) -> None:
    topic = await site.topic()
    async with site.gateway({"s": [topic]}) as gateway:
        assert (await gateway.get("/healthz")).status == 200
        async with gateway.stream("s"):
            ready = await gateway.get("/readyz")
    assert ready.status == 200
    assert ready.json() == WELL


async def test_ready_while_any_partition_can_be_served_and_the_others_are_named() -> None:
    log = PartialLog()
    await log.create_topic("t", 12)
    lost = [Partition("t", n) for n in (2, 10)]
    async with serving(log, ["t"]) as gateway:
        health = Health(gateway.hub)

        async def until(unreachable: int) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while len(health.state()["unreachable"]) != unreachable:
                    await asyncio.sleep(0)

        assert health.state() == WELL
        log.lose(*lost)
        await until(2)
        assert health.state() == {**WELL, "unreachable": ["t/2", "t/10"]}
        log.lose(*(Partition("t", n) for n in range(12)))
        await until(12)
        assert not health.state()["ready"]
        assert "t/0 and 11 more are out of reach" in health.state()["log"]
