"""Follows many partitions as they grow, with one long poll for each broker that leads some of them.

Positions move only when a slice is returned, so a fetch that is late, lost or interrupted is
repeated without consequences. Easy to get wrong: an idle partition differs from an unreachable one.
If its leader *answers* that there are no new records, the partition is idle. A leader is reported
only if it has not answered for `PATIENCE_S` while `next` was waiting. Partitions with other leaders
are not affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import (
    LogError,
    LogTruncated,
    LogUnavailable,
    OffsetOutOfRange,
    UnknownPartition,
    UnknownTopic,
)
from eventstreams.log.base import NOTHING_KNOWN, Slice
from eventstreams.log.kafka import errors
from eventstreams.log.kafka.brokers import Brokers, named
from eventstreams.log.kafka.fetch import Fetched, fetch_request, fetched, is_offset
from eventstreams.log.kafka.records import unpacked
from eventstreams.model.epochs import NO_EPOCH, NO_EPOCHS, Epochs
from eventstreams.model.event import Bounds, Partition

PATIENCE_S = 3.0
"""How long a leader may take to answer, in seconds, before `next` reports it as unreachable.
Elections take less time than this."""

_LANE = "follow"
_POLL_MS = 250
"""The longest a broker delays the answer to a fetch while there are no new records. A partition
that was just assigned waits for that answer."""
_PARTITION_BYTES_MAX = 1 << 20
"""Leaves room in an answer for other partitions beside a busy one."""
_RETRY_PAUSE_S = 0.1
_ABSENT_TIMES = 10
"""How many searches in a row must fail before a missing partition is reported: some brokers get the
metadata of a new topic later than others."""

GetBounds = Callable[[Collection[Partition]], Awaitable[Mapping[Partition, Bounds]]]


class _Followed:
    """One partition. `answered_s` is when its leader last answered, by the follower's clock."""

    def __init__(self, offset: int, epochs: Epochs, answered_s: float) -> None:
        self.offset = offset
        self.epochs = epochs
        """The epochs of the records before `offset`."""
        self.answered_s = answered_s
        self.accepted = bool(epochs.starts)
        """Whether the log is known to have held the records before `offset`."""
        self.absent = 0
        self.problem = ""

    @property
    def last_epoch(self) -> int:
        """The epoch of the record read last; NO_EPOCH if it is not known."""
        return self.epochs.epochs[-1] if self.epochs.epochs else NO_EPOCH


class _Arrived(NamedTuple):
    """One partition's part of an answer. `records` is None if it is an error or a divergence."""

    found: Fetched
    asked: int
    records: Slice | LogError | None


async def _unpacked(found: Fetched, asked: int) -> _Arrived:
    if found.code != errors.NONE or found.diverging is not None:
        return _Arrived(found, asked, None)
    partition = found.partition
    try:
        one = await unpacked(partition, asked, found.data, found.aborted)
    except errors.FOREIGN as error:
        wrong = errors.translated(error, f"reading {partition.topic}", partition)
        return _Arrived(found, asked, wrong)
    return _Arrived(found, asked, one)


class _Clock:
    """A clock that runs only while `next` waits. Time between calls does not count as silence."""

    def __init__(self) -> None:
        self._run_s = 0.0
        self._since: float | None = None

    def now(self) -> float:
        return self._run_s + (time.monotonic() - self._since if self._since is not None else 0.0)

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._run_s = self.now()
        self._since = None


