"""Floor and gateway in turn, on the same events and clients; used by several benches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.stage import Stage, faults

CONNECT_S = 1.5
WARM_S = 1.5
MEASURE_S = 6.0
_EDGE_S = 0.25


@dataclass
class Comparison:
    """A value a run in each list; `ratios` are of the floor's and the gateway's neighbours."""

    floor_us: list[float] = field(default_factory=list)
    floor_p99_ms: list[float] = field(default_factory=list)
    gateway_us: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)
    """Per cent of what the readers were due, 0 where any of them missed or doubled an event."""

    def add(self, floor: dict[str, Any], gateway: dict[str, Any]) -> None:
        self.floor_us.append(floor["us_per_event"])
        self.floor_p99_ms.append(floor["p99_ms"])
        self.gateway_us.append(gateway["us_per_event"])
        self.ratios.append(gateway["us_per_event"] / floor["us_per_event"])
        self.p50_ms.append(gateway["p50_ms"])
        self.p99_ms.append(gateway["p99_ms"])
        self.delivered.append(delivered(gateway))


def compare(stage: Stage, *, clients: int, rate: float, runs: int) -> Comparison:
    found = Comparison()
    for _ in stage.runs(runs):
        floor = measure_floor(stage, clients=clients, rate=rate)
        with stage.gateway(feed=rate) as (gateway, port):
            found.add(floor, load(stage, port, clients, gateway.pid))
    return found


def measure_floor(stage: Stage, *, clients: int, rate: float) -> dict[str, Any]:
    with stage.floor(rate) as (floor, port):
        return load(stage, port, clients, floor.pid)


def load(stage: Stage, port: int, clients: int, pid: int, **options: Any) -> dict[str, Any]:
    """Clients that come over CONNECT_S and are measured a while later."""
    return stage.load(
        port,
        clients,
        connect_s=CONNECT_S * max(1, clients / 1000),
        warm_s=WARM_S,
        seconds=stage.seconds(MEASURE_S),
        pids=pid,
        **options,
    )


def delivered(found: dict[str, Any]) -> float:
    """Per cent of the events appended while it was measured that each client got in that time.

    The edges of that time cut through batches, so what is late by less than a batch is on time.
    """
    if faults(found):
        return 0.0
    share = found["delivered"] * 100
    return 100.0 if share >= 100 - 100 * _EDGE_S / found["seconds"] else share
