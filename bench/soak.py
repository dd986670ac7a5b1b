"""500 clients that come, go, stall and reset at random; then nothing of them may be left.

90 s; `scripts/bench --full-hour soak` takes an hour.
"""

from __future__ import annotations

import time
from typing import Any

from bench.child import Child
from bench.figures import Figure, at_least, at_most
from bench.sampling import sampled
from bench.stage import Stage, seen

CLIENTS, RATE = 500, 100
_KEPT = 2000
_STAY_S = 5.0
_SETTINGS = {
    "fanout": {"stall_timeout_s": 4.0, "tail_bytes_max": 1 << 20, "cache_bytes_max": 4 << 20},
    "limits": {"client_ip_connections": 10 * CLIENTS},
}
"""Log and caches are small, so that they are full before memory is watched."""
_WARM_S = 30.0
_SETTLE_S = 20.0


def run(stage: Stage) -> list[Figure]:
    seconds = 3600.0 if stage.full_hour else 20.0 if stage.quick else 90.0
    warm_s = min(_WARM_S, seconds / 2)
    options = {"connect_s": 1, "seconds": seconds, "churn_s": _STAY_S, "header": "X-Client-IP: 1"}
    with stage.gateway(feed=RATE, kept=_KEPT, settings=_SETTINGS) as (gateway, port):
        stage.load(port, 50, seconds=1, header="X-Client-IP: 1")  # what is made once, is made
        before = _settled(gateway, None)
        with (
            sampled(gateway.pid) as samples,
            stage.clients(port, CLIENTS, **options) as clients,
        ):
            found = seen(clients, options)
        after = _settled(gateway, before)
    growth = samples.slope_kib_s(warm_s) * 60 / 1024
    wrong = ("missing", "doubled", "gaps", "errors", "refused", "torn_chunks", "ids_cut")
    ended = "eventstreams_streams_ended_total stalled"
    return [
        Figure("streams that came", [found["came"]]),
        Figure("of them left, reset, stopped", [found["left"] + found["reset"] + found["stalled"]]),
        Figure("of them closed as stalled", [after["metrics"].get(ended, 0)], "", at_least(1)),
        Figure("missing or doubled", [sum(found[name] for name in wrong)], "", at_most(0)),
        Figure("memory, change a minute", [growth], "MiB", at_most(1)),
        Figure("memory, at the end", [after["memory_kib"] / 1024], "MiB"),
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
        held = report["tasks"] + report["streams"] + report["files"]
        wanted = None if like is None else like["tasks"] + like["streams"] + like["files"]
        if time.monotonic() > until or (
            not report["streams"] and (wanted is None or held <= wanted)
        ):
            return report
        time.sleep(0.5)
