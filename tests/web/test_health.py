"""Readiness says whether this gateway can serve clients, and what it cannot serve."""

from __future__ import annotations

import pytest

from eventstreams.model.event import Partition
from eventstreams.web.pages import Health
from tests.support.fanout import serving
from tests.support.gateway import Site
from tests.support.partial_log import PartialLog
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

WELL = {"ready": True, "log": "ok", "unreachable": [], "fed": True, "draining": False}


async def test_with_a_reachable_log_it_is_healthy_and_ready(site: Site) -> None:
    topic = await site.topic()
    async with site.gateway({"s": [topic]}) as gateway:
        assert (await gateway.get("/healthz")).status == 200
        async with gateway.stream("s"):
            ready = await gateway.get("/readyz")
    assert ready.status == 200
    assert ready.json() == WELL


async def test_it_is_ready_while_any_partition_is_reachable() -> None:
    log = PartialLog()
    await log.create_topic("t", 12)
    lost = [Partition("t", n) for n in (2, 10)]
    async with serving(log, ["t"]) as gateway:
        health = Health(gateway.hub)

        assert health.state() == WELL
        log.lose(*lost)
        await until(lambda: len(health.state()["unreachable"]) == 2)
        assert health.state() == {**WELL, "unreachable": ["t/2", "t/10"]}
        log.lose(*(Partition("t", n) for n in range(12)))
        await until(lambda: len(health.state()["unreachable"]) == 12)
        assert not health.state()["ready"]
        assert "t/0 and 11 more are unreachable" in health.state()["log"]
