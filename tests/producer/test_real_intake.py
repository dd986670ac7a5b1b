"""The producer with the gateway's own intake, in both compatibility modes."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from eventstreams.producer import Accepted, Producer, Rejected
from tests.producer.scripted import soon
from tests.support.intake import SHIPPED, TEST, event, place
from tests.support.ports import free_port
from tests.support.process import kill
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("mode", ["strict", "eventgate"])
async def test_each_event_is_stored_or_has_a_reason(tmp_path: Path, mode: str) -> None:
    sent = [event(n if n % 5 == 0 else str(n)) for n in range(250)]
    async with place(tmp_path, compatibility=mode) as here:
        url = f"http://127.0.0.1:{here.served.port}"
        async with Producer(url) as producer:
            results = await soon(producer.send(*sent))
        kept = await here.documents()
    assert [d["meta"]["id"] for d in kept] == [
        r.event["meta"]["id"] for r in results if isinstance(r, Accepted)
    ]
    assert [r.event["test"] for r in results] == [e["test"] for e in sent]
    for result, one in zip(results, sent, strict=True):
        assert isinstance(result, Rejected) == isinstance(one["test"], int)
        if isinstance(result, Rejected):
            assert "should be string" in result.reason


async def test_one_invalid_event_does_not_lose_its_batch(
    tmp_path: Path,
) -> None:
    async with place(tmp_path, body_bytes_max=20_000, events_max=30) as here:
        url = f"http://127.0.0.1:{here.served.port}"
        async with Producer(url) as producer:
            results = await soon(
                producer.send(*(event("x" * (30_000 if n == 70 else n)) for n in range(100)))
            )
        kept = await here.documents()
    assert [n for n, r in enumerate(results) if not isinstance(r, Accepted)] == [70]
    assert isinstance(results[70], Rejected)
    assert [len(d["test"]) for d in kept] == [n for n in range(100) if n != 70]


@asynccontextmanager
async def _gateway(config: Path) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "eventstreams", "serve", "--config", str(config)]
    process = await asyncio.create_subprocess_exec(*command, stderr=DEVNULL)
    try:
        yield process
    finally:
        await kill(process)


async def test_a_repeatedly_killed_gateway_gets_every_event(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "streams.yaml").write_text(f"streams: {{{TEST}: {{schema_title: test/event}}}}")
    config = tmp_path / "settings.yaml"
    config.write_text(
        f"http: {{port: {port}}}\nlog: {{data_dir: {tmp_path}}}\n"
        f"schemas: [{SHIPPED}]\nintake: {{}}\n"
    )
    url = f"http://127.0.0.1:{port}"
    ids: list[str] = []
    async with Producer(url, outbox=tmp_path / "outbox.db", drain_s=30, retry_s=0.02) as producer:
        for round_ in range(3):
            async with _gateway(config) as process:
                results = await soon(producer.send(event(f"{round_} first")))
                assert isinstance(results[0], Accepted)
                ids.append(results[0].event["meta"]["id"])
                sending = [
                    asyncio.create_task(producer.send(*(event(f"{round_}") for _ in range(40))))
                    for _ in range(5)
                ]
                await soon(asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED))
                process.kill()
        async with _gateway(config), httpx.AsyncClient(timeout=PATIENCE_S) as client:
            for task in sending:
                await soon(task)
            await soon(producer.flush())
            answer = await client.get(
                f"{url}/v2/stream/{TEST}?since=earliest&until=-0s",
                headers={"accept": "application/json"},
            )
    found = [line for line in answer.text.splitlines() if line]
    assert all(any(f'"id":"{one}"' in line for line in found) for one in ids)
    unique = {line[line.index('"id":"') :][:42] for line in found}
    assert len(unique) == 3 + 3 * 200
