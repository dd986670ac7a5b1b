"""Keeps the connections to a Kafka cluster, and its metadata: which broker leads which partition.

aiokafka's client is not used, because each of its metadata requests asks the broker to create
topics that do not exist. If the broker allows that, reading a deleted topic would create it again.
aiokafka's connections, with TLS, SASL and version negotiation, are used unchanged.

A broker answers the requests on one connection in order. Requests that may take long therefore use
a lane of their own: a lane is a name, with one connection to each broker.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from aiokafka import conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.helpers import create_ssl_context

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import ConfigError, LogUnavailable, UnknownPartition, UnknownTopic
from eventstreams.log.kafka import errors
from eventstreams.log.kafka.protocol import METADATA_WITH_IDS, MetadataByName
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Partition

_log = logging.getLogger(__name__)

Address = tuple[str, int]

_connect = cast("Any", conn.create_conn)

METADATA_LANE = "metadata"

_IDLE_MS = 9 * 60 * 1000
"""Brokers close a connection after ten minutes without a request; we close it before that."""


class Brokers:
    """The cluster as of the last `refresh`. `route` refreshes if needed."""

    def __init__(self, *, settings: KafkaSettings) -> None:
        self._settings = settings
        # Half of a call's time, so that after one silent broker there is time to ask another one.
        self._answer_s = settings.request_timeout_s / 2
        self._how: dict[str, Any] = {}
        self._connections: dict[tuple[str, Address], Any] = {}
        self._connecting: defaultdict[tuple[str, Address], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._addresses: dict[int, Address] = {}
        self._silent: set[Address] = set()
        self._controller: int | None = None
        self._counts: dict[str, int] = {}
        self._ids: dict[str, bytes] = {}
        self._leaders: dict[Partition, int] = {}
        self._leader_epochs: dict[Partition, int] = {}
        """The newest epoch that any broker has reported. A broker that reports an older one has
        outdated metadata."""
        self._closed = False

    async def open(self) -> None:
        """Read the password and certificates, and ask a broker for the cluster's metadata.

        Raises ConfigError, LogUnavailable.
        """
        # aiokafka logs every authentication. Failures are raised here in any case.
        if (logger := logging.getLogger("aiokafka")).level == logging.NOTSET:
            logger.setLevel(logging.ERROR)
        self._how = await asyncio.to_thread(connection_options, self._settings)
        await self.refresh(())

    async def refresh(self, topics: Collection[str]) -> dict[str, int]:
        """Ask for these topics; return the partition counts of those that exist.

        Never creates a topic. A topic that this client may not describe counts as missing. Raises
        LogUnavailable if no broker answers.
        """
        failures: list[str] = []
        for address in self._candidates():
            try:
                answer = await self._ask(
                    METADATA_LANE, address, MetadataByName(topics), self._answer_s
                )
            except LogUnavailable as error:
                failures.append(str(error))
                continue
            return self._learn(answer)
        raise LogUnavailable(f"no Kafka broker responds: {'; '.join(failures)}")

    async def route(self, partitions: Iterable[Partition]) -> dict[int, list[Partition]]:
        """Return the partitions by the broker that leads them, without those that have no leader.

        Raises UnknownTopic, UnknownPartition, and LogUnavailable if no broker answers.
        """
        wanted = list(partitions)
        lost = {p.topic for p in wanted if p not in self._leaders}
        if lost:
            await self.refresh(lost)
        by_node: dict[int, list[Partition]] = {}
        for partition in wanted:
            node = self.leader(partition)
            if node is not None:
                by_node.setdefault(node, []).append(partition)
            elif partition.topic not in self._counts:
                raise UnknownTopic(partition.topic)
            elif not 0 <= partition.number < self._counts[partition.topic]:
                raise UnknownPartition(partition)
        return by_node

    async def partition_count(self, topic: str) -> int:
        """Return how many partitions the topic had at the last refresh. Raises UnknownTopic."""
        if topic not in self._counts:
            await self.refresh([topic])
        if topic not in self._counts:
            raise UnknownTopic(topic)
        return self._counts[topic]

    def has_topic(self, topic: str) -> bool:
        """Return whether the topic existed at the last refresh."""
        return topic in self._counts

    def topic_id(self, topic: str) -> bytes | None:
        """Return the topic's id, which changes when it is deleted and created again.

        It is None if the topic does not exist, or if the brokers are too old for ids.
        """
        return self._ids.get(topic)

    def leader(self, partition: Partition) -> int | None:
        """Return the broker that leads the partition, or None if that is not known."""
        return self._leaders.get(partition)

    @property
    def leader_epochs(self) -> Mapping[Partition, int]:
        """The epochs of the leaders, if the brokers report them."""
        return self._leader_epochs

    def controller(self) -> int:
        """Return a broker that accepts requests for the controller. Requires `open`."""
        return (
            self._controller if self._controller in self._addresses else next(iter(self._addresses))
        )

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Forget the leaders of these partitions, so that the next `route` asks again."""
        for partition in partitions:
            self._leaders.pop(partition, None)

    async def ask(self, lane: str, node: int, request: Any, answer_s: float | None = None) -> Any:
        """Send a request to a broker; return the struct of its answer. Raises LogUnavailable."""
        if node not in self._addresses:
            raise LogUnavailable(f"broker {node} is no longer part of the cluster")
        return await self._ask(lane, self._addresses[node], request, answer_s or self._answer_s)

    async def aclose(self) -> None:
        self._closed = True
        connections, self._connections = list(self._connections.values()), {}
        for connection in connections:
            await connection.close()

    def _candidates(self) -> list[Address]:
        known = list(self._addresses.values())
        random.shuffle(known)
        first = [_address(server) for server in self._settings.bootstrap_servers]
        random.shuffle(first)
        # Brokers that did not answer last time come last: waiting for one takes half of the time.
        return sorted(dict.fromkeys([*known, *first]), key=lambda each: each in self._silent)

    def _learn(self, answer: Any) -> dict[str, int]:
        if answer.brokers:
            self._addresses = {node: (host, port) for node, host, port, *_ in answer.brokers}
        self._controller = answer.controller_id
        found: dict[str, int] = {}
        has_ids = answer.API_VERSION >= METADATA_WITH_IDS
        known_ids = dict(self._ids)
        for code, topic, *fields in answer.topics:
            for known in [p for p in self._leaders if p.topic == topic]:
                del self._leaders[known]
            self._counts.pop(topic, None)
            self._ids.pop(topic, None)
            if code == errors.TOPIC_AUTHORIZATION_FAILED:
                _log.warning("not allowed to describe topic %s", topic)
            if code != errors.NONE:
                if code in errors.NO_SUCH_TOPIC:
                    self._forget_epochs(topic)
                continue
            if has_ids and any(id_ := fields.pop(0)):
                if known_ids.get(topic) not in (None, id_):  # a new topic with the same name
                    self._forget_epochs(topic)
                self._ids[topic] = id_
            partitions = fields[1]
            found[topic] = self._counts[topic] = len(partitions)
            for _, number, leader, *rest in partitions:
                partition = Partition(topic, number)
                if leader not in self._addresses:
                    continue
                if has_ids:
                    if rest[0] < self._leader_epochs.get(partition, NO_EPOCH):
                        continue
                    self._leader_epochs[partition] = rest[0]
                self._leaders[partition] = leader
        return found

    def _forget_epochs(self, topic: str) -> None:
        for known in [p for p in self._leader_epochs if p.topic == topic]:
            del self._leader_epochs[known]

    async def _ask(self, lane: str, address: Address, request: Any, answer_s: float) -> Any:
        host, port = address
        doing = f"asking {host}:{port}"
        try:
            async with asyncio.timeout(answer_s):
                answer = await self._exchange(lane, address, request)
        except TimeoutError as error:
            self._silent.add(address)
            if late := self._connections.pop((lane, address), None):
                late.close()
            raise errors.translated(error, doing) from error
        except errors.FOREIGN as error:
            self._silent.add(address)
            raise LogUnavailable(str(errors.translated(error, doing))) from error
        self._silent.discard(address)
        return answer

    async def _exchange(self, lane: str, address: Address, request: Any) -> Any:
        connection, fresh = await self._connection(lane, address)
        try:
            return await connection.send(request)
        except KafkaConnectionError:
            if fresh:
                raise
        # An idle connection may have been closed by the network although the broker is reachable.
        connection, _ = await self._connection(lane, address)
        return await connection.send(request)

    async def _connection(self, lane: str, address: Address) -> tuple[Any, bool]:
        """Return an open connection, and whether it is new."""
        key = (lane, address)
        async with self._connecting[key]:
            connection = self._connections.get(key)
            if connection is not None and connection.connected():
                return connection, False
            if self._closed:
                raise LogUnavailable("the log is closed")
            connection = await _connect(*address, **self._how)
            self._connections[key] = connection
            return connection, True


