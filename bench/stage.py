"""The environment of a bench: gateways, the floor, producers, clients, a Kafka broker.

All are stopped and removed when the bench ends.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import orjson

from bench import events
from bench.child import TOP, Child, ChildFailed, module, program, running

PATH = f"/v2/stream/{events.STREAM}"
_READY_S = 120
_FILL_S = 120
_KAFKA_READY_S = 600  # the first one fetches Kafka
_LOAD_SLACK_S = 60


class Stage:
    def __init__(
        self,
        *,
        quick: bool,
        full_hour: bool = False,
        run_count: int | None = None,
        only: Sequence[str] = (),
        record: Path | None = None,
    ) -> None:
        """Set the options of `scripts/bench`. `run_count` replaces how often benches measure."""
        self.quick = quick
        self.full_hour = full_hour
        self.only = only
        self.record = record
        self._run_count = run_count
        self._exit = contextlib.ExitStack()
        self._kafka: str | None = None
        self._topics = 0
        self.folder = Path(tempfile.mkdtemp(prefix="eventstreams-bench-"))
        self._exit.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def close(self) -> None:
        self._exit.close()

    def runs(self, count: int) -> range:
        """Return a range over the repetitions of a measurement."""
        return range(1 if self.quick else self._run_count or count)

    def seconds(self, seconds: float) -> float:
        """Return how long to measure."""
        return min(seconds, 3.0) if self.quick else seconds

    def new_topic(self) -> str:
        """Return a topic of the broker that no other bench has used."""
        self._topics += 1
        return f"{events.TOPIC}.{self._topics}"

    # Where events are kept.

    def memory(self) -> dict[str, Any]:
        return {"backend": "memory"}

    def sqlite(self) -> dict[str, Any]:
        """Return the settings of a new, empty embedded log."""
        return {"backend": "sqlite", "data_dir": tempfile.mkdtemp(dir=self.folder)}

    def kafka(self) -> dict[str, Any]:
        """Return the settings of a broker, which is started at its first use."""
        if self._kafka is None:
            folder = self.folder / "kafka"
            self._exit.callback(_kafka, "stop", folder, "--kill")
            self._kafka = _kafka("start", folder)
        return {"backend": "kafka", "kafka": {"bootstrap_servers": [self._kafka]}}

    # Processes.

    @contextlib.contextmanager
    def gateway(
        self,
        log: dict[str, Any] | None = None,
        *,
        feed: float = 0.0,
        kept: int = 10_000,
        unlike: bool = False,
        stalls: bool = True,
        edits: bool = False,
        streams: dict[str, list[str]] | None = None,
        settings: dict[str, Any] | None = None,
        catalogue: Path | None = None,
    ) -> Generator[tuple[Child, int]]:
        """Run a gateway; yield it and its port.

        `settings` are sections in addition to `log` and `http`. A `catalogue` replaces `streams`.
        """
        plan = {
            "settings": {"log": log or self.memory(), "http": {"port": 0}, **(settings or {})},
            "streams": streams or {events.STREAM: [events.TOPIC]},
            "feed": feed,
            "kept": kept,
            "unlike": unlike,
            "stalls": stalls,
            "edits": edits,
            "catalogue": None if catalogue is None else str(catalogue),
        }
        with running(module("gateway_process", plan), self.folder / "gateway.log") as child:
            yield child, child.answer(_READY_S)["port"]

    @contextlib.contextmanager
    def floor(self, rate: float, *, backlog: int = 0) -> Generator[tuple[Child, int]]:
        """Run the bare write() loop, with frames as large as the gateway's; yield it and its port.

        Each client first receives `backlog` events, as fast as it reads them.
        """
        options = {"rate": rate, "frame_bytes": events.frame_bytes(), "backlog": backlog}
        with running(program("floor", options), self.folder / "floor.log") as child:
            yield child, child.answer(_READY_S)["port"]

    @contextlib.contextmanager
    def producer(
        self,
        log: dict[str, Any],
        *,
        topic: str = events.TOPIC,
        seq: int = events.FIRST_SEQ,
        fill: int = 0,
        plain: bool = False,
        feed: float = 0.0,
    ) -> Generator[tuple[Child, int]]:
        """Run a producer that appends `fill` events and then more at a rate; yield it and its next
        number."""
        plan = {
            "log": log,
            "topic": topic,
            "seq": seq,
            "fill": fill,
            "plain": plain,
            "feed": feed,
        }
        with running(module("producer_process", plan), self.folder / "producer.log") as child:
            yield child, child.answer(_FILL_S)["next"]

    @contextlib.contextmanager
    def clients(self, port: int, clients: int, **options: Any) -> Generator[Child]:
        """Run clients in the background; see bench/load.c for the options. `answer` returns their
        results."""
        if "paths" not in options:
            options.setdefault("path", PATH)
        command = program("load", {"port": port, "clients": clients, **options})
        with running(command, self.folder / "load.log") as child:
            yield child

    def load(self, port: int, clients: int, **options: Any) -> dict[str, Any]:
        """Run clients to their end, and return their results."""
        with self.clients(port, clients, **options) as child:
            return seen(child, options)


def seen(child: Child, options: dict[str, Any]) -> dict[str, Any]:
    """Return the results of clients when they are done."""
    times = ("connect_s", "warm_s", "seconds", "linger_s")
    return child.answer(sum(options.get(name, 0) for name in times) + _LOAD_SLACK_S)


def last_event_id(offset: int, topic: str = events.TOPIC) -> str:
    return orjson.dumps([{"topic": topic, "partition": 0, "offset": offset}]).decode()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


def faults(found: dict[str, Any]) -> int:
    """Return the number of missing or duplicate events and of other faults."""
    names = ("missing", "doubled", "gaps", "errors", "failed", "refused", "lost", "torn_chunks")
    return sum(found[name] for name in names)


def _kafka(command: str, folder: Path, *options: str) -> str:
    done = subprocess.run(  # noqa: S603 - a script of this repository
        [str(TOP / "scripts/kafka"), command, "--dir", str(folder), *options],
        capture_output=True,
        text=True,
        timeout=_KAFKA_READY_S,
        check=False,
    )
    if done.returncode:
        raise ChildFailed(f"scripts/kafka {command} failed:\n{done.stderr}")
    return done.stdout.strip()
