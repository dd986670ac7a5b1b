"""SIGTERM with 2,000 clients, which reconnect with their last ids to a second gateway on the same
log."""

from __future__ import annotations

import time
from typing import NamedTuple

from bench import events
from bench.figures import Figure, at_most
from bench.stage import Stage, seen

CLIENTS, RATE = 2000, 20
_DRAIN_S = 5.0
_BEFORE_S = 5.0
_RETRY_LONGEST_S = 8.0
_AFTER_S = 3.0
_EXIT_TIMEOUT_S = 20.0


class Drain(NamedTuple):
    exit_s: float
    status: int
    torn: int
    """Streams whose last frame was incomplete, or whose response did not end properly."""
    lost: int
    """Events that a client missed or received twice over both gateways, plus clients that did not
    reconnect or were far behind at the end."""


def run(stage: Stage) -> list[Figure]:
    figures: list[Figure] = []
    limit_s = _DRAIN_S + 1
    for name, found in (
        ("embedded", [_drain(stage, kafka=False) for _ in stage.runs(2)]),
        ("Kafka", [_drain(stage, kafka=True) for _ in stage.runs(1)]),
    ):
        figures += [
            Figure(f"{name}: gone after", [run.exit_s for run in found], "s", at_most(limit_s)),
            Figure(f"{name}: exit status", [run.status for run in found], "", at_most(0)),
            Figure(f"{name}: ends not whole", [run.torn for run in found], "", at_most(0)),
            Figure(f"{name}: lost or doubled", [run.lost for run in found], "", at_most(0)),
        ]
    return figures


def _drain(stage: Stage, *, kafka: bool) -> Drain:
    log = stage.kafka() if kafka else stage.sqlite()
    topic = stage.new_topic() if kafka else events.TOPIC
    streams = {events.STREAM: [topic]}
    settings = {"fanout": {"drain_s": _DRAIN_S}}
    with (
        stage.producer(log, topic=topic, feed=RATE),
        stage.gateway(log, streams=streams, settings=settings) as (first, port),
        stage.gateway(log, streams=streams) as (_, second_port),
    ):
        seconds = _BEFORE_S + _DRAIN_S + 1 + _RETRY_LONGEST_S + _AFTER_S
        options = {"connect_s": 2, "seconds": seconds, "then_port": second_port}
        with stage.clients(port, CLIENTS, **options) as clients:
            time.sleep(2 + _BEFORE_S)
            began = time.monotonic()
            first.terminate()
            status = first.wait(_EXIT_TIMEOUT_S)
            exit_s = time.monotonic() - began
            found = seen(clients, options)
    torn = found["torn_ends"] + found["torn_chunks"] + found["lost"] - found["whole_ends"]
    away = CLIENTS - found["open"]
    late = max(0, found["behind"] - RATE)
    wrong = ("missing", "doubled", "gaps", "errors", "refused", "failed", "ids_cut")
    lost = sum(found[each] for each in wrong) + abs(CLIENTS - found["lost"])
    return Drain(exit_s, status, torn, lost + away + late)
