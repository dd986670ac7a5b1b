"""A real process with a certificate: flags, signals, workers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import ssl
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.support.certificates import Files, certificate
from tests.support.gateway import Site, ask
from tests.support.process import configured, exit_status, kill, logged, started
from tests.support.programs import lines_with, running
from tests.support.tls import connected, curl, replace_by, streaming
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

EVENT = {"$schema": "/test/event/1.0.0", "meta": {"stream": "eventstreams.test"}, "test": "hello"}


@asynccontextmanager
async def serving(files: Files, *arguments: str) -> AsyncIterator[tuple[Process, str]]:
    """A process, and the URL that it has logged."""
    tls = "--tls-certfile", files.certificate, "--tls-keyfile", files.key
    process = await started("--port", "0", *tls, *arguments)
    try:
        yield process, (await logged(process, "listening"))["url"]
    finally:
        await kill(process)


async def test_a_posted_event_reaches_tls_streams_until_a_signal_ends_them(
    tmp_path: Path,
) -> None:
    files = certificate(tmp_path)
    only = "--no-demo", "--data-dir", str(tmp_path)
    async with serving(files, *only) as (process, url), AsyncExitStack() as stack:
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+", url)
        port = int(url.rpartition(":")[2])
        reading = await stack.enter_async_context(running(*curl(files, f"{url}/v2/stream/test")))
        streams = [
            await stack.enter_async_context(streaming(port, files, name="test")) for _ in range(5)
        ]
        for stream in streams:
            await stream.opened()
        body = json.dumps(EVENT)
        kind = "-H", "Content-Type: application/json", "-w", "%{http_code}\n"
        async with running(*curl(files, *kind, "-d", body, f"{url}/v1/events")) as posting:
            assert posting.stdout is not None
            assert (await posting.stdout.read()).endswith(b"201\n")
        for stream in streams:
            assert [d["test"] for d in await stream.documents(1)] == ["hello"]
        [data] = await lines_with(reading, "data: ", 1)
        assert json.loads(data)["test"] == "hello"
        process.send_signal(signal.SIGTERM)
        for stream in streams:
            *_, last = await stream.rest()
            assert re.fullmatch(rb"retry: \d+\n", last)
        assert await reading.wait() == 0, "a proper end"
        assert await exit_status(process) == 0


async def test_a_stalled_stream_does_not_prolong_a_drain(embedded: Site, tmp_path: Path) -> None:
    topic, files = await embedded.topic(), certificate(tmp_path)
    await embedded.produce(topic, *[{"pad": "x" * 100_000}] * 100)
    config = configured(tmp_path, embedded, topic, fanout={"drain_s": 1.0})
    async with serving(files, "--config", str(config)) as (process, url):
        port = int(url.rpartition(":")[2])
        async with streaming(port, files, "?since=0", receive_buffer=4096) as stuck:
            await stuck.opened()
            stuck.client.pause()
            process.send_signal(signal.SIGTERM)
            assert await exit_status(process) == 0


async def test_sighup_reloads_the_certificate(embedded: Site, tmp_path: Path) -> None:
    old, new = certificate(tmp_path, "old"), certificate(tmp_path, "new")
    served = certificate(tmp_path, "served")
    replace_by(served, old)
    config = configured(tmp_path, embedded, "t")
    async with serving(served, "--config", str(config)) as (process, url):
        port = int(url.rpartition(":")[2])
        async with connected(port, old) as client:
            replace_by(served, new)
            process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(PATIENCE_S):
                while not await is_trusted(port, new):
                    await asyncio.sleep(0.05)
            assert not await is_trusted(port, old)
            assert (await ask(client, "GET", "/healthz")).status == 200


async def is_trusted(port: int, files: Files) -> bool:
    try:
        async with connected(port, files):
            return True
    except ssl.SSLCertVerificationError:
        return False


def test_invalid_tls_settings_exit_with_2(tmp_path: Path) -> None:
    good, other = certificate(tmp_path, "good"), certificate(tmp_path, "other")
    cases = {
        "--tls-certfile: needs --tls-keyfile": ["--tls-certfile", good.certificate],
        "--tls-keyfile: needs --tls-certfile": ["--tls-keyfile", good.key],
        "is not the key of --tls-certfile": [
            *("--tls-certfile", good.certificate, "--tls-keyfile", other.key),
        ],
        "--tls-certfile: cannot read": [
            *("--tls-certfile", str(tmp_path / "none"), "--tls-keyfile", good.key),
        ],
    }
    for reason, flags in cases.items():
        command = [sys.executable, "-m", "eventstreams", "serve", "--port", "0", *flags]
        command += ["--data-dir", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.kafka
async def test_workers_share_the_port_and_the_certificate(kafka_site: Site, tmp_path: Path) -> None:
    topic, files = await kafka_site.topic(), certificate(tmp_path)
    config = configured(tmp_path, kafka_site, topic, fanout={"drain_s": 6.0})
    async with serving(files, "--config", str(config), "--workers", "2") as (process, url):
        port = int(url.rpartition(":")[2])
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(streaming(port, files)) for _ in range(10)]
            for stream in streams:
                await stream.opened()
            await kafka_site.produce(topic, {"n": 1})
            for stream in streams:
                assert [d["n"] for d in await stream.documents(1)] == [1]
            process.send_signal(signal.SIGTERM)
            for stream in streams:
                await stream.rest()
            assert await exit_status(process) == 0
