"""Memory of the process for each of 5,000 clients of a stream without events."""

from __future__ import annotations

from bench.figures import Figure, at_most
from bench.stage import Stage, faults

CLIENTS = 5000


def run(stage: Stage) -> list[Figure]:
    memory, cpu, wrong = [], [], []
    for _ in stage.runs(2):
        with stage.gateway() as (gateway, port):
            found = stage.load(
                port, CLIENTS, connect_s=6, warm_s=2, seconds=stage.seconds(5), pids=gateway.pid
            )
            memory.append(found["kib_per_client"])
            cpu.append(found["cpu_s"] / found["seconds"] * 100)
            wrong.append(faults(found) + CLIENTS - found["open"])
    return [
        Figure("memory per connection", memory, "KiB", at_most(16)),
        Figure("processor, of one core", cpu, "%"),
        Figure("connections not held", wrong, "", at_most(0)),
    ]
