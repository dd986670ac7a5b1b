"""Real worker processes share a port and a real broker."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.kafka_node import new_topic
from tests.support.kafka_tools import topic_with
from tests.support.process import running_workers
from tests.support.waiting import PATIENCE_S

STREAMS = 12
"""Enough streams that every worker gets some."""


def configure(folder: Path, log: str) -> Path:
    (folder / "streams.yaml").write_text("streams: {test: {topics: [test]}}")
    config = folder / "settings.yaml"
    config.write_text(f"http: {{port: 0}}\nlog: {log}\nfanout: {{drain_s: 0.2}}\n")
    return config


def children(pid: int) -> set[int]:
    return {int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_several_workers_need_kafka(
    tmp_path: Path,
) -> None:
    config = configure(tmp_path, f"{{data_dir: {tmp_path}}}")
    command = [sys.executable, "-m", "eventstreams", "serve", "--config", str(config)]
    done = subprocess.run(
        [*command, "--workers", "2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert "--workers 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert "kafka" in done.stderr


def test_a_used_port_is_a_clear_error(tmp_path: Path) -> None:
    config = configure(tmp_path, f"{{data_dir: {tmp_path}}}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "eventstreams", "serve", "--config", str(config)]
        done = subprocess.run(
            [*command, "--port", port],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port N chooses another port" in done.stderr


@pytest.mark.kafka
def test_workers_share_a_port_and_are_restarted(tmp_path: Path, kafka: str) -> None:
    topic = new_topic()
    config = configure(tmp_path, f"{{backend: kafka, kafka: {{bootstrap_servers: ['{kafka}']}}}}")
    (tmp_path / "streams.yaml").write_text(f"streams: {{test: {{topics: [{topic}]}}}}")
    with running_workers(config, "--workers", "2") as (process, url):
        deadline = time.monotonic() + PATIENCE_S
        wait_for(lambda: len(children(process.pid)) == 2, deadline)
        killed = min(children(process.pid))
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(children(process.pid) - {killed}) == 2, deadline)
        wait_for(lambda: answers(url), deadline)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.kafka
def test_limits_and_lists_cover_all_workers(tmp_path: Path, kafka: str) -> None:
    topic, key = asyncio.run(topic_with(kafka)), "k" * 32
    (tmp_path / "key").write_text(key)
    config = configure(tmp_path, f"{{backend: kafka, kafka: {{bootstrap_servers: ['{kafka}']}}}}")
    with config.open("a") as settings:
        settings.write(f"limits: {{client_ip_connections: {STREAMS}}}\n")
        settings.write(f"access: {{admin_key_file: {tmp_path}/key}}\n")
    (tmp_path / "streams.yaml").write_text(f"streams: {{test: {{topics: [{topic}]}}}}")
    operator = {"Authorization": f"Bearer {key}"}
    client = {"X-Client-IP": "192.0.2.1"}
    with running_workers(config, "--workers", "2") as (process, url), ExitStack() as stack:
        deadline = time.monotonic() + PATIENCE_S
        wait_for(lambda: len(children(process.pid)) == 2, deadline)
        wait_for(lambda: all(is_ready(url) for _ in range(8)), deadline)

        def status() -> int:
            # separate connections, which the kernel distributes over the workers
            streaming = stack.enter_context(httpx.Client(timeout=PATIENCE_S))
            sent = stack.enter_context(
                streaming.stream("GET", f"{url}/v2/stream/test", headers=client)
            )
            return sent.status_code

        statuses = [status() for _ in range(STREAMS + 5)]
        assert sorted(statuses) == [200] * STREAMS + [429] * 5
        path = f"{url}/v2/admin/clients"

        def listing() -> Any:
            return httpx.get(path, headers=operator, timeout=PATIENCE_S).json()

        for _ in range(4):  # whichever worker responds
            listed = listing()
            assert (listed["workers"], listed["workers_missing"]) == (2, 0)
            assert listed["total"] == len(listed["clients"]) == STREAMS
            assert len({each["id"].split("-")[0] for each in listed["clients"]}) == 2
        for one in listed["clients"]:
            closed = httpx.delete(f"{path}/{one['id']}", headers=operator, timeout=PATIENCE_S)
            assert closed.status_code == 204
        wait_for(lambda: not listing()["total"], deadline)
        wait_for(lambda: status() == 200, deadline)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], bool], deadline: float) -> None:
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
