"""A real process logs its address, drains on a signal, and exits with a status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import connected
from tests.support.gateway import Site
from tests.support.process import configured, exit_status, logged, serving, started, streaming
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_restart_by_signal_loses_nothing(
    site: Site, tmp_path: Path, number: signal.Signals
) -> None:
    topic = await site.topic()
    config = configured(tmp_path, site, topic, fanout={"drain_s": PATIENCE_S})
    async with serving(config) as (process, port), streaming(port) as stream:
        await site.produce(topic, {"n": 1})
        frame = await stream.frame()
        process.send_signal(number)
        *_, last = await stream.rest()
        assert last.startswith(b"retry: ")
        assert await exit_status(process) == 0
    await site.produce(topic, {"n": 2})
    async with serving(config) as (_, port), streaming(port, last_event_id=frame.id) as stream:
        assert [d["n"] for d in await stream.documents(1)] == [2]


async def test_a_second_signal_ends_the_process_immediately(embedded: Site, tmp_path: Path) -> None:
    config = configured(tmp_path, embedded, "t", fanout={"drain_s": 600.0})
    async with serving(config) as (process, port), streaming(port), streaming(port):
        process.send_signal(signal.SIGTERM)
        await logged(process, "draining")
        process.send_signal(signal.SIGTERM)
        assert await exit_status(process) == 0


async def test_idle_connections_do_not_delay_a_stop(embedded: Site, tmp_path: Path) -> None:
    config = configured(tmp_path, embedded, "t", fanout={"drain_s": 600.0})
    async with serving(config) as (process, port), connected(port) as client:
        await client.send("GET", "/healthz")
        assert (await client.head()).status == 200
        process.send_signal(signal.SIGTERM)
        assert await exit_status(process) == 0


async def test_an_invalid_configuration_lists_all_problems_and_exits_with_2(
    embedded: Site, tmp_path: Path
) -> None:
    config = configured(tmp_path, embedded, "t", fanout={"drain_s": -1, "nope": 1}, more=2)
    process = await started("--config", str(config))
    async with asyncio.timeout(PATIENCE_S):
        _, reported = await process.communicate()
    assert process.returncode == 2
    for path in (b"fanout.drain_s", b"fanout.nope", b"more"):
        assert path in reported
    assert b"Traceback" not in reported


async def test_a_used_port_or_invalid_log_exits_with_1(embedded: Site, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "log.sqlite3").write_bytes(b"not a log at all" * 100)
    config = configured(tmp_path, embedded, "t")
    async with serving(config) as (_, port):
        scraped = tmp_path / "scraped"
        scraped.mkdir()
        taken = configured(scraped, embedded, "t", metrics={"port": port})
        reasons = {
            f"127.0.0.1:{port}": await started("--config", str(config), "--port", str(port)),
            f"127.0.0.1:{port}:": await started(
                "--config", str(taken), "--port", "0", "--data-dir", str(scraped)
            ),
            "log.sqlite3": await started(
                "--config", str(config), "--data-dir", str(data), "--port", "0"
            ),
        }
        for reason, process in reasons.items():
            async with asyncio.timeout(PATIENCE_S):
                _, reported = await process.communicate()
            assert process.returncode == 1
            assert b"Warning" not in reported
            assert b"Traceback" not in reported
            record = json.loads(reported.splitlines()[-1])
            assert record["level"] == "error"
            assert reason in record["message"]


AT_IMPORT = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class At(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, At())
"""
AT_LISTEN = """
import os, pathlib, socket
listen = socket.socket.listen

def signalled(sock, backlog):
    listen(sock, backlog)
    path = pathlib.Path("{config}")
    path.write_text(path.read_text().replace("streams_max: 9", "streams_max: 1"))
    os.kill(os.getpid(), {number})

socket.socket.listen = signalled
"""
MODULES = ["click", "eventstreams.gateway"]


async def started_with(folder: Path, settings: Path, script: str, **names: Any) -> Process:
    """Start the process, with a script that Python runs first."""
    (folder / "sitecustomize.py").write_text(script.format(**names))
    command = (sys.executable, "-m", "eventstreams", "serve", "--config", str(settings))
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return await asyncio.create_subprocess_exec(
        *command, "--port", "0", stderr=PIPE, env=environment
    )


@pytest.mark.parametrize("module", MODULES)
async def test_sighup_during_the_start_does_not_end_the_process(
    embedded: Site, tmp_path: Path, module: str
) -> None:
    config = configured(tmp_path, embedded, "t")
    number = int(signal.SIGHUP)
    process = await started_with(tmp_path, config, AT_IMPORT, module=module, number=number)
    await logged(process, "listening")
    process.send_signal(signal.SIGTERM)
    assert await exit_status(process) == 0


async def test_sighup_during_the_start_reloads_the_settings(embedded: Site, tmp_path: Path) -> None:
    topic = await embedded.topic()
    config = configured(tmp_path, embedded, topic, limits={"streams_max": 9})
    number = int(signal.SIGHUP)
    process = await started_with(tmp_path, config, AT_LISTEN, config=config, number=number)
    port = int((await logged(process, "listening"))["url"].rpartition(":")[2])
    async with asyncio.timeout(PATIENCE_S), streaming(port):
        status = 200
        while status != 503:
            async with connected(port) as client:
                await client.send("GET", "/v2/stream/s")
                status = (await client.head()).status
    process.send_signal(signal.SIGTERM)
    assert await exit_status(process) == 0


@pytest.mark.parametrize(
    ("module", "number"), [("click", signal.SIGTERM), ("eventstreams.log.sqlite", signal.SIGINT)]
)
async def test_sigterm_during_the_start_ends_the_process_cleanly(
    embedded: Site, tmp_path: Path, module: str, number: signal.Signals
) -> None:
    config = configured(tmp_path, embedded, "t")
    process = await started_with(tmp_path, config, AT_IMPORT, module=module, number=int(number))
    assert await exit_status(process) == 0
    assert process.stderr is not None
    assert await process.stderr.read() == b""


@pytest.mark.parametrize(("limit_kib", "warned"), [(900_000, True), (2_000_000, False)])
async def test_a_low_address_space_limit_causes_a_warning(
    embedded: Site, tmp_path: Path, limit_kib: int, *, warned: bool
) -> None:
    config = configured(tmp_path, embedded, "t")
    command = f"ulimit -v {limit_kib}; exec {sys.executable} -m eventstreams serve --port 0"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f"{command} --config {config}", stderr=PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        record = json.loads(await process.stderr.readline())
    assert ("limit on address space" in record["message"]) == warned
    process.kill()
    await process.wait()
