"""1,000 clients, 20 events a second: processor time per delivered event, against the floor."""

from __future__ import annotations

from bench.fanout import compare
from bench.figures import Figure, at_least, at_most
from bench.stage import Stage

CLIENTS = 1000
RATE = 20


def run(stage: Stage) -> list[Figure]:
    found = compare(stage, clients=CLIENTS, rate=RATE, runs=3)
    return [
        Figure("floor, per event", found.floor_us, "us"),
        Figure("gateway, per event", found.gateway_us, "us"),
        Figure("gateway / floor", found.ratios, "x", at_most(2.2)),
        Figure("latency, p50", found.p50_ms, "ms"),
        Figure("latency, p99", found.p99_ms, "ms", at_most(60)),
        Figure("latency of the floor, p99", found.floor_p99_ms, "ms"),
        Figure("delivered", found.delivered, "%", at_least(100)),
    ]
