"""A gateway in a separate process, as `eventstreams serve` runs it, which can also append events.

Its argument: {"settings": {...}, "streams": {name: [topic, ...]}, "feed": events a second or 0,
"kept": events that a log in memory keeps, "unlike": whether all events must differ, "edits":
whether they are of many users, "stalls": whether to watch the event loop, which takes about 1 % of
a core}. It prints {"port"} when it serves. For each line on its standard input it prints a report
of the resources it holds: tasks, streams, leases, open files, memory, and its metrics. `report
trimmed` first returns free memory to the system, so that only memory in use remains. For a report
all objects of the process are examined, and the event loop waits meanwhile; `metrics` requests only
the metrics. `stall` requests {"stall_ms"} instead: the longest pass of the event loop since the
last such request, in processor time.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench import child, events, pace
from bench.machine import memory_kib
from eventstreams import gateway
from eventstreams.config.catalogue import load_catalogue
from eventstreams.config.settings import Settings
from eventstreams.log.base import Log
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue, Stream
from eventstreams.model.event import Partition
from eventstreams.process_memory import kept_objects
from eventstreams.server.acceptor import protocol_class
from eventstreams.server.drain import Server
from eventstreams.server.logs import log_to_stderr
from eventstreams.server.serve import SWITCH_S, uvicorn_config
from eventstreams.server.sockets import raise_file_limit
from eventstreams.server.tls import Certificate
from eventstreams.server.workers import listener
from eventstreams.tasks import background


class Plan(msgspec.Struct, frozen=True):
    settings: Settings
    streams: dict[str, list[str]]
    feed: float = 0.0
    kept: int = 10_000
    unlike: bool = False
    stalls: bool = True
    edits: bool = False
    catalogue: str | None = None
    """A catalogue file that replaces `streams`; it is reloaded as a gateway does."""


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    log_to_stderr("info")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(plan))


async def _serve(plan: Plan) -> None:
    settings = plan.settings
    sys.setswitchinterval(SWITCH_S)
    connections_max = raise_file_limit(settings.limits)
    http = settings.http
    sock = listener(http.host, http.port, http.backlog)
    file = None if plan.catalogue is None else Path(plan.catalogue)
    async with gateway.running(settings, _catalogue(plan), file) as running:
        if settings.metrics.port is not None:
            running.metrics.serve(settings.metrics.host, settings.metrics.port)
        protocol = protocol_class(
            settings,
            connections_max=connections_max,
            certificate=Certificate.of(http),
            turns=running.turns,
            count=lambda code: running.metrics.refused.labels(code).inc(),
        )
        config = uvicorn_config(settings, running.app, protocol)
        serving = Server(
            config,
            hub=running.hub,
            drain_s=settings.fanout.drain_s,
            reload=running.catalogue_watcher.request_reload,
        )
        stalls = Stalls()
        beside: list[Coroutine[Any, Any, None]] = [
            _answer(running, serving, stalls),
        ]
        if plan.stalls:
            beside.append(stalls.watch())
        if plan.feed:
            beside.append(_feed(running.log, plan))
        async with background(*beside):
            await running.hub.reachable.wait()
            with kept_objects():
                child.say({"port": sock.getsockname()[1]})
                await serving.serve([sock])


def _catalogue(plan: Plan) -> Catalogue:
    if plan.catalogue is not None:
        return load_catalogue(Path(plan.catalogue))
    return Catalogue(
        {
            name: Stream(name, tuple(topics), frozenset(topics), (), None, None)
            for name, topics in plan.streams.items()
        }
    )


async def _feed(log: Log, plan: Plan) -> None:
    kept = plan.kept
    every = max(1, kept // 10)

    def trim(seq: int) -> None:
        offset = seq - events.FIRST_SEQ
        if isinstance(log, MemoryLog) and offset >= kept and offset % every == 0:
            log.forget_before(Partition(events.TOPIC, 0), offset - kept)

    await pace.feed(log, plan.feed, appended=trim, unlike=plan.unlike, edits=plan.edits)


class Stalls:
    """Measures how long the event loop runs callbacks between two readings of the clock.

    It uses the processor time of the loop's thread, which other processes do not change.
    """

    EVERY_S = 0.005

    def __init__(self) -> None:
        self._longest_s = 0.0

    def take_s(self) -> float:
        """Return the longest time since the last call, in seconds."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s

    async def watch(self) -> None:
        before_s = time.thread_time()
        while True:
            await asyncio.sleep(self.EVERY_S)
            now_s = time.thread_time()
            self._longest_s = max(self._longest_s, now_s - before_s)
            before_s = now_s


async def _answer(running: gateway.Gateway, serving: Server, stalls: Stalls) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while asked := await reader.readline():
        if asked == b"stall\n":
            await asyncio.sleep(2 * stalls.EVERY_S)  # so that the clock has been read since
            child.say({"stall_ms": stalls.take_s() * 1000})
            continue
        if asked == b"metrics\n":
            child.say(_metrics(running.metrics))
            continue
        if asked == b"report trimmed\n":
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
        child.say(_report(running))
    serving.should_exit = serving.force_exit = True


def _report(running: gateway.Gateway) -> dict[str, Any]:
    gc.collect()
    return {
        "tasks": len(asyncio.all_tasks()),
        "streams": len(running.hub.subscriptions),
        "leases": running.quota.leases,
        "files": len(os.listdir("/proc/self/fd")),
        "memory_kib": memory_kib(os.getpid()),
        "blocks": sys.getallocatedblocks(),
        "metrics": _metrics(running.metrics),
    }


def _metrics(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket"))
    }


if __name__ == "__main__":
    main()