class KafkaFollower:
    """Implements Follower; created by `KafkaLog.follow`. Only one caller at a time uses `next`."""

    def __init__(
        self,
        starts: Mapping[Partition, int],
        epochs: Mapping[Partition, int] = NOTHING_KNOWN,
        *,
        brokers: Brokers,
        settings: KafkaSettings,
        bounds: GetBounds,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._brokers = brokers
        self._settings = settings
        self._bounds = bounds
        self._patience_s = min(patience_s, settings.request_timeout_s)
        self._clock = _Clock()
        self._followed: dict[Partition, _Followed] = {}
        self._topic_ids: dict[str, bytes] = {}
        self._arrived: list[_Arrived] = []
        self._out_of_range: dict[Partition, int] = {}
        self._truncated: list[LogTruncated] = []
        self._first = 0
        # Polls by broker, and one search for leaders. They continue when `next` is cancelled.
        self._polls: dict[int, asyncio.Task[None]] = {}
        self._search: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.assign(starts, epochs)

    async def next(self) -> list[Slice]:
        with self._clock:
            while True:
                self._news.clear()  # before looking, so that later arrivals set it again
                # Errors come first, so that busy partitions do not delay the errors of others.
                self._raise_absence()
                await self._raise_out_of_range()
                if self._truncated:
                    raise self._truncated.pop(0)
                self._raise_silence()
                slices = list(self._take_arrived())
                self._poll()
                if slices:
                    return slices
                if not self._out_of_range:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._patience_left_s()):
                            await self._news.wait()

    def assign(
        self, starts: Mapping[Partition, int], epochs: Mapping[Partition, int] = NOTHING_KNOWN
    ) -> None:
        for partition, offset in starts.items():
            known = NO_EPOCHS
            if offset and (epoch := epochs.get(partition, NO_EPOCH)) != NO_EPOCH:
                known = Epochs((offset - 1,), (epoch,))
            self._followed[partition] = _Followed(offset, known, self._clock.now())
            self._truncated = [each for each in self._truncated if each.partition != partition]
            self._pin(partition.topic)
            self._out_of_range.pop(partition, None)
            if not is_offset(offset):
                self._out_of_range[partition] = offset
        self._news.set()

    def drop(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._followed.pop(partition, None)
            self._out_of_range.pop(partition, None)
        self._truncated = [each for each in self._truncated if each.partition in self._followed]
        left = {partition.topic for partition in self._followed}
        for topic in self._topic_ids.keys() - left:
            del self._topic_ids[topic]

    def _pin(self, topic: str) -> None:
        if topic not in self._topic_ids and (id_ := self._brokers.topic_id(topic)):
            self._topic_ids[topic] = id_

    def topic_id(self, topic: str) -> bytes | None:
        """Return the id of the topic that is followed, even if another topic has its name now."""
        return self._topic_ids.get(topic)

    async def aclose(self) -> None:
        self._followed.clear()
        tasks = [*self._polls.values(), *([self._search] if self._search else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Sending requests

    def _poll(self) -> None:
        """Start a fetch from each leader without one, and a search if a partition has no leader."""
        wanted: dict[int, dict[Partition, int]] = {}
        leaderless = False
        for partition, followed in self._in_turn():
            node = self._brokers.leader(partition)
            if node is None:
                leaderless = True
            elif node not in self._polls and partition not in self._out_of_range:
                self._pin(partition.topic)
                wanted.setdefault(node, {})[partition] = followed.offset
        for node, offsets in wanted.items():
            self._polls[node] = asyncio.create_task(self._fetch(node, offsets))
        if leaderless and self._search is None:
            self._search = asyncio.create_task(self._find_leaders())

    def _in_turn(self) -> Iterator[tuple[Partition, _Followed]]:
        """Return all partitions, each time beginning with the next one.

        Brokers send a batch that is larger than the limits only for the first partition.
        """
        partitions = list(self._followed.items())
        if partitions:
            self._first = (self._first + 1) % len(partitions)
        yield from partitions[self._first :]
        yield from partitions[: self._first]

    async def _fetch(self, node: int, offsets: Mapping[Partition, int]) -> None:
        request = fetch_request(
            offsets,
            ids=self._topic_ids,
            epochs={p: self._followed[p].last_epoch for p in offsets},
            leader_epochs=self._brokers.leader_epochs,
            isolation=self._settings.isolation_level,
            wait_ms=_POLL_MS,
            bytes_max=self._settings.fetch_bytes_max,
            partition_bytes_max=min(_PARTITION_BYTES_MAX, self._settings.fetch_bytes_max),
        )
        try:
            answer = await self._brokers.ask(_LANE, node, request, self._patience_s)
            for found in fetched(request, answer, self._settings.isolation_level):
                self._arrived.append(await _unpacked(found, offsets[found.partition]))
        except LogUnavailable as error:
            self._mistrust(offsets, str(error))
        finally:
            del self._polls[node]
            self._news.set()

    async def _find_leaders(self) -> None:
        try:
            lost = [p for p in self._followed if self._brokers.leader(p) is None]
            if any(self._followed[p].problem for p in lost):
                await asyncio.sleep(_RETRY_PAUSE_S)
            try:
                counts = await self._brokers.refresh({p.topic for p in lost})
            except LogUnavailable as error:
                self._mistrust(lost, str(error))
            else:
                for partition in lost:
                    if followed := self._followed.get(partition):
                        topic, number = partition
                        there = self._is_same(topic) and 0 <= number < counts.get(topic, 0)
                        followed.absent = 0 if there else followed.absent + 1
                        if self._brokers.leader(partition) is None:
                            followed.problem = "no leader" if there else "it does not exist"
        finally:
            self._search = None
            self._news.set()

    def _is_same(self, topic: str) -> bool:
        return self._topic_ids.get(topic) in (None, self._brokers.topic_id(topic))

    def _is_pinned(self, topic: str) -> bool:
        """Return whether all answers are known to come from the topic that is followed."""
        return topic in self._topic_ids and self._is_same(topic)

    def _mistrust(self, partitions: Collection[Partition], problem: str) -> None:
        self._brokers.forget(partitions)
        for partition in partitions:
            if followed := self._followed.get(partition):
                followed.problem = problem

    # Handling answers

    def _take_arrived(self) -> Iterator[Slice]:
        arrived, self._arrived = self._arrived, []
        for found, asked, records in arrived:
            followed = self._followed.get(found.partition)
            # The offset differs if the partition was assigned again after this request.
            if followed is None or followed.offset != asked:
                continue
            if one := self._take(found, records, followed):
                yield one

    def _take(
        self, found: Fetched, one: Slice | LogError | None, followed: _Followed
    ) -> Slice | None:
        partition, code, diverging = found.partition, found.code, found.diverging
        if code == errors.OFFSET_OUT_OF_RANGE:
            self._out_of_range[partition] = followed.offset
            return None
        if code != errors.NONE:
            self._mistrust([partition], errors.name_of(code))
            return None
        if diverging is not None:
            end = followed.epochs.common_end(followed.offset, diverging)
            self._truncate(partition, followed, end)
            return None
        if not isinstance(one, Slice):
            self._mistrust([partition], str(one))
            return None
        followed.answered_s = self._clock.now()
        followed.problem = ""
        followed.accepted = True
        if one.next == followed.offset:
            return None
        followed.offset = one.next
        followed.epochs = followed.epochs.then(one.epochs)
        return one

    def _truncate(self, partition: Partition, followed: _Followed, end: int) -> None:
        self._truncated.append(LogTruncated(partition, followed.offset, end))
        followed.offset = end
        followed.epochs = followed.epochs.before(end)
        followed.answered_s = self._clock.now()

    # Reporting errors

    def _raise_absence(self) -> None:
        for partition, followed in list(self._followed.items()):
            if followed.absent < _ABSENT_TIMES:
                continue
            if self._brokers.has_topic(partition.topic) and self._is_same(partition.topic):
                self.drop([partition])
                raise UnknownPartition(partition)
            self.drop([p for p in self._followed if p.topic == partition.topic])
            raise UnknownTopic(partition.topic)

    async def _raise_out_of_range(self) -> None:
        for partition, offset in list(self._out_of_range.items()):
            try:
                async with asyncio.timeout(self._patience_s):  # other partitions wait meanwhile
                    bounds = (await self._bounds([partition])).get(partition)
            except (LogError, TimeoutError):
                bounds = None
            if self._out_of_range.get(partition) != offset:  # it was assigned again meanwhile
                continue
            followed = self._followed[partition]
            if bounds is not None and followed.accepted and self._is_pinned(partition.topic):
                # This is the topic that was read, not a new one of the same name.
                if offset > bounds.end:
                    del self._out_of_range[partition]
                    self._truncate(partition, followed, bounds.end)
                    continue
                if offset >= bounds.oldest:
                    del self._out_of_range[partition]
                    problem = f"its leader does not know epoch {followed.last_epoch}"
                    self._mistrust([partition], problem)
                    continue
            self.drop([partition])
            raise OffsetOutOfRange(partition, offset, bounds)

    def _patience_left_s(self) -> float | None:
        if not self._followed:
            return None
        silent_since = min(followed.answered_s for followed in self._followed.values())
        return max(0.0, silent_since + self._patience_s - self._clock.now())

    def _raise_silence(self) -> None:
        """Raise LogUnavailable for partitions whose leaders have not answered for too long.

        This happens once in `patience_s`, not at every call, so that others are read in between.
        """
        now = self._clock.now()
        silent = [p for p, f in self._followed.items() if now - f.answered_s >= self._patience_s]
        if not silent:
            return
        problem = self._followed[silent[0]].problem
        for partition in silent:
            self._followed[partition].answered_s = now
        raise LogUnavailable(
            f"no response from the leader of {named(silent)} for {self._patience_s:g} s: {problem}",
            silent,
        )
