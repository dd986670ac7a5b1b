"""Implements a consumer group, whose instances share partitions and commit their progress.

Unlike the gateway's follower, this reads through aiokafka's consumer, because the brokers decide
which instance gets which partition. Three things are easy to get wrong:

- All partitions are revoked before partitions are assigned (the eager protocol; aiokafka has no
  cooperative one). In `on_revoked`, the owner finishes or abandons the events in flight.
- If a group has committed nothing for a partition, its first offset is chosen and committed here
  when the partition is assigned. If the consumer chose it, a crash before the first commit would
  skip events.
- An instance that was paused for longer than the session may still act on events of a partition
  that another instance has by then. Its commits are refused, and events repeat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from eventstreams.config.settings import KafkaSettings
from eventstreams.log.base import Slice
from eventstreams.log.kafka import errors
from eventstreams.log.kafka.brokers import connection_options
from eventstreams.model.event import Event, Partition
from eventstreams.model.nearest import nearest

_log = logging.getLogger(__name__)

SESSION_MS = 10_000
"""How long an instance may send no heartbeat before its partitions go to others."""
_HEARTBEAT_MS = 3_000
_REBALANCE_MS = 60_000
"""How long the other instances wait for one that is finishing its events in flight."""
_POLL_MS = 86_400_000
"""Practically no limit: an owner that waits for a slot reads nothing, and must stay a member."""
REFRESH_MS = 10_000
"""How often new partitions, and new topics that match a pattern, are looked for."""
_RECORDS_MAX = 500
_WAIT_MS = 1_000


class Owner(Protocol):
    """The recipient of the events; see propagation/source.py."""

    def on_assigned(self, starts: Mapping[Partition, int]) -> None:
        """Accept these partitions. `starts` has the offset from which each one is read."""
        ...

    async def on_revoked(self, partitions: Collection[Partition]) -> None:
        """Return once no event of these partitions is in flight and all progress is committed."""
        ...


class KafkaGroup:
    """One member of a group. It is a Source of propagation."""

    def __init__(
        self,
        *,
        settings: KafkaSettings,
        group: str,
        takes: Callable[[str], bool],
        topics: Collection[str],
        has_pattern: bool,
        is_earliest: Callable[[str], bool],
        known: Collection[str] = (),
        session_ms: int = SESSION_MS,
        refresh_ms: int = REFRESH_MS,
    ) -> None:
        """Read `topics`, and with `has_pattern` also all others for which `takes` returns True.

        `is_earliest` returns whether a topic without a commit is read from its beginning.
        """
        self._settings = settings
        self._group = group
        self._takes = takes
        self._topics = tuple(topics)
        self._has_pattern = has_pattern
        self._is_earliest = is_earliest
        self._session_ms = session_ms
        self._known = known
        self._refresh_ms = refresh_ms
        self._consumer: Any = None
        self._listener: _Listener | None = None
        self._subscribed: frozenset[str] | None = None
        self._missing: dict[str, Sequence[str]] = {}
        self._refreshed_s = 0.0

    @property
    def missing(self) -> Mapping[str, Sequence[str]]:
        """The topics that do not exist, each with the nearest names of topics and known names."""
        return self._missing

    async def start(self, owner: Owner) -> None:
        """Join the group. Raises ConfigError, and LogUnavailable (call it again later)."""
        options = await asyncio.to_thread(connection_options, self._settings)
        idle_ms = options.pop("max_idle_ms")
        self._subscribed = None
        consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=",".join(self._settings.bootstrap_servers),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=self._settings.isolation_level,
            partition_assignment_strategy=(RoundRobinPartitionAssignor,),
            session_timeout_ms=self._session_ms,
            heartbeat_interval_ms=min(_HEARTBEAT_MS, self._session_ms // 3),
            rebalance_timeout_ms=_REBALANCE_MS,
            max_poll_interval_ms=_POLL_MS,
            metadata_max_age_ms=self._refresh_ms,
            connections_max_idle_ms=idle_ms,
            **options,
        )
        self._consumer = consumer
        self._listener = _Listener(consumer, owner, self._is_earliest, self._group)
        try:
            await consumer.start()
            await self._subscribe()
        except errors.FOREIGN as error:
            await consumer.stop()
            raise errors.translated(error, f"joining group {self._group}") from error
        if self._subscribed:
            await self._listener.joined.wait()

    async def _subscribe(self) -> None:
        """Subscribe to the topics that exist now, if they have changed."""
        there: set[str] = await self._consumer.topics()
        wanted = self._topics
        if self._has_pattern:
            wanted = (*wanted, *(topic for topic in there if self._takes(topic)))
        # Topics that do not exist are left out, because aiokafka would make the broker create them.
        topics = frozenset(there.intersection(wanted))
        candidates = there.union(self._known) if set(topics) != set(wanted) else set[str]()
        self._missing = {
            topic: nearest(topic, candidates, 3) for topic in wanted if topic not in there
        }
        self._refreshed_s = asyncio.get_running_loop().time()
        if self._subscribed is not None and self._listener is not None:
            self._listener.appeared(topics - self._subscribed)
        if topics and topics != self._subscribed:
            self._consumer.subscribe(topics=sorted(topics), listener=self._listener)
        self._subscribed = topics

    async def next(self, without: Collection[Partition] = ()) -> Sequence[Slice]:
        """Wait for events of all partitions except these. Raises LogUnavailable."""
        now_s = asyncio.get_running_loop().time()
        try:
            looks = self._has_pattern or self._missing
            if looks and now_s - self._refreshed_s > self._refresh_ms / 1000:
                await self._subscribe()
            if not self._subscribed:
                await asyncio.sleep(_WAIT_MS / 1000)
                return []
            # Pausing partitions instead would discard their fetched records.
            wanted: set[Any] = set()
            if without:
                wanted = self._consumer.assignment() - {TopicPartition(*each) for each in without}
                if not wanted:
                    await asyncio.sleep(_WAIT_MS / 1000)
                    return []
            found = await self._consumer.getmany(
                *wanted, timeout_ms=_WAIT_MS, max_records=_RECORDS_MAX
            )
        except errors.FOREIGN as error:
            raise errors.translated(error, f"reading for group {self._group}") from error
        slices: list[Slice] = []
        for where, records in cast("dict[Any, list[Any]]", found).items():
            partition = Partition(where.topic, where.partition)
            events = [
                Event(partition, each.offset, each.timestamp, each.value, each.key)
                for each in records
            ]
            slices.append(Slice(partition, events, events[-1].offset + 1))
        return slices

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        """Commit the offsets from which to continue after a crash. Raises LogUnavailable.

        Nothing is committed for partitions that were revoked; their events repeat.
        """
        offsets = {TopicPartition(*partition): offset for partition, offset in positions.items()}
        try:
            await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as error:
            _log.info("group %s: could not commit, so events will repeat: %s", self._group, error)
        except errors.FOREIGN as error:
            raise errors.translated(error, f"committing for group {self._group}") from error

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """Return the end offsets. Raises LogUnavailable."""
        wanted = [TopicPartition(*partition) for partition in partitions]
        if not wanted:
            return {}
        try:
            found: dict[Any, int] = await self._consumer.end_offsets(wanted)
        except errors.FOREIGN as error:
            raise errors.translated(
                error, f"reading the end offsets for group {self._group}"
            ) from error
        return {Partition(each.topic, each.partition): end for each, end in found.items()}

    async def aclose(self) -> None:
        """Leave the group, so that others get the partitions at once."""
        if self._consumer is not None:
            await self._consumer.stop()


_Base: Any = ConsumerRebalanceListener
"""Its methods may be coroutines, although its annotations do not allow that."""


class _Listener(_Base):  # type: ignore[misc]
    def __init__(
        self, consumer: Any, owner: Owner, is_earliest: Callable[[str], bool], group: str
    ) -> None:
        self._consumer = consumer
        self._owner = owner
        self._is_earliest = is_earliest
        self._group = group
        self._known: dict[str, set[int]] = {}
        """The partitions of each topic that existed at its first assignment, or have a commit."""
        self.joined = asyncio.Event()

    def appeared(self, topics: Collection[str]) -> None:
        """Read these topics from their beginning, because they are newer than the group."""
        self._known |= {topic: set[int]() for topic in topics}

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        await self._owner.on_revoked([Partition(each.topic, each.partition) for each in revoked])

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        starts: dict[Any, int] = {}
        self._note_partitions(assigned)
        while True:
            try:
                missing: list[Any] = []
                for each in assigned:
                    offset = await self._consumer.committed(each)
                    if offset is None:
                        missing.append(each)
                    else:
                        starts[each] = offset
                if missing:
                    starts |= await self._begin(missing)
                break
            except KafkaError as error:
                _log.warning(
                    "group %s: the start position is not known yet: %s", self._group, error
                )
                await asyncio.sleep(1.0)
        for each, offset in starts.items():
            self._consumer.seek(each, offset)
        self._owner.on_assigned(
            {Partition(each.topic, each.partition): offset for each, offset in starts.items()}
        )
        self.joined.set()

    def _note_partitions(self, assigned: Collection[Any]) -> None:
        """Record the partitions of topics that are subscribed to for the first time."""
        ours: dict[str, set[int]] = {}
        for each in assigned:
            ours.setdefault(each.topic, set()).add(each.partition)
        for topic in self._consumer.subscription():
            if topic not in self._known:
                there = self._consumer.partitions_for_topic(topic) or set[int]()
                self._known[topic] = there | ours.get(topic, set[int]())

    async def _begin(self, missing: Sequence[Any]) -> dict[Any, int]:
        """Choose and commit the first offsets of partitions without a commit; return them.

        A partition that was added after the group was joined is read from its beginning.
        """
        earliest = [
            each
            for each in missing
            if self._is_earliest(each.topic) or each.partition not in self._known[each.topic]
        ]
        latest = [each for each in missing if each not in earliest]
        starts: dict[Any, int] = {}
        if earliest:
            starts |= await self._consumer.beginning_offsets(earliest)
        if latest:
            starts |= await self._consumer.end_offsets(latest)
        await self._consumer.commit(starts)
        for each in missing:
            self._known[each.topic].add(each.partition)
        return starts
