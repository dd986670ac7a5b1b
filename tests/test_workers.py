"""Several processes behind one port: real processes, a real broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.kafka_node import new_topic

PATIENCE_S = 30.0


@contextmanager
def serving(config: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway in a process of its own, and its URL."""
    command = [sys.executable, "-m", "eventstreams", "serve", "--config", str(config), *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                url = json.loads(line).get("url")
                if url:
                    yield process, url
                    break
            else:
                pytest.fail("it ended without listening")
        finally:
            process.kill()


def configure(folder: Path, log: str) -> Path:
    (folder / "streams.yaml").write_text("streams: {test: {topics: [test]}}")
    config = folder / "settings.yaml"
    config.write_text(f"http: {{port: 0}}\nlog: {log}\nfanout: {{drain_s: 0.2}}\n")
    return config


def children(pid: int) -> set[int]:
    return {int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_an_embedded_log_with_more_than_one_worker_is_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    config = configure(tmp_path, f"{{data_dir: {tmp_path}}}")
    command = [sys.executable, "-m", "eventstreams", "serve", "--config", str(config)]
    done = subprocess.run(
        [*command, "--workers", "2"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert "--workers 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert "kafka" in done.stderr


def test_a_port_that_is_taken_is_a_clear_error(tmp_path: Path) -> None:
    config = configure(tmp_path, f"{{data_dir: {tmp_path}}}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "eventstreams", "serve", "--config", str(config)]
        done = subprocess.run(
            [*command, "--port", port], capture_output=True, text=True, check=False, timeout=30
        )
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr


@pytest.mark.kafka
def test_workers_share_a_port_are_started_again_and_end_together(
    tmp_path: Path, kafka: str
) -> None:
    topic = new_topic()
    config = configure(tmp_path, f"{{backend: kafka, kafka: {{bootstrap_servers: ['{kafka}']}}}}")
    (tmp_path / "streams.yaml").write_text(f"streams: {{test: {{topics: [{topic}]}}}}")
    with serving(config, "--workers", "2") as (process, url):
        deadline = time.monotonic() + PATIENCE_S
        wait_for(lambda: len(children(process.pid)) == 2, deadline)
        killed = min(children(process.pid))
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(children(process.pid) - {killed}) == 2, deadline)
        wait_for(lambda: answers(url), deadline)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], bool], deadline: float) -> None:
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
