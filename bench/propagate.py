"""Rules that act on events: executions a second on one core, compared with a bare loop over httpx.

Both make the same POST requests to the same server, 30 at a time, from the same process, one after
the other. Events come from a log in memory. Then events arrive at half of the measured rate. Last,
a rule makes one request to each of many addresses that refuse connections.
"""

from __future__ import annotations

from typing import Any

from bench.child import module, running
from bench.figures import Figure, at_least, at_most
from bench.stage import Stage

_EVENTS = 20_000
_EVENTS_QUICK = 500
_STEADY_S = 600
_SLACK_S = 600
_HOSTS = 10_000
_HOSTS_QUICK = 1_000


def run(stage: Stage) -> list[Figure]:
    """Return the figures."""
    found: list[dict[str, Any]] = []
    with running(module("target_process", {}), stage.folder / "target.log") as target:
        port = target.answer(_SLACK_S)["port"]
        for _ in stage.runs(3):
            found.append(_measure(stage, port, 0.0))
        rate = min(each["per_s"] for each in found) / 2
        steady = _measure(stage, port, rate)
        hosts = _HOSTS_QUICK if stage.quick else _HOSTS
        failing = _measure(stage, port, 0.0, hosts)
    seconds = stage.seconds(_STEADY_S)
    return [
        Figure("executions", [each["per_s"] for each in found], "/s", at_least(3_000)),
        Figure("bare httpx", [each["floor_per_s"] for each in found], "/s"),
        Figure(
            "share of bare httpx",
            [each["per_s"] / each["floor_per_s"] for each in found],
            "",
            at_least(0.5),
        ),
        Figure("processor per execution", [each["us"] for each in found], "us"),
        Figure("processor per request of bare httpx", [each["floor_us"] for each in found], "us"),
        Figure(f"events not acted on after {seconds:.0f} s at half the rate, of one second's",
               [steady["lag"] / max(1.0, rate)], "", at_most(1)),
        Figure(f"memory gained from {hosts // 10:,} to {hosts:,} failing targets",
               [failing["grown_mib"]], "MiB", at_most(8)),
        Figure("lost", [float(each["lost"]) for each in [*found, steady]], "", at_most(0)),
    ]  # fmt: skip


def _measure(stage: Stage, port: int, rate: float, hosts: int = 0) -> dict[str, Any]:
    events = _EVENTS_QUICK if stage.quick else _EVENTS
    plan = {"port": port, "events": events, "rate": rate, "seconds": stage.seconds(_STEADY_S)}
    plan["hosts"] = hosts
    with running(module("propagating_process", plan), stage.folder / "propagating.log") as child:
        return child.answer(_SLACK_S + stage.seconds(_STEADY_S))
