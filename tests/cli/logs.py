"""Looks into an embedded log from a test that has no event loop."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from eventstreams.config.settings import SqliteSettings
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Event


def events_in(directory: Path, topic: str) -> list[Event]:
    """All events of a topic, partition by partition."""
    return asyncio.run(_events_in(directory, topic))


def documents_in(directory: Path, topic: str) -> list[Any]:
    return [json.loads(event.value or b"null") for event in events_in(directory, topic)]


def make_topic(directory: Path, topic: str, partitions: int) -> None:
    async def make() -> None:
        log = SqliteLog(directory=directory, settings=SqliteSettings())
        await log.start()
        await log.create_topic(topic, partitions)
        await log.aclose()

    asyncio.run(make())


async def _events_in(directory: Path, topic: str) -> list[Event]:
    log = SqliteLog(directory=directory, settings=SqliteSettings())
    await log.start()
    events: list[Event] = []
    try:
        for partition in (await log.partitions([topic])).get(topic, ()):
            offset, end = (await log.bounds([partition]))[partition]
            while offset < end:
                found = await log.read(partition, offset, 1 << 20)
                events += found.events
                offset = found.next
    finally:
        await log.aclose()
    return events
