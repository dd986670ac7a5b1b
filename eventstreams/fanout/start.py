"""A request's Last-Event-ID, else its since, else now -> what is subscribed to, from where.

The header is the subscription: the URL only says which topics it may name, and partitions it leaves
out are not read. With one exception: an id in our own form that covers a topic's partitions from 0
on without a hole covers the topic as it was; partitions gained since start at their first record.
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
from eventstreams.fanout.resume import Gap
from eventstreams.fanout.want import Want
from eventstreams.model.event import Partition
from eventstreams.model.position import Mark, Position, topics_of
from eventstreams.model.stream import Selection

RETRY_AFTER_S = 5


class Start(NamedTuple):
    want: Want
    position: Position
    gaps: list[Gap]


class Starter:
    def __init__(self, *, hub: Hub, patience_s: float) -> None:
        self._hub = hub
        self._patience_s = patience_s
        """How long a request waits for a log that is out of reach before it is refused."""

    async def start(
        self,
        selection: Selection,
        template: Want,
        *,
        marks: Sequence[Mark | str] | None,
        since_ms: int | None,
    ) -> Start:
        """`template` is what is wanted, its partitions still to be found. Raises TopicNotAvailable,
        ConfigurationFault, LogUnreachable."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._hub.feed.well.wait()
                if self._hub.draining:
                    raise GatewayStopping("This gateway is being stopped", 1)
                if marks is None:
                    return await self._fresh(selection, template, since_ms)
                return await self._resumed(selection, template, marks, since_ms)
        except (UnknownTopic, UnknownPartition) as error:
            raise TopicNotAvailable(str(error), availableTopics=self._available(selection)) from (
                error
            )
        except (LogError, TimeoutError) as error:
            if isinstance(error, LogUnavailable):
                self._hub.feed.suspect(error)
            asked = self._partitions(sorted(selection.topics))
            reason = str(self._hub.feed.outage(asked) or error) or "no answer in time"
            raise LogUnreachable(f"The log is out of reach: {reason}", RETRY_AFTER_S) from error

    async def _fresh(self, selection: Selection, template: Want, since_ms: int | None) -> Start:
        await self._require(selection, selection.topics)
        partitions = self._partitions(selection.topics)
        await self._hub.feed.reach(partitions)
        want = template._replace(partitions=partitions, growing=frozenset(selection.topics))
        if since_ms is None:
            return Start(want, self._hub.now(want), [])
        return await self._at(want, [Mark(p, None, since_ms) for p in partitions])

    async def _resumed(
        self,
        selection: Selection,
        template: Want,
        marks: Sequence[Mark | str],
        since_ms: int | None,
    ) -> Start:
        topics = tuple(dict.fromkeys(topics_of(marks)))
        await self._require(selection, topics)
        by_name = [mark for mark in marks if isinstance(mark, str)]
        given = [mark for mark in marks if not isinstance(mark, str)]
        order = {partition: i for i, partition in enumerate(self._partitions(topics))}
        for mark in given:
            if mark.partition not in order:
                raise UnknownPartition(mark.partition)
        named = {mark.partition for mark in given}
        for partition in self._partitions(by_name):
            if partition not in named:
                given.append(_from_name(partition, since_ms))
        whole = self._whole([mark for mark in given if mark.partition.topic not in by_name])
        given.sort(key=lambda mark: order[mark.partition])
        partitions = tuple(mark.partition for mark in given)
        # Partitions gained since the id was made are added when the subscription begins.
        growing = whole | frozenset(by_name)
        return await self._at(template._replace(partitions=partitions, growing=growing), given)

    async def _at(self, want: Want, marks: list[Mark]) -> Start:
        await self._hub.feed.reach(want.partitions)
        found = await asyncio.gather(*(self._hub.resume(mark) for mark in marks))
        position = Position(
            want.partitions,
            tuple(resumed.offset for resumed in found),
            tuple(resumed.timestamp_ms for resumed in found),
            tuple(resumed.epoch for resumed in found),
        )
        return Start(want, position, [r.gap for r in found if r.gap is not None])

    def _whole(self, marks: list[Mark]) -> frozenset[str]:
        """Topics whose marks are an id of ours that covered them when it was made."""
        numbers: dict[str, list[int]] = {}
        ours: dict[str, bool] = {}
        for mark in marks:
            topic = mark.partition.topic
            numbers.setdefault(topic, []).append(mark.partition.number)
            form = mark.offset is not None and mark.offset >= 0 and mark.timestamp_ms is not None
            ours[topic] = ours.get(topic, True) and form
        return frozenset(
            topic
            for topic, mine in numbers.items()
            if ours[topic] and sorted(mine) == list(range(len(mine)))
        )

    async def _require(self, selection: Selection, topics: Sequence[str]) -> None:
        """All topics must be allowed and exist; one that is missing fails the whole request."""
        refused = any(topic not in selection.allowed for topic in topics)
        if not refused and any(not self._hub.tails.partitions(topic) for topic in topics):
            await self._hub.feed.refresh()
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
        return sorted(t for t in selection.allowed if self._hub.tails.partitions(t))

    def _partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        return tuple(p for topic in topics for p in self._hub.tails.partitions(topic))


def _from_name(partition: Partition, since_ms: int | None) -> Mark:
    return Mark(partition, -1, None) if since_ms is None else Mark(partition, None, since_ms)