@asynccontextmanager
async def bounded(
    timeout_s: float, doing: str, unanswered: Callable[[], Collection[Partition]] = tuple
) -> AsyncGenerator[None]:
    """Raise LogUnavailable if the block takes longer than `timeout_s`.

    The error names the partitions that `unanswered()` returns then.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        missing = sorted(unanswered())
        about = f" of {named(missing)}" if missing else ""
        text = f"Kafka could not {doing}{about} within {timeout_s:g} s"
        raise LogUnavailable(text, missing) from error


def named(partitions: Sequence[Partition]) -> str:
    """Return a text with the first partition and the number of others."""
    more = f" and {len(partitions) - 1} more" if len(partitions) > 1 else ""
    return f"{partitions[0].topic}/{partitions[0].number}{more}"


def _address(server: str) -> Address:
    host, _, port = server.rpartition(":")
    return host.strip("[]"), int(port)


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the options of all connections. Reads files, so call it in a thread.

    Raises ConfigError.
    """
    options: dict[str, Any] = {
        "client_id": settings.client_id,
        "request_timeout_ms": int(settings.request_timeout_s * 1000),
        "max_idle_ms": _IDLE_MS,
        "security_protocol": settings.security_protocol,
    }
    if "SSL" in settings.security_protocol:
        options["ssl_context"] = _ssl_context(settings)
    if settings.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = _password(settings)
    return options


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context: ssl.SSLContext = create_ssl_context(
            cafile=settings.ssl_cafile,
            certfile=settings.ssl_certfile,
            keyfile=settings.ssl_keyfile,
        )
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([f"log.kafka: the TLS files cannot be used: {error}"]) from error
    context.check_hostname = settings.ssl_check_hostname
    return context


def _password(settings: KafkaSettings) -> str:
    where = settings.sasl_password_file
    if where is None:
        raise ConfigError(["log.kafka.sasl_password_file: needed for SASL"])
    try:
        return Path(where).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"log.kafka.sasl_password_file: {error}"]) from error
