"""Connections to a Kafka cluster, and what is known of it: which broker leads which partition.

aiokafka's client is not used for this because every metadata request it makes asks the broker to
create the topics it does not know, where the broker allows that: a topic deleted on purpose would
come back by being read. Its connection, with TLS, SASL and version negotiation, is used as it is.

Requests on one connection are answered in order, so whoever may wait long has a lane of its own: a
lane is a name, with one connection per broker.
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

from eventstreams.errors import ConfigError, LogUnavailable, UnknownPartition, UnknownTopic
from eventstreams.log import kafka_errors as errors
from eventstreams.log.kafka_protocol import METADATA_WITH_IDS, MetadataByName
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Partition
from eventstreams.settings import KafkaSettings

_log = logging.getLogger(__name__)

Address = tuple[str, int]

_connect = cast("Any", conn.create_conn)

METADATA_LANE = "metadata"

# Brokers close a connection after ten minutes without a request; ours is closed before that.
_IDLE_MS = 9 * 60 * 1000


class Brokers:
    """What is known is as fresh as the last `refresh`; `route` refreshes as needed."""

    def __init__(self, *, settings: KafkaSettings) -> None:
        self._settings = settings
        # Twice within one call, so that a broker that hangs is given up while the call still can
        # go elsewhere.
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
        """The newest that any broker has named; one that names an older one is behind."""
        self._closed = False

    async def open(self) -> None:
        """Reads password and certificates, asks a broker. Raises ConfigError, LogUnavailable."""
        # It tells at every connection that it authenticated; what fails is raised here anyway.
        if (chatter := logging.getLogger("aiokafka")).level == logging.NOTSET:
            chatter.setLevel(logging.ERROR)
        self._how = await asyncio.to_thread(connection_options, self._settings)
        await self.refresh(())

    async def refresh(self, topics: Collection[str]) -> dict[str, int]:
        """Asks for these topics; returns how many partitions each has that exists.

        Never makes a topic. A topic that may not be described counts as not existing. Raises
        LogUnavailable when no broker answers.
        """
        said: list[str] = []
        for address in self._candidates():
            try:
                answer = await self._ask(
                    METADATA_LANE, address, MetadataByName(topics), self._answer_s
                )
            except LogUnavailable as error:
                said.append(str(error))
                continue
            return self._learn(answer)
        raise LogUnavailable(f"no Kafka broker answers: {'; '.join(said)}")

    async def route(self, partitions: Iterable[Partition]) -> dict[int, list[Partition]]:
        """Partitions by the broker that leads them; those without a leader now are left out.

        Raises UnknownTopic, UnknownPartition, LogUnavailable when no broker answers.
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
        """How many partitions the topic had when last asked. Raises UnknownTopic."""
        if topic not in self._counts:
            await self.refresh([topic])
        if topic not in self._counts:
            raise UnknownTopic(topic)
        return self._counts[topic]

    def knows(self, topic: str) -> bool:
        """Whether the topic existed when last asked."""
        return topic in self._counts

    def topic_id(self, topic: str) -> bytes | None:
        """By which it is told from another of the same name; None where brokers are too old."""
        return self._ids.get(topic)

    def leader(self, partition: Partition) -> int | None:
        """The broker that leads the partition, as far as is known."""
        return self._leaders.get(partition)

    @property
    def leader_epochs(self) -> Mapping[Partition, int]:
        """The terms of the leaders, where brokers say them."""
        return self._leader_epochs

    def controller(self) -> int:
        """A broker that takes requests for the controller. Only after `open`."""
        return (
            self._controller if self._controller in self._addresses else next(iter(self._addresses))
        )

    def forget(self, partitions: Iterable[Partition]) -> None:
        """What is known of their leaders proved wrong; the next `route` asks anew."""
        for partition in partitions:
            self._leaders.pop(partition, None)

    async def ask(self, lane: str, node: int, request: Any, answer_s: float | None = None) -> Any:
        """Sends a request to a broker and returns the answer's struct. Raises LogUnavailable."""
        if node not in self._addresses:
            raise LogUnavailable(f"broker {node} is gone")
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
        # Who did not answer last time goes last: it may cost half of what a call may take.
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
                if known_ids.get(topic) not in (None, id_):  # another topic of the same name
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
        # An idle connection may have died unnoticed, which says nothing of the broker.
        connection, _ = await self._connection(lane, address)
        return await connection.send(request)

    async def _connection(self, lane: str, address: Address) -> tuple[Any, bool]:
        """An open connection, and whether it is a new one."""
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
    """No call of the log waits longer than this: it raises LogUnavailable, for the partitions that
    are still `unanswered`."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        out = sorted(unanswered())
        about = f" of {named(out)}" if out else ""
        raise LogUnavailable(f"Kafka could not {doing}{about} within {timeout_s:g} s", out) from (
            error
        )


def named(partitions: Sequence[Partition]) -> str:
    """The first, and how many more."""
    more = f" and {len(partitions) - 1} more" if len(partitions) > 1 else ""
    return f"{partitions[0].topic}/{partitions[0].number}{more}"


def _address(server: str) -> Address:
    host, _, port = server.rpartition(":")
    return host.strip("[]"), int(port)


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """What every connection is opened with. Reads files, so not on the event loop."""
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
