"""Gateway and intake as separate processes over one log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.client import Stream, connected
from tests.support.gateway import SSE
from tests.support.intake import SHIPPED, TEST, event
from tests.support.kafka_node import new_topic, own_node, require
from tests.support.kafka_tools import opened, read_all, topic_with
from tests.support.process import kill
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio

STREAM = f"/v2/stream/{TEST}"
EXPLAIN = f"/v2/explain?streams={TEST}"
OF_INTAKE = {("POST", "/v1/events"): 201, ("POST", "/v1/events/"): 201}
OF_INTAKE |= {("GET", "/v1/_test/events"): 201}
OF_GATEWAY = {("HEAD", STREAM): 200, ("GET", EXPLAIN): 200}
OF_BOTH = ["/healthz", "/readyz", "/?spec", "/robots.txt", "/_info/name", "/v1/stream-configs"]


def configured(
    folder: Path, log: Mapping[str, Any], topics: list[str] | None = None, **sections: Any
) -> Path:
    stream = {"schema_title": "test/event", "topics": topics or [TEST]}
    (folder / "streams.yaml").write_text(yaml.safe_dump({"streams": {TEST: stream}}))
    chosen: dict[str, Any] = {
        "schemas": [str(SHIPPED)],
        "log": dict(log),
        "http": {"port": 0},
        "intake": {"test_events": [event("probe")]},
        **sections,
    }
    config = folder / f"settings-{len(list(folder.glob('settings-*')))}.yaml"
    config.write_text(yaml.safe_dump(chosen))
    return config


async def started(config: Path, *arguments: str) -> Process:
    command = (sys.executable, "-m", "eventstreams", "serve", "--config", str(config), *arguments)
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    return await asyncio.create_subprocess_exec(*command, stderr=PIPE, env=environment)


class Serving:
    """A process that listens, with a client."""

    def __init__(self, process: Process, url: str, http: httpx.AsyncClient) -> None:
        self.process = process
        self.port = int(url.rpartition(":")[2])
        self.http = http

    async def status(self, method: str, path: str, **content: Any) -> int:
        return (await self.http.request(method, path, **content)).status_code

    async def state(self) -> dict[str, Any]:
        """Return the document of /readyz."""
        answer = await self.http.get("/readyz")
        state: dict[str, Any] = answer.json()
        assert answer.status_code == (200 if state["ready"] else 503)
        return state

    async def is_ready(self) -> bool:
        return bool((await self.state())["ready"])

    async def is_not_ready(self) -> bool:
        return not await self.is_ready()

    async def ready(self) -> None:
        await until(self.is_ready)

    async def end(self) -> int:
        """Stop it with SIGTERM, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def serving(config: Path, *arguments: str) -> AsyncIterator[Serving]:
    process = await started(config, *arguments)
    said: list[dict[str, Any]] = []
    urls: asyncio.Queue[str] = asyncio.Queue()

    async def listen() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            said.append(json.loads(line))
            if url := said[-1].get("url"):
                urls.put_nowait(url)

    listening = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(PATIENCE_S):
            url = await urls.get()
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
            yield Serving(process, url, http)
    finally:
        await kill(process)
        await listening
    assert not [record for record in said if record["level"] == "error"]


@asynccontextmanager
async def streaming(gateway: Serving) -> AsyncIterator[Stream]:
    async with connected(gateway.port) as client:
        await client.send("GET", STREAM, SSE)
        stream = Stream(client, await client.head())
        assert stream.head.status == 200
        await stream.opened()
        yield stream


async def test_intake_and_gateway_share_an_embedded_log(
    tmp_path: Path,
) -> None:
    config = configured(tmp_path, {"data_dir": str(tmp_path)})
    async with (
        serving(config, "--only", "gateway") as gateway,
        serving(config, "--only", "intake") as intake,
        streaming(gateway) as stream,
    ):
        for n in range(3):
            answer = await intake.http.post("/v1/events", json=[event(f"{n}"), event(f"{n}, too")])
            assert answer.status_code == 201
        texts = [document["test"] for document in await stream.documents(6)]
        assert texts == ["0", "0, too", "1", "1, too", "2", "2, too"]
        assert await intake.end() == 0
        assert await gateway.status("GET", "/readyz") == 200
        assert await gateway.end() == 0
        assert (await stream.rest())[-1].startswith(b"retry: ")


