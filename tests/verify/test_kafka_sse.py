"""KafkaSSE from npm, on which EventStreams is based, fails for known reasons."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eventstreams.verify.check import Check
from eventstreams.verify.registry import CHECKS
from tests.support.backends import Kafka
from tests.support.gateway import Site, site_of
from tests.support.programs import running
from tests.support.waiting import PATIENCE_S
from tests.verify.examining import QUICK, examine, failures, target_at

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".clients" / "kafka-sse"
PATIENCE = replace(QUICK, answer_s=20.0, heartbeat_s=5.0, cuts=4)
"""Most of the time is spent on waiting for what KafkaSSE never sends."""
NOTHING_COMES = {
    "http.head": replace(PATIENCE, answer_s=2.0),
    "gaps.beyond-end": replace(PATIENCE, event_s=2.0),
    "gaps.below-oldest": replace(PATIENCE, event_s=2.0),
}
"""Checks that only wait for what KafkaSSE never sends."""
SAME_MS = 1_790_000_000_000
FAILURES = {
    "http.charset-without-accept": "content-type: text/event-stream",
    "http.vary": "vary: none",
    "http.head": "HEAD is not answered",
    "http.preflight": "lacks last-event-id",
    "framing.id-last": "the id comes before the data",
    "framing.separators": "data contains a raw U+2028",
    "ids.offsets": "only a timestamp for partition 0 of",
    "ids.quiet-partitions": "offset -1 for partition 0 of",
    "resume.nothing-lost": "events that follow did not arrive",
    "resume.empty-header": "gets 400",
    "resume.since-milliseconds": "replays",
    "resume.since-plus": "gets 400",
    "gaps.beyond-end": "is not reported",
    "gaps.below-oldest": "is not reported",
    "live.heartbeat": "sends nothing",
}
"""The failing checks, and their evidence."""
GROUPS = ("http", "framing", "ids", "resume", "gaps", "live")
"""Other groups of checks concern the service around it."""
OF_THE_SERVICE = {"http.cors-on-errors", "http.encoded-comma"}
EXAMINED = [
    check.name
    for check in CHECKS
    if check.name.partition(".")[0] in GROUPS and check.name not in OF_THE_SERVICE
]
LATE = {"live.from-ok"}
"""Checks with varying results: it reads the newest offset after the first byte, before or after an
event."""


@asynccontextmanager
async def kafka_sse(broker: str, streams: dict[str, list[str]]) -> AsyncIterator[int]:
    """Run it and yield its port. Without it the test is skipped, or fails in CI."""
    if not (FOLDER / "node_modules" / "kafka-sse").is_dir():
        missing = "KafkaSSE is not installed: scripts/clients install kafka-sse"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    script = str(HERE / "kafka_sse.js")
    async with running("node", script, str(FOLDER), broker, json.dumps(streams)) as process:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            port = int(await process.stdout.readline())
        yield port


async def filled(site: Site) -> tuple[str, str]:
    """Fill two topics: one has lost its first events, and has several of one millisecond."""
    one, two = await site.topic(), await site.topic()
    for n in range(8):
        await site.produce(one, event(n), timestamp_ms=SAME_MS + n // 4)
    await site.forget_before(one, 2)
    await site.produce(two, event(1), event(2), timestamp_ms=SAME_MS)
    return one, two


def event(n: int) -> dict[str, Any]:
    return {"n": n, "meta": {"stream": "one"}}


async def test_kafka_sse_fails_for_known_reasons() -> None:
    async with site_of(Kafka) as site:
        one, two = await filled(site)

        async def post(events: list[dict[str, Any]]) -> None:
            await site.produce(one, *events)

        assert isinstance(site.backend, Kafka)
        async with kafka_sse(site.backend.bootstrap, {"one": [one], "two": [two]}) as port:
            names = ["one", "two"]
            target = target_at(port, names, patience=PATIENCE, post=post, template=event(0))

            def on_start(check: Check) -> None:
                target.patience = NOTHING_COMES.get(check.name, PATIENCE)

            results = await examine(target, EXAMINED, on_start=on_start)
    failed = failures(results)
    assert set(failed) - LATE == set(FAILURES)
    assert {name: said for name, said in FAILURES.items() if said not in failed[name]} == {}, failed
