"""`eventstreams serve`: from the start of the process to the first 200 of /readyz."""

from __future__ import annotations

import http.client
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from bench import child, events
from bench.figures import Figure, at_most
from bench.stage import Stage, free_port

_LOOK_EVERY_S = 0.005
_TIMEOUT_S = 30.0


def run(stage: Stage) -> list[Figure]:
    kafka, topic = stage.kafka(), stage.new_topic()
    with stage.producer(kafka, topic=topic, fill=10):
        pass
    embedded, full, from_kafka = [], [], []
    filled = stage.sqlite()
    with stage.producer(filled, fill=10_000):
        pass
    for _ in stage.runs(5):
        embedded.append(_time(stage, stage.sqlite(), events.TOPIC))
        full.append(_time(stage, filled, events.TOPIC))
        from_kafka.append(_time(stage, kafka, topic))
    return [
        Figure("embedded, a new log", embedded, "s", at_most(1.5)),
        Figure("embedded, 10,000 events", full, "s", at_most(1.5)),
        Figure("Kafka", from_kafka, "s", at_most(1.5)),
    ]


def _time(stage: Stage, log: dict[str, Any], topic: str) -> float:
    port = free_port()
    config = _config(stage.folder, log, port, topic)
    command = [sys.executable, "-m", "eventstreams", "serve", "--config", str(config)]
    began = time.monotonic()
    with child.running(command, stage.folder / "start.log"):
        while not _is_ready(port):
            time.sleep(_LOOK_EVERY_S)
            if time.monotonic() - began > _TIMEOUT_S:
                raise child.ChildFailed((stage.folder / "start.log").read_text()[-2000:])
        return time.monotonic() - began


def _config(folder: Path, log: dict[str, Any], port: int, topic: str) -> Path:
    """Write the settings file as JSON, which is also YAML."""
    (folder / "streams.yaml").write_bytes(orjson.dumps({events.STREAM: {"topics": [topic]}}))
    path = folder / "start.yaml"
    path.write_bytes(orjson.dumps({"log": log, "http": {"port": port}}))
    return path


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
