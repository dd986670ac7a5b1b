"""Resolves a request to a spec and a position: from Last-Event-ID, else `since`, else now.

Last-Event-ID determines the subscription. The URL only limits which topics it may name, and
partitions that the header leaves out are not read. There is one exception: if an id in our own form
covers a topic's partitions from 0 on without a hole, it covers the whole topic, and partitions that
were added since start at their first record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from eventstreams.errors import (
    ConfigurationFault,
    GatewayStopping,
    LogError,
    LogUnavailable,
    LogUnreachable,
    TopicNotAvailable,
    UnknownPartition,
    UnknownTopic,
)
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.resume import Gap, Resumed
from eventstreams.fanout.spec import SubscriptionSpec
from eventstreams.model.catalogue import Selection
from eventstreams.model.event import Partition
from eventstreams.model.position import PartitionCursor, Position, topics_of
from eventstreams.turns import Turns

RETRY_AFTER_S = 5
_AT_ONCE = 64
"""How many cursors of one client are resolved at the same time."""
_MANY = 16 * _AT_ONCE
"""How many partitions one step looks at in about a millisecond."""


class Start(NamedTuple):
    """What a client subscribes to, from which position, and what it has missed."""

    spec: SubscriptionSpec
    position: Position
    gaps: list[Gap]


class StartResolver:
    def __init__(self, *, hub: Hub, turns: Turns, patience_s: float) -> None:
        self._hub = hub
        self._turns = turns
        self._follower = hub.follower
        self._patience_s = patience_s
        """How long a request waits for an unreachable log before it is refused, in seconds."""

    async def start(
        self,
        selection: Selection,
        template: SubscriptionSpec,
        *,
        cursors: Sequence[PartitionCursor | str] | None,
        since_ms: int | None,
        client: str,
    ) -> Start:
        """Resolve a request; `template` is its spec without partitions.

        `cursors` come from its Last-Event-ID and may be names of topics; `since_ms` is a time in
        ms. If there are many partitions, the work pauses between turns of `client`.
        Raises TopicNotAvailable, ConfigurationFault, GatewayStopping or LogUnreachable.
        """
        try:
            async with asyncio.timeout(self._patience_s):
                await self._hub.reachable.wait()
                if self._hub.draining:
                    raise GatewayStopping("This gateway is stopping", 1)
                if cursors is None:
                    return await self._fresh(selection, template, since_ms, client)
                return await self._resumed(selection, template, cursors, since_ms, client)
        except (UnknownTopic, UnknownPartition) as error:
            raise TopicNotAvailable(str(error), availableTopics=self._available(selection)) from (
                error
            )
        except (LogError, TimeoutError) as error:
            if isinstance(error, LogUnavailable):
                self._follower.suspect(error)
            asked = self._partitions(sorted(selection.topics))
            reason = str(self._follower.outage(asked) or error) or "it did not respond in time"
            raise LogUnreachable(f"The log is unreachable: {reason}", RETRY_AFTER_S) from error

    async def _fresh(
        self, selection: Selection, template: SubscriptionSpec, since_ms: int | None, client: str
    ) -> Start:
        await self._require(selection, selection.topics)
        partitions = self._partitions(selection.topics)
        await self._follower.reach(partitions)
        spec = template._replace(partitions=partitions, growing=frozenset(selection.topics))
        if since_ms is None:
            return Start(spec, self._hub.now(spec), [])
        cursors = [PartitionCursor(p, None, since_ms) for p in partitions]
        return await self._at(spec, cursors, client)

    async def _resumed(
        self,
        selection: Selection,
        template: SubscriptionSpec,
        cursors: Sequence[PartitionCursor | str],
        since_ms: int | None,
        client: str,
    ) -> Start:
        topics = tuple(dict.fromkeys(topics_of(cursors)))
        await self._require(selection, topics)
        by_name = [cursor for cursor in cursors if isinstance(cursor, str)]
        given = [cursor for cursor in cursors if not isinstance(cursor, str)]
        order = {partition: i for i, partition in enumerate(self._partitions(topics))}
        for cursor in given:
            if cursor.partition not in order:
                raise UnknownPartition(cursor.partition)
        await self._pause(len(given), client)
        named = {cursor.partition for cursor in given}
        for partition in self._partitions(by_name):
            if partition not in named:
                given.append(_from_name(partition, since_ms))
        whole = self._whole([cursor for cursor in given if cursor.partition.topic not in by_name])
        await self._pause(len(given), client)
        given.sort(key=lambda cursor: order[cursor.partition])
        partitions = tuple(cursor.partition for cursor in given)
        # Partitions added since the id was made join when the subscription begins.
        growing = whole | frozenset(by_name)
        spec = template._replace(partitions=partitions, growing=growing)
        return await self._at(spec, given, client)

    async def _at(
        self, spec: SubscriptionSpec, cursors: list[PartitionCursor], client: str
    ) -> Start:
        await self._follower.reach(spec.partitions)
        await self._pause(len(cursors), client)
        found = await self._resume(cursors, client)
        await self._pause(len(cursors), client)
        position = Position(
            spec.partitions,
            tuple(resumed.offset for resumed in found),
            tuple(resumed.timestamp_ms for resumed in found),
            tuple(resumed.epoch for resumed in found),
        )
        return Start(spec, position, [r.gap for r in found if r.gap is not None])

    async def _pause(self, partitions: int, client: str) -> None:
        """Continue in another turn of the client, if a step for so many partitions takes long."""
        if partitions > _MANY:
            await self._turns.pause(client)

    async def _resume(self, cursors: Sequence[PartitionCursor], client: str) -> list[Resumed]:
        """Return where to continue from each cursor.

        All times take one request to the log. Other cursors are resolved a few at a time, so that a
        client that names very many partitions does not start a task for each; those that need no
        read of the log start none.
        """
        resolver = self._hub.resume_resolver
        found: dict[Partition, Resumed] = {}
        times = {
            cursor.partition: cursor.timestamp_ms or 0
            for cursor in cursors
            if cursor.offset is None
        }
        if times:
            async with self._hub.catch_up.slots:
                found = await resolver.at_times(times)
        others = [cursor for cursor in cursors if cursor.offset is not None]
        for first in range(0, len(others), _AT_ONCE):
            if first % _MANY == 0:
                await self._pause(first, client)
            far: list[PartitionCursor] = []
            for cursor in others[first : first + _AT_ONCE]:
                if resolver.is_near(cursor):
                    found[cursor.partition] = await resolver.resume(cursor)
                else:
                    far.append(cursor)
            resumed = await asyncio.gather(*map(self._hub.resume, far))
            found.update(zip((cursor.partition for cursor in far), resumed, strict=True))
        return [found[cursor.partition] for cursor in cursors]

    def _whole(self, cursors: list[PartitionCursor]) -> frozenset[str]:
        """Return the topics of which the cursors cover all partitions, in an id of our own form."""
        numbers: dict[str, list[int]] = {}
        ours: dict[str, bool] = {}
        for cursor in cursors:
            topic = cursor.partition.topic
            numbers.setdefault(topic, []).append(cursor.partition.number)
            form = (
                cursor.offset is not None and cursor.offset >= 0 and cursor.timestamp_ms is not None
            )
            ours[topic] = ours.get(topic, True) and form
        return frozenset(
            topic
            for topic, mine in numbers.items()
            if ours[topic] and sorted(mine) == list(range(len(mine)))
        )

    async def _require(self, selection: Selection, topics: Sequence[str]) -> None:
        """Raise TopicNotAvailable unless all topics are allowed and exist.

        Raises ConfigurationFault if none of the selection's topics exist.
        """
        refused = any(topic not in selection.allowed for topic in topics)
        if not refused and any(not self._follower.partitions(topic) for topic in topics):
            await self._follower.refresh()
        available = self._available(selection)
        missing = [topic for topic in topics if topic not in available]
        if not available:
            raise ConfigurationFault(
                "None of the streams' topics exist", allowedTopics=sorted(selection.allowed)
            )
        if missing:
            raise TopicNotAvailable(
                f"Topics {', '.join(missing)} are not available for consumption.",
                availableTopics=available,
            )

    def _available(self, selection: Selection) -> list[str]:
        return sorted(t for t in selection.allowed if self._follower.partitions(t))

    def _partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        return tuple(p for topic in topics for p in self._follower.partitions(topic))


def _from_name(partition: Partition, since_ms: int | None) -> PartitionCursor:
    return (
        PartitionCursor(partition, -1, None)
        if since_ms is None
        else PartitionCursor(partition, None, since_ms)
    )
