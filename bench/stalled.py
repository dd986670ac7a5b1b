"""200 of 1,000 clients never read: the effect on the 800 others, and the cost in memory.

At 100 events a second, a stalled client's socket is full after a few seconds; it has the segments
and the receive buffer of a client on the Internet. It is closed after 6 s without reading a byte.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from bench.child import Child
from bench.fanout import CONNECT_S, delivered
from bench.figures import Figure, at_least, at_most
from bench.machine import memory_kib
from bench.sampling import sampled
from bench.stage import Stage, seen

READERS, STALLED, RATE = 800, 200, 100
_KEPT = 400
_SETTINGS = {"fanout": {"stall_timeout_s": 6.0, "tail_bytes_max": _KEPT << 10}}
"""Keeps the events of a few seconds, so that memory is stable before the measurement."""
_BEFORE_S = 6.0
"""How long the readers are connected before the others connect."""
_MEASURE_S = 10.0
"""Long enough for the sockets of the stalled clients to fill and to be awaited."""
_CONNECT_STALLED_S = 1.0
_CLOSED_WITHIN_S = 40.0
_GIVEN_BACK_WITHIN_S = 6.0
"""How long to wait after the last of them has left."""


def run(stage: Stage) -> list[Figure]:
    alone, among = [], []
    for _ in stage.runs(2):
        alone.append(_alone(stage))
        among.append(_among(stage))
    ratios = [b["p99_ms"] / a["p99_ms"] for a, b in zip(alone, among, strict=True)]
    return [
        Figure("latency of 800, p99", [run["p99_ms"] for run in alone], "ms"),
        Figure("latency of 800 beside 200 stalled, p99", [run["p99_ms"] for run in among], "ms"),
        Figure("ratio of the two", ratios, "x", at_most(1.3)),
        Figure("delivered to the 800", [delivered(run) for run in among], "%", at_least(100)),
        Figure("growth per stalled", [run["growth"] for run in among], "KiB", at_most(256)),
        Figure("growth left after closing", [run["left"] for run in among], "KiB", at_most(64)),
        Figure("kernel, both ends, per stalled", [run["kernel"] for run in among], "KiB"),
        Figure("stalled and closed", [run["closed"] for run in among], "", at_least(STALLED)),
    ]


def _alone(stage: Stage) -> dict[str, Any]:
    with _readers(stage) as (_, _, readers, options):
        return seen(readers, options)


def _among(stage: Stage) -> dict[str, Any]:
    """Return the results of the 800, and the cost per stalled client in KiB, at most and at the
    end."""
    with _readers(stage) as (gateway, port, readers, options):
        time.sleep(CONNECT_S + _BEFORE_S - _CONNECT_STALLED_S - 0.5)
        before_kib = memory_kib(gateway.pid)
        with sampled(gateway.pid) as samples:
            with stage.clients(
                port, STALLED, never_read=STALLED, connect_s=_CONNECT_STALLED_S, seconds=60
            ):
                found = seen(readers, options)
                closed = _wait_until_closed(gateway)
            time.sleep(_GIVEN_BACK_WITHIN_S)
            after_kib = memory_kib(gateway.pid)
    found["growth"] = (samples.peak_kib() - before_kib) / STALLED
    found["left"] = (after_kib - before_kib) / STALLED
    found["kernel"] = (samples.socket_peak_kib() - samples.kib[0][2]) / STALLED
    found["closed"] = closed
    return found


@contextmanager
def _readers(stage: Stage) -> Generator[tuple[Child, int, Child, dict[str, Any]]]:
    options = {"connect_s": CONNECT_S, "warm_s": _BEFORE_S, "seconds": _MEASURE_S}
    with (
        stage.gateway(feed=RATE, kept=_KEPT, settings=_SETTINGS) as (gateway, port),
        stage.clients(port, READERS, **options) as readers,
    ):
        yield gateway, port, readers, options


def _wait_until_closed(gateway: Child) -> int:
    """Wait until stalled streams are closed. Returns the number of streams closed for that
    reason."""
    until = time.monotonic() + _CLOSED_WITHIN_S
    while True:
        metrics = gateway.ask("metrics")
        closed = int(metrics.get("eventstreams_streams_ended_total stalled", 0))
        if closed >= STALLED or time.monotonic() > until:
            return closed
        time.sleep(0.5)
