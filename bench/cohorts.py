"""1,000 clients in 100 cohorts at 20 events a second, compared with 1,000 clients in one cohort.

Each cohort requests the busy stream together with another one that has no events.
"""

from __future__ import annotations

from bench import events
from bench.fanout import delivered, load, measure_floor
from bench.figures import Figure, at_least, at_most
from bench.stage import Stage

CLIENTS, COHORTS, RATE = 1000, 100, 20


def run(stage: Stage) -> list[Figure]:
    quiet = [f"quiet.{number}" for number in range(COHORTS)]
    streams = {events.STREAM: [events.TOPIC], **{name: [name] for name in quiet}}
    paths = stage.folder / "cohorts"
    paths.write_text("".join(f"/v2/stream/{events.STREAM},{name}\n" for name in quiet))
    floor, one, many = [], [], []
    for _ in stage.runs(3):
        floor.append(measure_floor(stage, clients=CLIENTS, rate=RATE)["us_per_event"])
        with stage.gateway(feed=RATE, streams=streams) as (gateway, port):
            one.append(load(stage, port, CLIENTS, gateway.pid)["us_per_event"])
        with stage.gateway(feed=RATE, streams=streams) as (gateway, port):
            many.append(load(stage, port, CLIENTS, gateway.pid, paths=paths))
    many_us = [found["us_per_event"] for found in many]
    return [
        Figure("one cohort, per event", one, "us"),
        Figure("100 cohorts, per event", many_us, "us"),
        Figure("100 cohorts / one", _ratios(many_us, one), "x", at_most(1.5)),
        Figure("100 cohorts / floor", _ratios(many_us, floor), "x"),
        Figure("100 cohorts: latency, p99", [found["p99_ms"] for found in many], "ms"),
        Figure("100 cohorts: delivered", [delivered(found) for found in many], "%", at_least(100)),
    ]


def _ratios(these: list[float], those: list[float]) -> list[float]:
    return [a / b for a, b in zip(these, those, strict=True)]
