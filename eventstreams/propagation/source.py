"""Defines the contract of event sources for rules, and implements it for a log of this process.

A source assigns partitions to its `Owner` and revokes them. The owner commits how far it has
finished a partition. `KafkaGroup` (log/kafka/group.py) is the other implementation, with which
instances of a service share the partitions.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from eventstreams.errors import (
    ConfigError,
    LogTruncated,
    LogUnavailable,
    OffsetOutOfRange,
    RecordsDamaged,
    UnknownPartition,
    UnknownTopic,
)
from eventstreams.log.base import Follower, Log, Slice
from eventstreams.model.event import Bounds, Partition
from eventstreams.model.nearest import nearest

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """Acts on the events of a source."""

    def on_assigned(self, starts: Mapping[Partition, int]) -> None:
        """Begin to read these partitions, each from its offset."""
        ...

    async def on_revoked(self, partitions: Collection[Partition]) -> None:
        """Stop reading these partitions; return when nothing of them is in flight or
        uncommitted.
        """
        ...


LOOK_EVERY_S = 10.0
"""How often topics that do not exist are looked for."""


class Source(Protocol):
    """The events of one rule, in order per partition."""

    @property
    def missing(self) -> Mapping[str, Sequence[str]]:
        """The topics that are to be read and do not exist, each with the nearest known names.

        Once one exists, it is read from its beginning.
        """
        ...

    async def start(self, owner: Owner) -> None:
        """Begin. Raises LogUnavailable, after which it may be called again."""
        ...

    async def next(self, without: Collection[Partition] = ()) -> Sequence[Slice]:
        """Wait for events of all partitions but those of `without`, which are read later.

        The caller must ignore slices of partitions that have been revoked.

        Raises LogUnavailable, after which it may be called again. Cancelling it loses no event.
        """
        ...

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        """Store the offsets from which to continue after a crash. Raises LogUnavailable."""
        ...

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """Return the end offsets. Raises LogUnavailable."""
        ...

    async def aclose(self) -> None:
        """Release all partitions."""
        ...


class Positions(Protocol):
    """The committed offsets of all rules of a service in one process."""

    def of(self, group: str) -> Mapping[Partition, int]:
        """Return the committed offsets of a rule."""
        ...

    async def commit(self, group: str, positions: Mapping[Partition, int]) -> None:
        """Store offsets, so that they survive the process. Raises LogUnavailable."""
        ...


class MemoryPositions:
    """Positions in memory, which are lost when the process ends."""

    def __init__(self) -> None:
        self._committed: dict[str, dict[Partition, int]] = {}

    def of(self, group: str) -> Mapping[Partition, int]:
        """Return the committed offsets of a rule."""
        return dict(self._committed.get(group, {}))

    async def commit(self, group: str, positions: Mapping[Partition, int]) -> None:
        """Store offsets."""
        self._committed.setdefault(group, {}).update(positions)


class PositionFile(MemoryPositions):
    """Positions in a JSON file, which is replaced atomically.

    Commits that arrive while one is being written are written together.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises ConfigError if it exists and cannot be read."""
        super().__init__()
        self._path = path
        self._writing = asyncio.Lock()
        self._changes = 0
        self._written = 0
        self._replacing = threading.Lock()
        self._replaced = 0
        self._lock = _only_one(path)
        try:
            self._committed |= _read_positions(path)
        except ConfigError:
            os.close(self._lock)
            raise

    async def commit(self, group: str, positions: Mapping[Partition, int]) -> None:
        """Store offsets; they are on disk when this returns. Raises LogUnavailable."""
        await super().commit(group, positions)
        self._changes += 1
        mine = self._changes
        async with self._writing:
            if self._written >= mine:
                return
            upto, data = self._changes, self._document()
            try:
                await asyncio.to_thread(self._replace, data, upto)
            except OSError as error:
                reason = error.strerror or error
                raise LogUnavailable(f"writing {self._path}: {reason}") from error
            self._written = upto

    def _document(self) -> bytes:
        document: dict[str, dict[str, dict[str, int]]] = {}
        for group, positions in self._committed.items():
            topics = document.setdefault(group, {})
            for (topic, number), offset in positions.items():
                topics.setdefault(topic, {})[str(number)] = offset
        return json.dumps(document, indent=1).encode()

    def close(self) -> None:
        """Unlock the file for other processes."""
        os.close(self._lock)

    def _replace(self, data: bytes, number: int) -> None:
        """Write the file in a thread, unless newer data was written. Cancelling does not stop
        it.
        """
        with self._replacing:
            if number <= self._replaced:
                return
            new = self._path.with_name(self._path.name + ".new")
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._replaced = number


def _read_positions(path: Path) -> dict[str, dict[Partition, int]]:
    """Return the positions in a file. Raises ConfigError."""
    try:
        document: Any = json.loads(path.read_bytes())
        return {
            group: {
                Partition(topic, int(number)): int(offset)
                for topic, numbers in topics.items()
                for number, offset in numbers.items()
            }
            for group, topics in cast("dict[str, dict[str, dict[str, int]]]", document).items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError([f"{path}: not a file of positions: {error}"]) from error


def _only_one(path: Path) -> int:
    """Return a file that this process keeps open and locked. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ConfigError(
            [f"{path}: another process already acts on the events of this embedded log"]
        ) from error
    return lock