@pytest.mark.parametrize(
    ("only", "served", "missing"),
    [("intake", OF_INTAKE, OF_GATEWAY), ("gateway", OF_GATEWAY, OF_INTAKE)],
)
@pytest.mark.parametrize("by_flag", [True, False])
async def test_disabled_parts_are_404(
    tmp_path: Path,
    only: str,
    served: dict[tuple[str, str], int],
    missing: dict[tuple[str, str], int],
    by_flag: bool,
) -> None:
    log = {"data_dir": str(tmp_path)}
    settings = {} if by_flag else {"only": only}
    flags = ("--only", only) if by_flag else ()
    async with serving(configured(tmp_path, log, **settings), *flags) as here:
        await here.ready()
        for path in OF_BOTH:
            assert await here.status("GET", path) in (200, 303)
        for method, path in missing:
            answer = await here.http.request(method, path, json=event())
            assert answer.status_code == 404
            assert "text/html" in answer.headers["content-type"]
        for (method, path), status in served.items():
            assert await here.status(method, path, json=event()) == status
        assert await here.end() == 0


async def test_the_flag_takes_precedence_over_the_settings(tmp_path: Path) -> None:
    config = configured(tmp_path, {"data_dir": str(tmp_path)}, only="gateway")
    async with serving(config, "--only", "intake") as here:
        assert await here.status("POST", "/v1/events", json=event()) == 201
        assert await here.status("GET", STREAM) == 404
        assert await here.status("GET", EXPLAIN) == 404


async def test_a_stop_waits_for_posts_in_progress(
    tmp_path: Path,
) -> None:
    config = configured(tmp_path, {"data_dir": str(tmp_path)})
    body = json.dumps(event("late")).encode()
    head = "POST /v1/events HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
    async with (
        serving(config, "--only", "intake") as here,
        connected(here.port) as client,
    ):
        client.writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:10])
        here.process.send_signal(signal.SIGTERM)

        async def stopped_listening() -> bool:
            with socket.socket() as other:
                return other.connect_ex(("127.0.0.1", here.port)) != 0

        await until(stopped_listening)
        client.writer.write(body[10:])
        assert (await client.head()).status == 201
        async with asyncio.timeout(PATIENCE_S):
            assert await here.process.wait() == 0


async def test_a_part_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    log = {"data_dir": str(tmp_path)}
    wrong = {
        b"'both' is not one of 'gateway', 'intake'": (configured(tmp_path, log), "--only", "both"),
        b"only: 'both' is not one of: gateway, intake": (configured(tmp_path, log, only="both"),),
    }
    for reported, (config, *flags) in wrong.items():
        process = await started(config, *flags)
        async with asyncio.timeout(PATIENCE_S):
            _, said = await process.communicate()
        assert process.returncode == 2
        assert reported in said
        assert b"Traceback" not in said


def of_kafka(bootstrap: str) -> dict[str, Any]:
    kafka = {"bootstrap_servers": [bootstrap], "request_timeout_s": 5.0}
    return {"backend": "kafka", "kafka": kafka}


@pytest.mark.kafka
async def test_an_intake_alone_reads_no_topic(tmp_path: Path, kafka: str) -> None:
    topic = await topic_with(kafka, 2)
    config = configured(tmp_path, of_kafka(kafka), [topic, new_topic("missing")])
    async with serving(config, "--only", "intake") as here:
        await here.ready()
        assert (await here.state())["unreachable"] == []
        answer = await here.http.post("/v1/events", json=[event(f"{n}") for n in range(8)])
        assert answer.status_code == 201
        assert await here.status("GET", STREAM) == 404
        assert await here.end() == 0
    async with opened(kafka) as log:
        found = await log.partitions([topic])
        records = [record for p in found[topic] for record in await read_all(log, p)]
    texts = [json.loads(record.value or b"")["test"] for record in records]
    assert sorted(texts) == [f"{n}" for n in range(8)]


@pytest.mark.kafka
async def test_an_intake_alone_is_ready_while_its_broker_responds(tmp_path: Path) -> None:
    with own_node() as node:
        bootstrap = await asyncio.to_thread(require, node)
        topic = await topic_with(bootstrap)
        fanout = {"refresh_s": 0.2}
        config = configured(tmp_path, of_kafka(bootstrap), [topic], fanout=fanout)
        async with serving(config, "--only", "intake") as here:
            await here.ready()
            await asyncio.to_thread(node.kill)
            assert await here.status("POST", "/v1/events", json=event()) == 500
            async with asyncio.timeout(PATIENCE_S / 3):
                await until(here.is_not_ready)
            await asyncio.to_thread(node.start)
            await here.ready()
            assert await here.status("POST", "/v1/events", json=event()) == 201


async def test_an_intake_alone_is_not_ready_without_a_broker(
    tmp_path: Path,
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        config = configured(tmp_path, of_kafka(f"127.0.0.1:{nobody.getsockname()[1]}"))
        async with serving(config, "--only", "intake") as here:
            assert await here.status("GET", "/healthz") == 200
            assert await here.is_not_ready()
            answer = await here.http.post("/v1/events", json=event())
            assert answer.status_code == 500
            [element] = answer.json()["error"]
            assert element["context"] == {"message": "the log is unreachable", "retryable": True}
            assert await here.end() == 0
