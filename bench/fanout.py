"""Measures the floor and the gateway in turn on the same events and clients, for several
benches."""

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
    """One value per run in each list. `ratios` compare consecutive runs of the floor and the
    gateway."""

    floor_us: list[float] = field(default_factory=list)
    floor_p99_ms: list[float] = field(default_factory=list)
    gateway_us: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)
    """Per cent of the due events that readers received; 0 if any reader missed or duplicated an
    event."""

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
    """Run clients that connect over CONNECT_S and are measured some time later."""
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
    """Return the per cent of events appended during measurement that each client received
    meanwhile.

    The measured interval may cut through batches, so events late by less than a batch count as on
    time.
    """
    if faults(found):
        return 0.0
    share = found["delivered"] * 100
    return 100.0 if share >= 100 - 100 * _EDGE_S / found["seconds"] else share
