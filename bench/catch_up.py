"""One client over 200,000 events of 1 KiB that lie behind it, from a gateway just started.

Plain events hold one long text, recent changes some thirty fields, which is more to parse.
"""

from __future__ import annotations

from typing import Any

from bench import events, machine
from bench.figures import Figure, at_least, at_most
from bench.stage import Stage, faults, last_event_id

EVENTS = 200_000
_TIMEOUT_S = 60


def run(stage: Stage) -> list[Figure]:
    count = EVENTS // 4 if stage.quick else EVENTS
    figures: list[Figure] = []
    for plain in (True, False):
        for name, log, topic in (
            ("embedded", stage.sqlite(), events.TOPIC),
            ("Kafka", stage.kafka(), stage.new_topic()),
        ):
            with stage.producer(log, topic=topic, fill=count, plain=plain):
                pass
            runs = [_measure(stage, log, topic, count) for _ in stage.runs(4)]
            kind = f"{name}, {'plain events' if plain else 'recent changes'}"
            wrong = [run["wrong"] for run in runs]
            figures += [
                Figure(f"{kind}: events", [run["rate"] for run in runs], "/s", at_least(80_000)),
                Figure(f"{kind}: processor per event", [run["us"] for run in runs], "us"),
                Figure(f"{kind}: missing or doubled", wrong, "", at_most(0)),
            ]
    return figures


def _measure(stage: Stage, log: dict[str, Any], topic: str, count: int) -> dict[str, float]:
    with stage.gateway(log, streams={events.STREAM: [topic]}) as (gateway, port):
        before_s = machine.cpu_s(gateway.pid)
        found = stage.load(
            port,
            1,
            last_event_id=last_event_id(0, topic),
            from_seq=events.FIRST_SEQ,
            until_seq=events.FIRST_SEQ + count - 1,
            seconds=_TIMEOUT_S,
            linger_s=0,
        )
        used_s = machine.cpu_s(gateway.pid) - before_s
    wrong = faults(found) + abs(count - found["events"])
    return {
        "rate": found["events"] / max(found["until_s"], 1e-3),
        "us": used_s / max(1, found["events"]) * 1e6,
        "wrong": wrong,
    }
