"""What a bench works with: gateways, the floor, producers, clients, a Kafka broker; all stopped and
removed when the bench ends.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import orjson

from bench import events
from bench.child import TOP, Child, ChildFailed, module, program, running

PATH = f"/v2/stream/{events.STREAM}"
_READY_S = 30
_FILL_S = 120
_KAFKA_READY_S = 600  # the first one fetches Kafka
_LOAD_SLACK_S = 60


class Stage:
    def __init__(self, *, quick: bool, full_hour: bool = False) -> None:
        self.quick = quick
        self.full_hour = full_hour
        self._exit = contextlib.ExitStack()
        self._kafka: str | None = None
        self._topics = 0
        self.folder = Path(tempfile.mkdtemp(prefix="eventstreams-bench-"))
        self._exit.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def close(self) -> None:
        self._exit.close()

    def runs(self, count: int) -> range:
        """How often to repeat what is measured."""
        return range(1 if self.quick else count)

    def seconds(self, seconds: float) -> float:
        """How long to measure."""
        return min(seconds, 3.0) if self.quick else seconds

    def new_topic(self) -> str:
        """A topic of the broker that no other bench has used."""
        self._topics += 1
        return f"{events.TOPIC}.{self._topics}"

    # Where events are kept.

    def memory(self) -> dict[str, Any]:
        return {"backend": "memory"}

    def sqlite(self) -> dict[str, Any]:
        """A new, empty embedded log."""
        return {"backend": "sqlite", "data_dir": tempfile.mkdtemp(dir=self.folder)}

    def kafka(self) -> dict[str, Any]:
        """A broker, started at its first use."""
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
        streams: dict[str, list[str]] | None = None,
        settings: dict[str, Any] | None = None,
        catalogue: Path | None = None,
    ) -> Generator[tuple[Child, int]]:
        """A gateway and its port. `settings` are sections beside `log` and `http`; a `catalogue`
        stands in the place of `streams`."""
        plan = {
            "settings": {"log": log or self.memory(), "http": {"port": 0}, **(settings or {})},
            "streams": streams or {events.STREAM: [events.TOPIC]},
            "feed": feed,
            "kept": kept,
            "unlike": unlike,
            "catalogue": None if catalogue is None else str(catalogue),
        }
        with running(module("gateway_process", plan), self.folder / "gateway.log") as child:
            yield child, child.answer(_READY_S)["port"]

    @contextlib.contextmanager
    def floor(self, rate: float) -> Generator[tuple[Child, int]]:
        """The bare write() loop, its frames as large as the gateway's, and its port."""
        options = {"rate": rate, "frame_bytes": events.frame_bytes()}
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
        """A producer that has appended `fill` events and goes on at a rate; and its next number."""
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
        """Clients under way; see bench/load.c for the options. `answer` gives what they saw."""
        if "paths" not in options:
            options.setdefault("path", PATH)
        command = program("load", {"port": port, "clients": clients, **options})
        with running(command, self.folder / "load.log") as child:
            yield child

    def load(self, port: int, clients: int, **options: Any) -> dict[str, Any]:
        """Runs clients to their end and returns what they saw."""
        with self.clients(port, clients, **options) as child:
            return seen(child, options)


def seen(child: Child, options: dict[str, Any]) -> dict[str, Any]:
    """What clients saw, once they are done."""
    times = ("connect_s", "warm_s", "seconds", "linger_s")
    return child.answer(sum(options.get(name, 0) for name in times) + _LOAD_SLACK_S)


def last_event_id(offset: int, topic: str = events.TOPIC) -> str:
    return orjson.dumps([{"topic": topic, "partition": 0, "offset": offset}]).decode()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


def faults(found: dict[str, Any]) -> int:
    """Events that a client did not get, or got twice, and whatever else should not be."""
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
