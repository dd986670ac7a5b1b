"""20 events a second on the embedded log with at most one client: processor time per event.

The gateway makes the events itself, keeps each with fsync and sends it. In one of the runs they are
those of the demo feed. What the idle gateway takes is measured too, and not subtracted. The floor
is a bare write() loop, which neither makes nor keeps events.
"""

from __future__ import annotations

import time
from typing import Any

from bench import events, machine
from bench.child import Child
from bench.figures import Figure, at_most
from bench.stage import Stage, faults

RATE = 20
_SETTLE_S = 4.0
_MEASURE_S = 20.0
_CLIENT_S = 600
"""Longer than any measurement; the client is stopped before."""
_STOP_S = 20


def run(stage: Stage) -> list[Figure]:
    idle: list[float] = []
    floor_ms: list[float] = []
    alone_ms: list[float] = []
    served_ms: list[float] = []
    demo_ms: list[float] = []
    wrong: list[float] = []
    demo = {"demo": {"stream": events.STREAM, "rate": RATE}}
    for _ in stage.runs(3):
        with stage.floor(RATE) as (floor, port):
            floor_ms.append(_with_client(stage, floor, port)[0])
        with stage.gateway(stage.sqlite(), stalls=False) as (gateway, _port):
            idle.append(_used_s(stage, gateway) / stage.seconds(_MEASURE_S) * 100)
        with stage.gateway(stage.sqlite(), stalls=False, feed=RATE, unlike=True) as (
            gateway,
            _port,
        ):
            alone_ms.append(_ms_per_event(stage, gateway))
        with stage.gateway(stage.sqlite(), stalls=False, feed=RATE, unlike=True) as (gateway, port):
            used_ms, found = _with_client(stage, gateway, port)
            served_ms.append(used_ms)
            wrong.append(faults(found))
        with stage.gateway(stage.sqlite(), stalls=False, settings=demo) as (gateway, port):
            demo_ms.append(_with_client(stage, gateway, port, opaque=1)[0])
    return [
        Figure("idle", idle, "% of a core"),
        Figure("floor, per event", floor_ms, "ms"),
        Figure("no client, per event", alone_ms, "ms"),
        Figure("one client, per event", served_ms, "ms", at_most(1.0)),
        Figure("one client, demo feed, per event", demo_ms, "ms", at_most(1.0)),
        Figure("missing or doubled", wrong, "", at_most(0)),
    ]


def _with_client(
    stage: Stage, child: Child, port: int, **options: Any
) -> tuple[float, dict[str, Any]]:
    """Return the processor time per event in ms with one client, and what the client received."""
    with stage.clients(port, 1, seconds=_CLIENT_S, linger_s=0, **options) as client:
        used_ms = _ms_per_event(stage, child)
        client.terminate()
        return used_ms, client.answer(_STOP_S)


def _ms_per_event(stage: Stage, child: Child) -> float:
    return _used_s(stage, child) / (RATE * stage.seconds(_MEASURE_S)) * 1000


def _used_s(stage: Stage, child: Child) -> float:
    """Return the processor time that a process takes while measured, after it has settled."""
    time.sleep(_SETTLE_S)
    before_s = machine.exact_cpu_s(child.pid)
    time.sleep(stage.seconds(_MEASURE_S))
    return machine.exact_cpu_s(child.pid) - before_s
