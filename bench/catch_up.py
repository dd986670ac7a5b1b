"""One client that reads a backlog of 200,000 events of 1 KiB from a gateway just started.

Plain events hold one long text; recent changes have about thirty fields, which take longer to
parse. The floor writes the same frames without reading any log.
"""

from __future__ import annotations

from typing import Any

from bench import events, machine
from bench.child import Child
from bench.figures import Figure, at_least, at_most
from bench.stage import Stage, faults, last_event_id

EVENTS = 200_000
_TIMEOUT_S = 60
_FLOOR_RATE = 1.0
"""Events a second behind the backlog, which the client does not wait for."""


def run(stage: Stage) -> list[Figure]:
    count = EVENTS // 4 if stage.quick else EVENTS
    floor = [_measure_floor(stage, count) for _ in stage.runs(4)]
    figures = [Figure("floor: events", [run["rate"] for run in floor], "/s")]
    for plain in (True, False):
        for name, log, topic in (
            ("embedded", stage.sqlite(), events.TOPIC),
            ("Kafka", stage.kafka(), stage.new_topic()),
        ):
            with stage.producer(log, topic=topic, fill=count, plain=plain):
                pass
            pairs = [
                (_measure(stage, log, topic, count), _measure_floor(stage, count))
                for _ in stage.runs(4)
            ]
            runs = [run for run, _ in pairs]
            ratios = [run["rate"] / bare["rate"] for run, bare in pairs]
            kind = f"{name}, {'plain events' if plain else 'recent changes'}"
            figures += [
                Figure(f"{kind}: events", [run["rate"] for run in runs], "/s", at_least(150_000)),
                Figure(f"{kind}: of the floor's rate", ratios, "x"),
                Figure(f"{kind}: processor per event", [run["us"] for run in runs], "us"),
                Figure(
                    f"{kind}: missing or doubled", [run["wrong"] for run in runs], "", at_most(0)
                ),
            ]
    return figures


def _measure(stage: Stage, log: dict[str, Any], topic: str, count: int) -> dict[str, float]:
    with stage.gateway(log, streams={events.STREAM: [topic]}) as (gateway, port):
        return _read(stage, gateway, port, count, last_event_id=last_event_id(0, topic))


def _measure_floor(stage: Stage, count: int) -> dict[str, float]:
    with stage.floor(_FLOOR_RATE, backlog=count) as (floor, port):
        return _read(stage, floor, port, count)


def _read(stage: Stage, child: Child, port: int, count: int, **options: Any) -> dict[str, float]:
    before_s = machine.cpu_s(child.pid)
    found = stage.load(
        port,
        1,
        from_seq=events.FIRST_SEQ,
        until_seq=events.FIRST_SEQ + count - 1,
        seconds=_TIMEOUT_S,
        linger_s=0,
        **options,
    )
    used_s = machine.cpu_s(child.pid) - before_s
    return {
        "rate": found["events"] / max(found["until_s"], 1e-3),
        "us": used_s / max(1, found["events"]) * 1e6,
        "wrong": faults(found) + abs(count - found["events"]),
    }
