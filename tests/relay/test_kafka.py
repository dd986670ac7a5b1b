"""A repeatedly killed relay into Kafka writes every event once, in order."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import DEVNULL
from pathlib import Path

import pytest
import yaml

from eventstreams.log.base import Log
from eventstreams.model.event import Partition
from tests.relay.scripted import OK, Request, entry, event, frame, numbers, upstream
from tests.support import kafka_node
from tests.support.backends import Kafka
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

PATIENCE_S = 120.0
KILLS = 4
ANSWER = 60
"""Events in one response, which then ends."""


def following(request: Request) -> bytes:
    """Respond like a gateway, with the events after the id."""
    last = request.last_event_id
    first = last[0]["offset"] if last else 0
    frames = (
        frame(event("far", n), [entry("far", offset=n + 1, timestamp=1_700_000_000_000 + n)])
        for n in range(first, first + ANSWER)
    )
    return OK + b"".join(frames) + b"retry: 1\n\n"


async def until_end(log: Log, topic: str, end: int) -> None:
    partition = Partition(topic, 0)

    async def is_reached() -> bool:
        return (await log.bounds([partition]))[partition].end >= end

    await until(is_reached, every_s=0.02, patience_s=PATIENCE_S)


async def test_a_killed_relay_into_kafka_loses_and_duplicates_nothing(tmp_path: Path) -> None:
    rng = random.Random(7)
    async with Kafka.place() as backend, upstream(*[following] * 10_000) as up:
        log = await backend.open()
        topic = await backend.topic(log, 1)
        (tmp_path / "streams.yaml").write_text(
            yaml.safe_dump({"streams": {"s": {"topics": [topic]}}})
        )
        config = tmp_path / "settings.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "only": "gateway",
                    "log": {
                        "backend": "kafka",
                        "kafka": {"bootstrap_servers": [kafka_node.shared()]},
                    },
                }
            )
        )
        end = 0
        for _ in range(KILLS):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "eventstreams", "relay", up.url, "--config", str(config)),
                *("--streams", "s", "--name", topic),
                stderr=DEVNULL,
            )
            try:
                await until_end(log, topic, end + 2 * ANSWER)
                await asyncio.sleep(rng.random() * 0.1)  # at any moment of a transaction
            finally:
                process.kill()
                await process.wait()
            end = (await log.bounds([Partition(topic, 0)]))[Partition(topic, 0)].end
            found = await numbers(log, topic)
            assert found == list(range(len(found)))
        assert len(found) >= KILLS * ANSWER
        await log.aclose()
