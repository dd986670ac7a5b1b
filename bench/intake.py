"""Events posted over HTTP: how many a second in batches, and how soon one reaches an SSE client.

The events are small ones of the test schema. Each is validated and durable when it is answered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import machine
from bench.child import module, running
from bench.figures import Figure, at_least, at_most
from bench.stage import Stage

STREAM = "bench.test"
_SCHEMAS = Path(__file__).parents[1] / "config" / "schemas"
_BATCH = 100
_RATE = 50
_SLACK_S = 30


def run(stage: Stage) -> list[Figure]:
    figures: list[Figure] = []
    for name, log, topic in (
        ("embedded", stage.sqlite(), STREAM),
        ("Kafka", stage.kafka(), stage.new_topic()),
    ):
        with stage.producer(log, topic=topic):
            pass  # the topic now exists
        rates, waits = [], []
        for _ in stage.runs(3):
            with _gateway(stage, log, topic) as (gateway, port):
                before_s = machine.cpu_s(gateway.pid)
                found = _post(stage, port, connections=4, batch=_BATCH)
                used_s = machine.cpu_s(gateway.pid) - before_s
                rates.append({**found, "us": used_s / max(1, found["accepted"]) * 1e6})
                waits.append(_post(stage, port, rate=_RATE))
        wrong = [
            float(r["other"] + w["other"] + w["missing"]) for r, w in zip(rates, waits, strict=True)
        ]
        figures += [
            Figure(f"{name}: events", [r["per_s"] for r in rates], "/s", at_least(15_000)),
            Figure(f"{name}: processor per event", [r["us"] for r in rates], "us"),
            Figure(f"{name}: POST to SSE, median", [w["p50_ms"] for w in waits], "ms", at_most(20)),
            Figure(f"{name}: POST to SSE, p99", [w["p99_ms"] for w in waits], "ms"),
            Figure(f"{name}: refused or missing", wrong, "", at_most(0)),
        ]
    return figures


def _gateway(stage: Stage, log: dict[str, Any], topic: str) -> Any:
    catalogue = stage.folder / "streams.yaml"
    catalogue.write_text(
        f"streams: {{{STREAM}: {{topics: [{topic}], schema_title: test/event}}}}\n"
    )
    settings = {"schemas": [str(_SCHEMAS)]}
    return stage.gateway(log, catalogue=catalogue, settings=settings)


def _post(stage: Stage, port: int, **options: Any) -> dict[str, Any]:
    seconds = stage.seconds(5)
    plan = {"port": port, "stream": STREAM, "seconds": seconds, **options}
    with running(module("posting_process", plan), stage.folder / "posting.log") as posting:
        return posting.answer(seconds + _SLACK_S)
