"""A gateway that is stopped with queued hasty posts ends in time and reports its losses."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from eventstreams.config.settings import SqliteSettings
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Partition
from tests.support.intake import SHIPPED, TEST, event
from tests.support.process import kill
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

MARGIN_S = PATIENCE_S
"""For the end of a process while other work uses the machine. The queue alone would take seconds,
but the tests must not depend on how fast the machine is."""
DRAIN_S = 0.1
POSTS = 20
EVENTS = 10_000


async def test_a_stop_during_hasty_posts_counts_lost_events(tmp_path: Path) -> None:
    stream = {"schema_title": "test/event", "topics": ["t"]}
    (tmp_path / "streams.yaml").write_text(yaml.safe_dump({"streams": {TEST: stream}}))
    config = tmp_path / "settings.yaml"
    data = tmp_path / "log"
    log = {"backend": "sqlite", "data_dir": str(data)}
    much = 256 * 2**20
    chosen: dict[str, Any] = {
        "schemas": [str(SHIPPED)],
        "log": log,
        "http": {"port": 0},
        "only": "intake",
        "fanout": {"drain_s": DRAIN_S},
        "intake": {
            "in_flight_bytes_max": much,
            "client_in_flight_bytes_max": much,
            "client_bodies_max": 10 * POSTS,
        },
    }
    config.write_text(yaml.safe_dump(chosen))
    command = (sys.executable, "-m", "eventstreams", "serve", "--config", str(config))
    process = await asyncio.create_subprocess_exec(*command, stderr=PIPE)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient(timeout=PATIENCE_S) as http:
            url = ""
            while not url:
                url = json.loads(await process.stderr.readline()).get("url", "")
            body = json.dumps([event()] * EVENTS).encode()
            headers = {"content-type": "application/json"}
            hasty = f"{url}/v1/events?hasty=true"
            posts = (http.post(hasty, content=body, headers=headers) for _ in range(POSTS))
            answers = await asyncio.gather(*posts)
            assert [answer.status_code for answer in answers] == [202] * POSTS
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DRAIN_S + MARGIN_S):
            said = await process.stderr.read()
            assert await process.wait() == 0
    finally:
        await kill(process)
    records = [json.loads(line) for line in said.splitlines()]
    [lost] = [each for each in records if "answered with 202" in json.dumps(each)]
    written = await _written(data)
    assert 0 < lost["events"] <= POSTS * EVENTS
    # Appends in progress at the end may still be in the log.
    assert written + lost["events"] >= POSTS * EVENTS


async def _written(directory: Path) -> int:
    log = SqliteLog(directory=directory, settings=SqliteSettings())
    await log.start()
    try:
        if not await log.partitions(["t"]):
            return 0
        home = Partition("t", 0)
        return (await log.bounds([home]))[home].end
    finally:
        await log.aclose()
