"""Keeps bookmarks in Kafka, with a transactional producer and a compacted topic for the state.

Kafka's transactions make records and state appear together, and its transactional ids fence the
previous owner: starting a producer with the id of the bookmark ends every open transaction of other
producers with that id. Each bookmark has its own topic, so that the open transaction of another
bookmark never hides its newest state. The producer is aiokafka's, used through its public
interface.

After any error the producer cannot be used again. Claiming the bookmark again creates a new one,
and the state shows what was committed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import ProducerFenced

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import BookmarkLost
from eventstreams.log.base import Log
from eventstreams.log.future import FutureLimit
from eventstreams.log.kafka import errors
from eventstreams.log.kafka.brokers import bounded, connection_options
from eventstreams.model.event import Event, Partition, Record

BOOKMARK_PREFIX = "eventstreams.bookmark."
BOOKMARK_CONFIGS = (("cleanup.policy", "compact"), ("segment.bytes", str(16 * 2**20)))
_REQUEST_BYTES_MAX = 64 * 2**20
"""High enough that the broker's settings decide which requests are too large."""
_TRANSACTION_MAX_S = 10.0
"""How long a transaction may last. While the transaction of a dead producer is open, it hides what
other producers append to the same partitions."""
_LOOK_BACK = 16
_LOOK_BACK_GROWTH = 16
_READ_BYTES = 2**20
_STOP_S = 2.0


async def claim(
    log: Log, home: Partition, settings: KafkaSettings, future_limit: FutureLimit
) -> KafkaBookmark:
    """Claim the bookmark whose state is in the partition `home`. Raises ConfigError, LogError."""
    options: dict[str, Any] = dict(await asyncio.to_thread(connection_options, settings))
    options["connections_max_idle_ms"] = options.pop("max_idle_ms")
    options["bootstrap_servers"] = list(settings.bootstrap_servers)
    producer: Any = AIOKafkaProducer(
        transactional_id=home.topic,
        transaction_timeout_ms=int(_TRANSACTION_MAX_S * 1000),
        compression_type=None if settings.compression == "none" else settings.compression,
        max_request_size=_REQUEST_BYTES_MAX,
        **options,
    )
    try:
        async with bounded(settings.request_timeout_s, "claim a bookmark"):
            try:
                await producer.start()
                # The first transaction gets the producer its id, which fences the previous one.
                await producer.begin_transaction()
            except errors.FOREIGN as error:
                raise errors.translated(error, f"claiming {home.topic}") from error
        state = await _last_value(log, home)
    except BaseException:
        await _stopped(producer)
        raise
    return KafkaBookmark(
        producer=producer,
        home=home,
        state=state,
        timeout_s=settings.request_timeout_s,
        future_limit=future_limit,
    )


class KafkaBookmark:
    """Implements Bookmark with a transactional producer; created by `claim`."""

    def __init__(
        self,
        *,
        producer: Any,
        home: Partition,
        state: bytes | None,
        timeout_s: float,
        future_limit: FutureLimit,
    ) -> None:
        """`producer` has begun a transaction, which is empty."""
        self.state = state
        self._producer = producer
        self._home = home
        self._timeout_s = timeout_s
        self._future_limit = future_limit
        self._is_begun = True

    async def append(self, records: Sequence[Record], state: bytes) -> None:
        records = self._future_limit.apply(records)
        doing = f"commit a transaction of {self._home.topic}"
        async with bounded(self._timeout_s, doing):
            try:
                await self._commit(records, state)
            except ProducerFenced as error:
                raise BookmarkLost(f"another owner has claimed {self._home.topic}") from error
            except errors.FOREIGN as error:
                raise errors.translated(error, doing) from error
        self.state = state

    async def aclose(self) -> None:
        await _stopped(self._producer)

    async def _commit(self, records: Sequence[Record], state: bytes) -> None:
        producer = self._producer
        if not self._is_begun:
            await producer.begin_transaction()
        self._is_begun = False
        under_way = [
            await producer.send(
                each.topic,
                each.value,
                key=each.key,
                partition=each.partition,
                timestamp_ms=each.timestamp_ms,
            )
            for each in records
        ]
        topic, number = self._home
        key = topic.removeprefix(BOOKMARK_PREFIX).encode()
        under_way.append(await producer.send(topic, state, key=key, partition=number))
        await asyncio.gather(*under_way)
        await producer.commit_transaction()


async def _stopped(producer: Any) -> None:
    """Stop the producer. The next owner, or the broker, ends its open transaction."""
    with contextlib.suppress(TimeoutError, *errors.FOREIGN):
        async with asyncio.timeout(_STOP_S):
            await producer.stop()


async def _last_value(log: Log, home: Partition) -> bytes | None:
    """Return the value of the newest record, or None if there is none.

    Most offsets hold markers of transactions, so this reads from ever earlier offsets.
    """
    bounds = (await log.bounds([home]))[home]
    back = _LOOK_BACK
    while True:
        start = max(bounds.oldest, bounds.end - back)
        events = await _between(log, home, start, bounds.end)
        if events:
            return events[-1].value
        if start == bounds.oldest:
            return None
        back *= _LOOK_BACK_GROWTH


async def _between(log: Log, home: Partition, start: int, end: int) -> list[Event]:
    found: list[Event] = []
    while start < end:
        slice_ = await log.read(home, start, _READ_BYTES)
        found += slice_.events
        if slice_.next == start:
            break
        start = slice_.next
    return found
