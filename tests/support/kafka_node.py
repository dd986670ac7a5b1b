"""Real Kafka brokers for tests, started by scripts/kafka.

`shared` is one node for the whole run, or the broker that EVENTSTREAMS_TEST_KAFKA=host:port names
(it must keep records of any age, as scripts/kafka sets it up). Topics are never removed, so a test
uses unique names. `own_node` is a node that the test may stop, kill and restart; `own_cluster` is a
cluster that can lose a node.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.ports import free_ports

SCRIPT = Path(__file__).parents[2] / "scripts" / "kafka"
START_TIMEOUT_S = 300.0  # the first start downloads Kafka


class KafkaMissing(Exception):
    """A broker could not be started; the message says why."""


@dataclass
class KafkaNode:
    """A broker that lives in `directory`; `properties` are lines of its server.properties."""

    directory: Path
    properties: dict[str, str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    """Names and passwords for listeners with SASL/SCRAM-SHA-256."""
    options: tuple[str, ...] = ()
    """Additional arguments of `scripts/kafka start`."""

    def start(self) -> str:
        """Start the broker. Returns its host:port, the same each time. Raises KafkaMissing."""
        extra = [("--set", f"{key}={value}") for key, value in self.properties.items()]
        extra += [("--scram", f"{name}:{password}") for name, password in self.users.items()]
        return self._run("start", *self.options, *(part for pair in extra for part in pair))

    def stop(self) -> None:
        self._run("stop")

    def kill(self) -> None:
        """Kill the process, like a crash."""
        self._run("stop", "--kill")

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Suspend the process: it accepts connections and bytes but does not answer."""
        pid = int((self.directory / "pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def port_of(self, listener: str) -> int:
        """Return the port of one of the listeners in the properties."""
        lines = (self.directory / "server.properties").read_text().splitlines()
        listeners = [line for line in lines if line.startswith("listeners=")][-1]
        (address,) = [each for each in listeners.split(",") if f"{listener}://" in each]
        return int(address.rpartition(":")[2])

    def _run(self, *arguments: str) -> str:
        command = [str(SCRIPT), *arguments, "--dir", str(self.directory)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
        )
        if done.returncode:
            raise KafkaMissing(f"scripts/kafka {arguments[0]} failed:\n{done.stderr}")
        return done.stdout.strip()


@contextmanager
def own_node(
    properties: dict[str, str] | None = None, users: dict[str, str] | None = None
) -> Iterator[KafkaNode]:
    """Yield a node for one test, not yet started; it is stopped and removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="eventstreams-kafka-"))
    node = KafkaNode(directory, properties or {}, users or {})
    try:
        yield node
    finally:
        if (directory / "server.properties").exists():
            node.kill()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def own_cluster(count: int = 3, doors: Sequence[int] = ()) -> Iterator[list[KafkaNode]]:
    """Yield the nodes of a cluster, with the ids 1 to `count`; start them with `require`.

    `doors` are the ports of proxies in front of the nodes, one for each. Clients that connect
    through a door reach the listener CLIENT, which advertises only doors. The nodes connect to each
    other directly.
    """
    ports = free_ports(2 * count + len(doors))
    controllers, brokers, behind = ports[:count], ports[count : 2 * count], ports[2 * count :]
    voters = ",".join(f"{n}@127.0.0.1:{port}" for n, port in enumerate(controllers, 1))
    identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22]
    with ExitStack() as stack:
        nodes: list[KafkaNode] = []
        for n, (controller, broker) in enumerate(zip(controllers, brokers, strict=True), 1):
            listeners = f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}"
            properties = {
                "node.id": str(n),
                "controller.quorum.voters": voters,
                "listeners": listeners,
            }
            if doors:
                properties |= {
                    "listeners": f"{listeners},CLIENT://127.0.0.1:{behind[n - 1]}",
                    "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker},"
                    f"CLIENT://127.0.0.1:{doors[n - 1]}",
                    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,"
                    "CONTROLLER:PLAINTEXT,CLIENT:PLAINTEXT",
                }
            node = stack.enter_context(own_node(properties))
            node.options = ("--cluster", identity, "--port", str(broker), "--heap", "256m")
            nodes.append(node)
        yield nodes


def require(*nodes: KafkaNode) -> str:
    """Start nodes concurrently; return each host:port, separated by commas.

    If one cannot be started, the test is skipped, or fails in CI.
    """
    try:
        with ThreadPoolExecutor(len(nodes)) as starting:
            return ",".join(starting.map(KafkaNode.start, nodes))
    except (KafkaMissing, OSError, subprocess.TimeoutExpired) as error:
        if os.environ.get("CI"):
            pytest.fail(f"no Kafka broker, and in CI none may be missing: {error}", pytrace=False)
        pytest.skip(f"no Kafka broker: {error}")


_DIRECTORY = "EVENTSTREAMS_TEST_KAFKA_DIRECTORY"
"""The environment variable with which all processes of a test run find their shared broker."""


@functools.cache
def shared() -> str:
    """Return the host:port of the broker of this test run, which is started at its first use."""
    given = os.environ.get("EVENTSTREAMS_TEST_KAFKA")
    if given:
        return given
    directory = Path(os.environ[_DIRECTORY])
    missing = directory / "missing"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first process starts it, the others find it running
        if missing.exists() and not os.environ.get("CI"):
            pytest.skip(missing.read_text())  # every further attempt would take as long
        try:
            return require(KafkaNode(directory))
        except pytest.skip.Exception as skipped:
            missing.write_text(str(skipped))
            raise


@contextmanager
def sharing() -> Iterator[None]:
    """Let this process and its child processes share a broker; at the end, it is stopped."""
    directory = Path(tempfile.mkdtemp(prefix="eventstreams-kafka-"))
    os.environ[_DIRECTORY] = str(directory)
    try:
        yield
    finally:
        del os.environ[_DIRECTORY]
        if (directory / "server.properties").exists():
            KafkaNode(directory).kill()
        shutil.rmtree(directory, ignore_errors=True)


def new_topic(prefix: str = "topic") -> str:
    """Return a name that no other test uses, including earlier runs with the same broker."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"
