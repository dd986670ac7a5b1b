"""1,000 clients at 100 events a second, and 3,000 clients at 50 events a second.

Under load, events are sent in batches, so an event costs less than the floor's write for each.
"""

from __future__ import annotations

from bench.fanout import compare
from bench.figures import Figure, at_least, at_most
from bench.stage import Stage


def run(stage: Stage) -> list[Figure]:
    found = compare(stage, clients=1000, rate=100, runs=3)
    many = compare(stage, clients=3000, rate=50, runs=2)
    return [
        Figure("1,000 x 100/s: floor, per event", found.floor_us, "us"),
        Figure("1,000 x 100/s: gateway, per event", found.gateway_us, "us"),
        Figure("1,000 x 100/s: gateway / floor", found.ratios, "x", at_most(0.35)),
        Figure("1,000 x 100/s: latency, p99", found.p99_ms, "ms", at_most(200)),
        Figure("1,000 x 100/s: delivered", found.delivered, "%", at_least(100)),
        Figure("3,000 x 50/s: gateway, per event", many.gateway_us, "us"),
        Figure("3,000 x 50/s: gateway / floor", many.ratios, "x"),
        Figure("3,000 x 50/s: latency, p99", many.p99_ms, "ms", at_most(400)),
        Figure("3,000 x 50/s: delivered", many.delivered, "%", at_least(100)),
    ]
