"""Many clients reconnect at once, on Kafka, to a gateway just started, whose tails are empty.

First 1,000 clients that are 3,000 events behind, then 50 clients that are 100,000 behind, beside
one live client, while 20 events a second arrive.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from bench import events
from bench.figures import Figure, at_most
from bench.stage import Stage, faults, last_event_id, seen

RATE = 20
_BEFORE_S = 1.5
_AFTER_S = 1.5


class Case(NamedTuple):
    clients: int
    behind: int
    timeout_s: float


class Storm(NamedTuple):
    until_s: float
    """Seconds from the first connection until every client has received the newest event of that
    time."""
    live_p99_ms: float
    read_times: float
    wrong: int


def run(stage: Stage) -> list[Figure]:
    figures: list[Figure] = []
    for case in (Case(1000, 3000, 60), Case(50, 100_000, 90)):
        found = [_storm(stage, case) for _ in stage.runs(2)]
        name = f"{case.clients:,} x {case.behind:,} behind"
        figures += [
            Figure(f"{name}: all live after", [run.until_s for run in found], "s"),
            Figure(f"{name}: live p99", [run.live_p99_ms for run in found], "ms", at_most(500)),
            Figure(f"{name}: log read", [run.read_times for run in found], "times", at_most(1.2)),
            Figure(f"{name}: missing or doubled", [run.wrong for run in found], "", at_most(0)),
        ]
    return figures


def _storm(stage: Stage, case: Case) -> Storm:
    log, topic = stage.kafka(), stage.new_topic()
    streams = {events.STREAM: [topic]}
    live_options = {"warm_s": _BEFORE_S, "seconds": case.timeout_s, "sample_every": 1}
    with (
        stage.producer(log, topic=topic, fill=case.behind, feed=RATE) as (producer, _),
        stage.gateway(log, streams=streams) as (gateway, port),
        stage.clients(port, 1, **live_options) as live,
    ):
        time.sleep(_BEFORE_S)
        newest = producer.ask("next")["next"] - 1
        found = stage.load(
            port,
            case.clients,
            last_event_id=last_event_id(0, topic),
            from_seq=events.FIRST_SEQ,
            until_seq=newest,
            seconds=case.timeout_s,
            linger_s=_AFTER_S,
        )
        live.terminate()  # it prints its results
        beside = seen(live, live_options)
        read = gateway.ask("metrics")["eventstreams_history_events_total"]
    missing_clients = case.clients - found["there"]
    needed = newest - events.FIRST_SEQ
    wrong = faults(found) + faults(beside) + missing_clients
    return Storm(found["until_s"], beside["p99_ms"], read / needed, wrong)
