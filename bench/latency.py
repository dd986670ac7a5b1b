"""Latency from a producer's append to an independent client, at 100 events a second.

The embedded log is appended to from within the gateway's process and from another process; Kafka
from another process.
"""

from __future__ import annotations

from typing import Any

from bench import events
from bench.fanout import delivered
from bench.figures import Figure, at_least, at_most
from bench.stage import Stage

RATE = 100
_CLIENT: dict[str, Any] = {"clients": 1, "warm_s": 1, "sample_every": 1}


def run(stage: Stage) -> list[Figure]:
    within, beside, kafka = [], [], []
    for _ in stage.runs(3):
        with stage.gateway(stage.sqlite(), feed=RATE) as (_, port):
            within.append(_measure(stage, port))
        beside.append(_from_beside(stage, stage.sqlite(), events.TOPIC))
        kafka.append(_from_beside(stage, stage.kafka(), stage.new_topic()))
    return [
        *_figures("embedded", within, 5),
        *_figures("embedded, other process", beside, None),
        *_figures("Kafka", kafka, 10),
    ]


def _from_beside(stage: Stage, log: dict[str, Any], topic: str) -> dict[str, Any]:
    with (
        stage.producer(log, topic=topic, feed=RATE),
        stage.gateway(log, streams={events.STREAM: [topic]}) as (_, port),
    ):
        return _measure(stage, port)


def _measure(stage: Stage, port: int) -> dict[str, Any]:
    return stage.load(port, seconds=stage.seconds(5), **_CLIENT)


def _figures(name: str, found: list[dict[str, Any]], aim_ms: float | None) -> list[Figure]:
    aim = None if aim_ms is None else at_most(aim_ms)
    return [
        Figure(f"{name}: median", [each["p50_ms"] for each in found], "ms", aim),
        Figure(f"{name}: p99", [each["p99_ms"] for each in found], "ms"),
        Figure(f"{name}: delivered", [delivered(each) for each in found], "%", at_least(100)),
    ]