def _oldest(bounds: Bounds | None) -> int:
    return 0 if bounds is None else bounds.oldest


class LogSource:
    """Reads topics of a log that no other process reads for the same rules."""

    def __init__(
        self,
        *,
        log: Log,
        group: str,
        topics: Collection[str],
        earliest: Collection[str],
        made: Collection[str],
        positions: Positions,
        known: Collection[str] = (),
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """Set what to read.

        Without committed offsets, topics in `earliest` are read from their beginning, and the
        others from their end. Topics in `made` are created if they do not exist. `known` names are
        suggested for topics that do not exist.
        """
        self._log = log
        self._made = frozenset(made)
        self._known = known
        self._look_every_s = look_every_s
        self._looked_s = 0.0
        self._missing: dict[str, Sequence[str]] = {}
        self._group = group
        self._topics = tuple(topics)
        self._earliest = frozenset(earliest)
        self._positions = positions
        self._follower: Follower | None = None
        self._owner: Owner | None = None
        self._nexts: dict[Partition, int] = {}
        """The offset from which each partition is read on."""
        self._left_out: frozenset[Partition] = frozenset()

    @property
    def missing(self) -> Mapping[str, Sequence[str]]:
        """The topics that do not exist, each with the nearest known names."""
        return self._missing

    async def start(self, owner: Owner) -> None:
        """Begin. Raises LogUnavailable."""
        self._owner = owner
        for topic in self._topics:
            if topic in self._made:
                await self._log.create_topic(topic, 1)
        starts = await self._begin(self._topics, self._earliest)
        self._nexts = dict(starts)
        self._follower = self._log.follow(starts)
        owner.on_assigned(starts)

    async def _begin(
        self, topics: Collection[str], earliest: Collection[str]
    ) -> Mapping[Partition, int]:
        """Return the starting offsets of the existing topics' partitions. Raises LogUnavailable."""
        self._looked_s = asyncio.get_running_loop().time()
        found = await self._log.partitions(topics)
        self._missing = {
            topic: nearest(topic, self._known, 3) for topic in topics if topic not in found
        }
        partitions = [each for several in found.values() for each in several]
        bounds = await self._log.bounds(partitions)
        committed = self._positions.of(self._group)
        starts: dict[Partition, int] = {}
        for partition in partitions:
            oldest, end = bounds[partition]
            start = committed.get(partition)
            if start is None:
                start = oldest if partition.topic in earliest else end
            if not oldest <= start <= end:
                _log.error(
                    "%s: %s/%d was read up to %d, but the log holds %d to %d",
                    *(self._group, *partition, start, oldest, end),
                )
            starts[partition] = min(max(start, oldest), end)
        # Without a committed offset, the rule would begin at the new end after a crash.
        await self._positions.commit(self._group, starts)
        return starts

    async def _look_for_missing(self, owner: Owner, follower: Follower) -> None:
        """Read the topics that exist now. Raises LogUnavailable."""
        starts = await self._begin(list(self._missing), list(self._missing))
        if starts:
            self._nexts |= starts
            follower.assign(starts)
            owner.on_assigned(starts)

    async def next(self, without: Collection[Partition] = ()) -> Sequence[Slice]:
        """Wait for events. Raises LogUnavailable."""
        assert self._follower is not None
        assert self._owner is not None
        now_s = asyncio.get_running_loop().time()
        if self._missing and now_s - self._looked_s >= self._look_every_s:
            await self._look_for_missing(self._owner, self._follower)
        wanted = frozenset(without)
        self._follower.drop(wanted - self._left_out)
        self._follower.assign({each: self._nexts[each] for each in self._left_out - wanted})
        self._left_out = wanted
        slices: Sequence[Slice] = ()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._look_every_s if self._missing else None):
                slices = await self._read(self._follower)
        self._nexts |= {each.partition: each.next for each in slices}
        return slices

    async def _read(self, follower: Follower) -> Sequence[Slice]:
        """Raises LogUnavailable."""
        try:
            return await follower.next()
        except (OffsetOutOfRange, RecordsDamaged) as error:
            partition, bounds = error.partition, error.bounds
            following = error.next if isinstance(error, RecordsDamaged) else _oldest(bounds)
            _log.error(
                "%s: events up to %d cannot be read, skipping them: %s",
                self._group,
                following,
                error,
            )
            follower.assign({partition: following})
            return [Slice(partition, (), following)]
        except LogTruncated as error:
            return [Slice(error.partition, (), error.end)]
        except (UnknownTopic, UnknownPartition) as error:
            raise LogUnavailable(str(error)) from error

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        """Store the offsets from which to continue after a crash. Raises LogUnavailable."""
        await self._positions.commit(self._group, positions)

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """Return the end offsets. Raises LogUnavailable."""
        bounds = await self._log.bounds(partitions)
        return {partition: each.end for partition, each in bounds.items()}

    async def aclose(self) -> None:
        """Stop following."""
        if self._follower is not None:
            await self._follower.aclose()
            self._follower = None
