"""Runs one rule: reads its events, keeps them in order if the rule requires it, and commits.

An event that the rule takes becomes a Job, which is in one of four places: `ready` for a free slot,
running in one of `concurrency` slots, `waiting` for its time, or queued behind another job of its
key. Waiting takes no slot. The number of jobs and their bytes are limited; at the limit, nothing is
read until a job ends. Each job is in flight for the frontier of its partition until it is finished.

Topics take turns for slots, and each partition finds room for some jobs whatever the others need
(`sharing.py`). What is read of a partition and finds no room waits as `unread`; the source leaves
out that partition until all of it is admitted.

When a partition is revoked, its jobs that do not run are dropped, because the next owner of the
partition reads their events again. Running jobs have up to DRAIN_MS to finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from typing import Any

from eventstreams.errors import LogError
from eventstreams.log.base import Slice
from eventstreams.model.event import Event, Partition
from eventstreams.propagation.clock import Clock
from eventstreams.propagation.executor import Executor
from eventstreams.propagation.frontier import CommitFrontier
from eventstreams.propagation.job import Again, Job, JobReader
from eventstreams.propagation.rule import Rule
from eventstreams.propagation.sharing import FairQueue, FairRoom
from eventstreams.propagation.source import Source
from eventstreams.tasks import background

_log = logging.getLogger(__name__)

COMMIT_EVERY_MS = 500
DRAIN_S = 10.0
"""How long running jobs may take after their partition is revoked or the process stops."""
JOBS_BYTES_MAX = 64 * 2**20
"""The most bytes of all jobs of one rule."""
_AGAIN_MS = 1000
_ADMITTED_AT_ONCE = 16
"""Events of a partition that are examined before the next partition has its turn."""


class _Owned:
    """A partition that is assigned to us."""

    def __init__(self, partition: Partition, start: int) -> None:
        self.partition = partition
        self.unread: deque[Event | int] = deque()
        """Events that are not admitted, and after those of each slice, its next offset."""
        self.frontier = CommitFrontier(start)
        self.committed = start
        self.running: set[asyncio.Task[None]] = set()
        self.revoked = False


class RuleWorker:
    """Runs one rule. Implements `source.Owner`."""

    def __init__(
        self,
        *,
        rule: Rule,
        source: Source,
        executor: Executor,
        reader: JobReader,
        clock: Clock,
        commits: bool = True,
    ) -> None:
        self.rule = rule
        self._source = source
        self._executor = executor
        self._reader = reader
        self._clock = clock
        self._commits = commits
        self._owned: dict[Partition, _Owned] = {}
        self._ready: FairQueue[tuple[_Owned, Job]] = FairQueue()
        self._waiting: list[tuple[int, int, _Owned, Job]] = []
        """By the time at which they are due, as `Clock.elapsed_ms` counts it."""
        self._keys: dict[str, deque[tuple[_Owned, Job]]] = {}
        """The jobs queued behind the unfinished job of each key, in order."""
        self._numbers = itertools.count()
        self._jobs = FairRoom(rule.waiting_max)
        self._bytes = FairRoom(JOBS_BYTES_MAX)
        self._running = 0
        self._tasks: asyncio.TaskGroup | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        """Set when an event that found no room may find some."""
        self._wanted = asyncio.Event()
        """Set when a partition that was left out may be read again."""
        self._timer = asyncio.Event()
        self._uncommitted = asyncio.Event()
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self._committing = asyncio.Lock()
        self.started = asyncio.Event()
        """Set once the source has begun; no event appended later is missed."""
        self._missing: Mapping[str, Sequence[str]] = {}
        self.trouble: str | None = None
        """The reason why nothing is being read."""

    # State and commands for operators.

    @property
    def paused(self) -> bool:
        """Whether an operator has paused the rule. Running jobs continue."""
        return not self._unpaused.is_set()

    def pause(self) -> None:
        """Start no job and read nothing until `resume`."""
        self._unpaused.clear()

    def resume(self) -> None:
        """Continue after `pause`."""
        self._unpaused.set()
        self._start_ready()
        self._room.set()
        self._note()

    def state(self) -> dict[str, Any]:
        """Return the state of the rule, as a JSON object."""
        return {
            "name": self.rule.name,
            "paused": self.paused,
            "trouble": self.trouble,
            "missing_topics": dict(self._missing),
            "running": self._running,
            "ready": len(self._ready),
            "waiting": len(self._waiting),
            "behind_their_key": sum(map(len, self._keys.values())),
            "partitions": {
                f"{topic}/{number}": {
                    "next": owned.frontier.next,
                    "committed": owned.committed,
                    "in_flight": owned.frontier.in_flight,
                }
                for (topic, number), owned in sorted(self._owned.items())
            },
        }

    @property
    def counts(self) -> tuple[int, int]:
        """Return the number of running jobs, and of those that wait for a time or another event."""
        return self._running, self._jobs.used - self._running

    @property
    def missing_topics(self) -> Mapping[str, Sequence[str]]:
        """The topics that the rule reads and that do not exist, each with the nearest names."""
        return self._missing

    async def lags(self) -> Mapping[Partition, int]:
        """Return how many offsets of each partition have not been read. Raises LogError."""
        owned = dict(self._owned)
        ends = await self._source.ends(list(owned))
        return {
            partition: max(0, ends[partition] - each.frontier.next)
            for partition, each in owned.items()
            if partition in ends
        }

    async def settled(self) -> Mapping[Partition, int]:
        """Wait until everything in the log is read and no job is ready or running; return the ends.

        Jobs that wait for their time may be left.
        """
        while True:
            self._changed.clear()
            ends = await self._source.ends(list(self._owned))
            read = all(
                partition not in self._owned or self._owned[partition].frontier.next >= end
                for partition, end in ends.items()
            )
            due = self._waiting and self._waiting[0][0] <= self._clock.elapsed_ms()
            if read and not due and not self._ready and not self._running:
                return ends
            await self._changed.wait()

    # Running.

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Act on events during the block; at its end, wait for running jobs."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                async with background(
                    self._read(), self._admit_often(), self._commit_often(), self._wake_waiting()
                ):
                    yield
            finally:
                await self.on_revoked(list(self._owned))
                with contextlib.suppress(LogError):
                    await self._source.aclose()

    async def _read(self) -> None:
        await self._until_it_works(lambda: self._source.start(self))
        self._note_missing()
        self.started.set()
        while True:
            await self._unpaused.wait()
            await self._until_it_works(self._read_some)
            self._note_missing()

    def _note_missing(self) -> None:
        before, self._missing = self._missing, dict(self._source.missing)
        for topic in self._missing.keys() - before.keys():
            near = " or ".join(self._missing[topic])
            _log.warning(
                "rule %s reads topic %s, which does not exist yet%s",
                *(self.rule.name, topic, f"; did you mean {near}?" if near else ""),
            )
        for topic in before.keys() - self._missing.keys():
            _log.info("rule %s: topic %s exists now", self.rule.name, topic)

    async def _until_it_works(self, work: Callable[[], Any]) -> None:
        while True:
            try:
                await work()
            except LogError as error:
                if self.trouble is None:
                    _log.warning("rule %s waits for the log: %s", self.rule.name, error)
                self.trouble = str(error)
                await self._clock.sleep_until(self._clock.elapsed_ms() + _AGAIN_MS)
            else:
                self.trouble = None
                return

    async def _read_some(self) -> None:
        self._wanted.clear()
        full = [partition for partition, owned in self._owned.items() if owned.unread]
        if full and len(full) == len(self._owned):
            await self._wanted.wait()
            return
        for partition, events, following, *_ in await self._next(full):
            owned = self._owned.get(partition)
            if owned is not None:
                owned.unread.extend(events)
                owned.unread.append(following)
        self._room.set()

    async def _next(self, full: Collection[Partition]) -> Sequence[Slice]:
        """Return the next slices of all partitions but these.

        Return nothing if one of these may be read again before anything comes. Raises LogError.
        """
        if not full:
            return await self._source.next()
        reading = asyncio.ensure_future(self._source.next(without=full))
        wanted = asyncio.ensure_future(self._wanted.wait())
        try:
            await asyncio.wait((reading, wanted), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                await asyncio.wait((reading,))
            return () if reading.cancelled() else reading.result()
        finally:
            wanted.cancel()
            reading.cancel()

    async def _admit_often(self) -> None:
        while True:
            await self._room.wait()
            self._room.clear()
            if self._admit_some():
                self._room.set()
            self._note()
            await asyncio.sleep(0)  # other rules take their turns

    def _admit_some(self) -> bool:
        """Admit some events of each partition; return whether any was admitted."""
        admitted = False
        for owned in self._owned.values():
            for _ in range(_ADMITTED_AT_ONCE):
                if not owned.unread or not self._has_room(owned.partition):
                    break
                admitted = True
                self._take(owned, owned.unread.popleft())
        return admitted

    def _has_room(self, partition: Partition) -> bool:
        return (
            not self.paused
            and self._jobs.is_free_for(partition)
            and self._bytes.is_free_for(partition)
            and self._ready.length_of(partition) < self.rule.concurrency
        )

    def _take(self, owned: _Owned, each: Event | int) -> None:
        if isinstance(each, int):
            owned.frontier.skip_to(each)
            self._uncommitted.set()
        elif each.offset >= owned.frontier.next:
            self._admit(owned, each)
        if not owned.unread:
            self._wanted.set()

    def _note(self) -> None:
        self._changed.set()

    # Jobs.

    def _admit(self, owned: _Owned, event: Event) -> None:
        owned.frontier.begin(event.offset)
        job = self._reader.read(event, self._clock.now_ms())
        if job is None:
            owned.frontier.finish(event.offset)
            return
        self._jobs.take(owned.partition, 1)
        self._bytes.take(owned.partition, job.bytes)
        if job.key is not None:
            if (behind := self._keys.get(job.key)) is not None:
                behind.append((owned, job))
                return
            self._keys[job.key] = deque()
        self._enqueue(owned, job)

    def _enqueue(self, owned: _Owned, job: Job) -> None:
        wait_ms = job.due_ms - self._clock.now_ms()
        if wait_ms > 0:
            due_ms = self._clock.elapsed_ms() + wait_ms  # whatever the clock is set to meanwhile
            heapq.heappush(self._waiting, (due_ms, next(self._numbers), owned, job))
            if self._waiting[0][3] is job:
                self._timer.set()
        else:
            self._ready.append(owned.partition, (owned, job))
            self._start_ready()

    def _start_ready(self) -> None:
        while self._ready and self._running < self.rule.concurrency and not self.paused:
            owned, job = self._ready.popleft()
            assert self._tasks is not None
            self._running += 1
            task = self._tasks.create_task(self._run(owned, job))
            owned.running.add(task)
            task.add_done_callback(owned.running.discard)
            if owned.unread:
                self._room.set()

    async def _run(self, owned: _Owned, job: Job) -> None:
        try:
            again = await self._executor.execute(job)
        except asyncio.CancelledError:
            self._forget(owned, job)
            raise
        except Exception:
            again = self._faulty(job)
        finally:
            self._running -= 1
        if again is None:
            self._finish(owned, job)
        elif owned.revoked:
            self._forget(owned, job)
        else:
            job.due_ms = again.due_ms
            self._enqueue(owned, job)
        self._start_ready()
        self._note()

    def _faulty(self, job: Job) -> Again:
        """Handle an unexpected error, which must neither skip the event nor stop other events."""
        _log.exception("rule %s: unexpected error", self.rule.name)
        again_ms = self._clock.now_ms() + (_AGAIN_MS if job.fault else 0)
        job.fault, job.outcome = "an unexpected error in eventstreams; see its log", ""
        job.pending.clear()
        return Again(again_ms)

    def _finish(self, owned: _Owned, job: Job) -> None:
        owned.frontier.finish(job.event.offset)
        self._uncommitted.set()
        self._forget(owned, job)

    def _release(self, owned: _Owned, job: Job) -> None:
        self._jobs.take(owned.partition, -1)
        self._bytes.take(owned.partition, -job.bytes)
        self._room.set()

    def _forget(self, owned: _Owned, job: Job) -> None:
        self._release(owned, job)
        behind = self._keys.get(job.key) if job.key is not None else None
        if behind is None or job.key is None:
            return
        if behind:
            self._enqueue(*behind.popleft())
        else:
            del self._keys[job.key]

    async def _wake_waiting(self) -> None:
        """Move jobs whose time has come to `ready`."""
        while True:
            self._timer.clear()
            if not self._waiting:
                await self._timer.wait()
                continue
            due_ms = self._waiting[0][0]
            if due_ms > self._clock.elapsed_ms():
                await self._until_due_or_sooner(due_ms)
                continue
            _, _, owned, job = heapq.heappop(self._waiting)
            self._ready.append(owned.partition, (owned, job))
            self._start_ready()
            self._note()

    async def _until_due_or_sooner(self, due_ms: int) -> None:
        waits = [
            asyncio.ensure_future(self._clock.sleep_until(due_ms)),
            asyncio.ensure_future(self._timer.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    # Assignment of partitions.

    def on_assigned(self, starts: Mapping[Partition, int]) -> None:
        """Read these partitions from now on."""
        for partition, start in starts.items():
            self._owned[partition] = _Owned(partition, start)
        self._share_room()
        self._note()

    def _share_room(self) -> None:
        self._jobs.share(self._owned)
        self._bytes.share(self._owned)

    async def on_revoked(self, partitions: Collection[Partition]) -> None:
        """Stop reading these partitions; return when nothing of them is in flight or
        uncommitted.
        """
        gone = {p: self._owned[p] for p in partitions if p in self._owned}
        for owned in gone.values():
            owned.revoked = True
            owned.unread.clear()
        self._drop_jobs()
        running = {task for owned in gone.values() for task in owned.running}
        if running:
            _, late = await asyncio.wait(running, timeout=DRAIN_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        try:
            await self._commit(gone)
        except LogError as error:
            _log.warning(
                "rule %s cannot commit, so events will be repeated: %s", self.rule.name, error
            )
        for partition in gone:
            self._owned.pop(partition, None)
        self._share_room()
        self._wanted.set()
        self._note()

    def _drop_jobs(self) -> None:
        """Drop the jobs of revoked partitions, except running ones."""
        for jobs in self._keys.values():
            for owned, job in jobs:
                if owned.revoked:
                    self._release(owned, job)
            left = [each for each in jobs if not each[0].revoked]
            jobs.clear()
            jobs.extend(left)
        heads = [
            each
            for owned in self._owned.values()
            if owned.revoked
            for each in self._ready.remove(owned.partition)
        ]
        heads += [(owned, job) for _, _, owned, job in self._waiting if owned.revoked]
        self._waiting = [each for each in self._waiting if not each[2].revoked]
        heapq.heapify(self._waiting)
        for owned, job in heads:
            self._forget(owned, job)

    # Commits.

    async def _commit_often(self) -> None:
        while True:
            await self._uncommitted.wait()
            self._uncommitted.clear()
            try:
                await self._commit({p: o for p, o in self._owned.items() if not o.revoked})
            except LogError as error:
                _log.warning("rule %s cannot commit yet: %s", self.rule.name, error)
                self._uncommitted.set()
            await self._clock.sleep_until(self._clock.elapsed_ms() + COMMIT_EVERY_MS)

    async def _commit(self, partitions: Mapping[Partition, _Owned]) -> None:
        """Commit the finished offsets of these partitions. Raises LogError."""
        async with self._committing:
            ahead = {
                partition: owned.frontier.position
                for partition, owned in partitions.items()
                if owned.frontier.position > owned.committed
            }
            if not ahead or not self._commits:
                return
            await self._source.commit(ahead)
            for partition, position in ahead.items():
                partitions[partition].committed = position
