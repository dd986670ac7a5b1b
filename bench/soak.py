"""500 clients that come, go, stall and reset at random; then nothing of them may be left.

In rounds of 40 s with a rest after each; `scripts/bench --full-hour soak` makes them 15 min long.
What the first round leaves is what is made once; what later ones add to it would be a leak.
"""

from __future__ import annotations

import time
from statistics import linear_regression
from typing import Any

from bench.child import Child
from bench.figures import Figure, at_least, at_most
from bench.stage import Stage

CLIENTS, RATE = 500, 100
_KEPT = 3000
_STAY_S = 5.0
_HEADER = "X-Client-IP: 1"
_SETTINGS = {
    "fanout": {"stall_timeout_s": 4.0, "tail_bytes_max": 1 << 20, "cache_bytes_max": 4 << 20},
    "limits": {"client_ip_connections": 10 * CLIENTS},
}
"""Log and caches are small, so that they are full after the first round."""
_SETTLE_S = 20.0


def run(stage: Stage) -> list[Figure]:
    rounds = 2 if stage.quick else 4 if stage.full_hour else 3
    seconds = 900.0 if stage.full_hour else 10.0 if stage.quick else 40.0
    with stage.gateway(feed=RATE, kept=_KEPT, settings=_SETTINGS) as (gateway, port):
        stage.load(port, 50, seconds=1, header=_HEADER)
        before = _settled(gateway, None)
        found, rests = [], []
        for number in range(rounds):
            options = {"seconds": seconds, "churn_s": _STAY_S, "seed": number, "header": _HEADER}
            found.append(stage.load(port, CLIENTS, connect_s=1, **options))
            rest = _settled(gateway, before)
            rest["held_kib"] = gateway.ask("report trimmed")["memory_kib"]
            rests.append((time.monotonic() / 60, rest))
    minutes = [at for at, _ in rests]
    after = rests[-1][1]
    growth = linear_regression(minutes, [rest["held_kib"] / 1024 for _, rest in rests]).slope
    blocks = linear_regression(minutes, [rest["blocks"] for _, rest in rests]).slope
    wrong = ("missing", "doubled", "errors", "refused", "torn_chunks", "ids_cut")
    ended = "eventstreams_streams_ended_total stalled"

    def sums(*names: str) -> float:
        return sum(each[name] for each in found for name in names)

    return [
        Figure("streams that came", [sums("came")]),
        Figure("left, reset or stopped reading", [sums("left", "reset", "stalled")]),
        Figure("closed as stalled", [after["metrics"].get(ended, 0)], "", at_least(1)),
        Figure("missing or doubled", [sums(*wrong)], "", at_most(0)),
        Figure("gaps told to those away too long", [sums("gaps")]),
        Figure("memory held at rest, growth a minute", [growth], "MiB", at_most(1)),
        Figure("objects at rest, growth a minute", [blocks], "", at_most(500)),
        Figure("memory held at rest, at the end", [after["held_kib"] / 1024], "MiB"),
        Figure("the same and what is free", [after["memory_kib"] / 1024], "MiB"),
        *(
            Figure(f"{name} left over", [after[name] - before[name]], "", at_most(0))
            for name in ("tasks", "streams", "leases", "files")
        ),
    ]


def _settled(gateway: Child, like: dict[str, Any] | None) -> dict[str, Any]:
    """What the gateway holds once its clients are gone, or what it still holds after a while."""
    until = time.monotonic() + _SETTLE_S
    while True:
        report = gateway.ask("report")
        held = report["tasks"] + report["files"]
        is_settled = like is None or held <= like["tasks"] + like["files"]
        if (is_settled and not report["streams"]) or time.monotonic() > until:
            return report
        time.sleep(0.5)
