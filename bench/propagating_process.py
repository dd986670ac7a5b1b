"""Sends requests to a target: from a bare loop over httpx, and from a rule over a log in memory.

Its argument: {"port", "events", "rate", "seconds", "hosts"}. Without a rate it measures both and
prints the requests per second; with a rate it feeds the rule for that long and prints the backlog.
With `hosts` it makes one request to each of so many addresses that refuse connections, and prints
how much its memory grew from a tenth of them to all of them, in MiB.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvloop

from bench import child
from bench.machine import memory_kib
from eventstreams.errors import LogError
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition, Placed, Record
from eventstreams.propagation.rule_file import load_rules
from eventstreams.propagation.service import Propagation, embedded_sources
from eventstreams.propagation.source import MemoryPositions
from eventstreams.propagation.state import MemoryState

_CONCURRENCY = 30
_RULES = """
start: earliest
targets: {{allow_private: true, connections_per_host: {concurrency}}}
rules:
  bench:
    topic: bench
    concurrency: {concurrency}
    match: {{meta: {{domain: '/wikipedia/'}}}}
    exec:
      method: post
      uri: 'http://127.0.0.1:{port}/page/{{message.n}}'
      body: {{title: '{{{{message.title}}}}', n: '{{{{message.n}}}}'}}
"""


_FAILING_RULES = """
start: earliest
targets: {allow_private: true}
rules:
  bench:
    topic: bench
    concurrency: 30
    retry_limit: 0
    dedupe: false
    exec: {uri: 'http://{message.host}:9/'}
"""


class Plan(msgspec.Struct, frozen=True):
    """What to measure."""

    port: int
    events: int
    rate: float
    seconds: float
    hosts: int = 0


class _ForgetfulLog(MemoryLog):
    """Keeps no error events, which would be all of the growth."""

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        kept = [record for record in records if not record.topic.endswith(".error")]
        if len(kept) < len(records):
            return [Placed(Partition(record.topic, 0), 0) for record in records]
        return await super().offer(records)


def main() -> None:
    """Measure, and print the figures."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rules.yaml"
        rules = _RULES.format(port=plan.port, concurrency=_CONCURRENCY)
        path.write_text(_FAILING_RULES if plan.hosts else rules)
        loaded = load_rules(path)
    logging.disable()  # a line for each failure
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if plan.hosts:
            runner.run(_failing(plan, loaded))
        else:
            runner.run(_steady(plan, loaded) if plan.rate else _rates(plan, loaded))


async def _rates(plan: Plan, loaded: Any) -> None:
    floor = await _timed(plan.events, lambda: _bare(plan))
    log = MemoryLog()
    await log.append([_record(n) for n in range(plan.events)])
    metrics = Metrics()

    async def act() -> None:
        async with _running(loaded, log, metrics) as service:
            await service.started()
            await service.idle()

    found = await _timed(plan.events, act)
    child.say(
        {
            **found,
            **{f"floor_{name}": value for name, value in floor.items()},
            "lost": plan.events - _count(metrics, "processed"),
        }
    )


async def _steady(plan: Plan, loaded: Any) -> None:
    log, metrics = MemoryLog(), Metrics()
    await log.create_topic("bench", 1)
    total = int(plan.rate * plan.seconds)
    async with _running(loaded, log, metrics) as service:
        await service.started()
        began, sent = time.monotonic(), 0
        while sent < total:
            due = min(total, int((time.monotonic() - began) * plan.rate) + 1)
            await log.append([_record(n) for n in range(sent, due)])
            sent = due
            await asyncio.sleep(0.05)
        lag = sent - _count(metrics, "processed")
        await service.idle()
    child.say({"lag": lag, "lost": total - _count(metrics, "processed")})


async def _failing(plan: Plan, loaded: Any) -> None:
    log, metrics = _ForgetfulLog(), Metrics()
    await log.append([_record(n, _address(n)) for n in range(plan.hosts)])
    grown: list[float] = []
    async with _running(loaded, log, metrics) as service:
        while (failed := _count(metrics, "failed")) < plan.hosts:
            if not grown and failed >= plan.hosts // 10:
                gc.collect()
                grown.append(memory_kib(os.getpid()) / 1024)
            await asyncio.sleep(0.05)
        await service.idle()
        gc.collect()
        grown.append(memory_kib(os.getpid()) / 1024)
    child.say({"grown_mib": grown[1] - grown[0]})


def _address(n: int) -> str:
    """Return an address of this machine of its own for each `n`; nothing listens there."""
    return f"127.{1 + n // 62_500}.{n // 250 % 250}.{1 + n % 250}"


@asynccontextmanager
async def _running(loaded: Any, log: MemoryLog, metrics: Metrics) -> AsyncGenerator[Propagation]:
    service = Propagation(
        loaded=loaded,
        catalogue=None,
        log=log,
        open_source=embedded_sources(log=log, positions=MemoryPositions(), known_topics=()),
        state=MemoryState(),
        producing=None,
        metrics=metrics,
    )
    async with service.running():
        yield service


async def _bare(plan: Plan) -> None:
    """Make the same requests in a bare loop."""
    limits = httpx.Limits(max_connections=_CONCURRENCY, max_keepalive_connections=_CONCURRENCY)
    headers = {"content-type": "application/json", "x-request-id": "r", "x-triggered-by": "req:r"}
    numbers = iter(range(plan.events))
    async with httpx.AsyncClient(limits=limits, trust_env=False) as client:

        async def send() -> None:
            for n in numbers:
                body = json.dumps({"title": "Some_Page", "n": n})
                uri = f"http://127.0.0.1:{plan.port}/page/{n}"
                answer = await client.post(uri, content=body, headers=headers)
                assert answer.status_code == 200

        await asyncio.gather(*(send() for _ in range(_CONCURRENCY)))


async def _timed(count: int, work: Callable[[], Awaitable[None]]) -> dict[str, float]:
    began, used = time.monotonic(), time.process_time()
    await work()
    return {
        "per_s": count / (time.monotonic() - began),
        "us": (time.process_time() - used) / count * 1e6,
    }


def _record(n: int, host: str = "") -> Record:
    meta = {"stream": "bench", "id": f"id-{n}", "domain": "en.wikipedia.org", "request_id": "r"}
    event = {"meta": {**meta, "uri": "https://x/wiki/A"}, "title": "Some_Page", "n": n}
    if host:
        event["host"] = host
    return Record("bench", json.dumps(event).encode())


def _count(metrics: Metrics, outcome: str) -> int:
    labels = {"rule": "bench", "outcome": outcome}
    name = "eventstreams_propagation_events_total"
    return int(metrics.registry.get_sample_value(name, labels) or 0)


if __name__ == "__main__":
    main()
