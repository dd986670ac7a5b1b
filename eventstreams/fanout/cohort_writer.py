"""A task that examines new events for its groups of cohorts, and writes what they match.

Waiting is level-triggered: the task clears the signal, looks for work, and waits only if there was
none. Nothing that it does at a wake-up takes time in proportion to the cohorts, except writing to
them: the cohorts are kept in the order in which their heartbeats are due.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from eventstreams.config.settings import FanoutSettings
from eventstreams.errors import GapRecorded
from eventstreams.fanout.cohort import Cohort
from eventstreams.fanout.filter_budget import Cost
from eventstreams.fanout.group import CohortGroup, Scan
from eventstreams.fanout.pacer import Pacer
from eventstreams.fanout.tails import Tail
from eventstreams.fanout.timing import Timing
from eventstreams.filters.selector import Documents
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition
from eventstreams.model.position import Position

_HEARTBEAT_MARGIN = 0.9
"""The part of heartbeat_s after which a heartbeat is sent, so that it is never late."""


class CohortWriter:
    def __init__(
        self,
        *,
        settings: FanoutSettings,
        documents: Documents,
        metrics: Metrics,
        timing: Timing,
        on_round: Callable[[], None],
    ) -> None:
        """Create a writer; `run` is its task. It calls `on_round` after each round of writes."""
        self.window = 0
        """The number of the period over which the costs of cohorts are summed."""
        self.pacer = Pacer(pace_max_s=settings.pace_max_ms / 1000)
        self.news = asyncio.Event()
        self.heartbeat_s = settings.heartbeat_s * _HEARTBEAT_MARGIN
        """The longest time without a byte, in seconds."""
        self._groups: dict[tuple[Partition, ...], CohortGroup] = {}
        self._by_heartbeat: OrderedDict[Cohort, CohortGroup] = OrderedDict()
        """All cohorts with their groups, those first that were written to least recently."""
        self._batch_bytes_max = settings.batch_bytes_max
        self._documents = documents
        self._metrics = metrics
        self._timing = timing
        self._on_round = on_round
        self._gave_way_at = time.monotonic()
        """When this task last waited, so that other tasks could run."""
        self._alarm: asyncio.TimerHandle | None = None
        """Wakes the task when the next heartbeat is due, or earlier."""

    @property
    def groups(self) -> Iterable[CohortGroup]:
        return self._groups.values()

    @property
    def cohorts(self) -> int:
        """How many cohorts it writes to."""
        return len(self._by_heartbeat)

    @property
    def is_behind(self) -> bool:
        """Whether a tail holds events that have not been examined."""
        return any(group.position.offsets != group.ends for group in self._groups.values())

    @property
    def is_about_to_lose(self) -> bool:
        """Whether the tails will soon drop events that have not been examined."""
        return any(group.is_near_floor for group in self._groups.values())

    def costs(self) -> list[Cost[Cohort]]:
        """Return the costs of the filters in the last `window` in which any was evaluated."""
        cohorts = [cohort for group in self._groups.values() for cohort in group.cohorts.values()]
        window = max((cohort.window for cohort in cohorts), default=0)
        return [
            Cost(cohort, cohort.selecting_s, {member.client for member in cohort.members})
            for cohort in cohorts
            if cohort.window == window
        ]

    def group(self, partitions: tuple[Partition, ...]) -> CohortGroup | None:
        """Return the group of the cohorts that read these partitions, if there is one."""
        return self._groups.get(partitions)

    def open_group(self, position: Position, tails: list[Tail]) -> CohortGroup:
        """Return a new group at this position, which must be at the ends of the tails."""
        group = self._groups[position.partitions] = CohortGroup(
            position, tails, piece_s=self._timing.scan_s
        )
        return group

    def add(self, cohort: Cohort, group: CohortGroup) -> None:
        """Add a cohort to a group. Requires that no scan of the group is in progress."""
        group.add(cohort)
        self._by_heartbeat[cohort] = group
        if len(self._by_heartbeat) == 1:
            self.news.set()  # so that the task sets the alarm for its heartbeat

    def discard(self, cohort: Cohort) -> None:
        """Remove a cohort if it is one of this writer's, and its group if that was its last one."""
        group = self._by_heartbeat.pop(cohort, None)
        if group is None:
            return
        group.remove(cohort)
        if not group.cohorts and self._groups.get(group.partitions) is group:
            del self._groups[group.partitions]

    def dissolve_readers(self, partition: Partition) -> None:
        """Remove all members of the cohorts that read this partition."""
        for group in list(self._groups.values()):
            if partition in group.partitions:
                _dissolve(group)

    def forget_rendered(self) -> None:
        """Drop what was rendered and not written, because the content of frames has changed."""
        for group in list(self._groups.values()):  # a group goes when its last member leaves
            group.abort()
            for cohort in list(group.cohorts.values()):
                cohort.forget_rendered()

    async def run(self) -> None:
        """Write to the cohorts until cancelled."""
        try:
            while True:
                self._set_alarm()
                if not self.news.is_set():
                    await self.news.wait()
                    self._gave_way_at = time.monotonic()
                self.news.clear()
                began, cpu = time.monotonic(), time.thread_time()
                ends_at = self._round_ends_at()
                for group in list(self._groups.values()):
                    await self._advance(group, ends_at)
                await self._send_heartbeats()
                self._metrics.write_seconds.observe(time.monotonic() - began)
                rest_s = self.pacer.rest(began, time.thread_time() - cpu)
                await self._end_round()
                if rest_s:
                    await asyncio.sleep(rest_s)
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

    async def _advance(self, group: CohortGroup, ends_at: float) -> None:
        """Write all events that the tails hold now; later ones belong to the next round.

        Stops after the piece during which the monotonic clock reaches `ends_at`.
        """
        ends = group.ends
        while group.cohorts and group.fits and group.position.offsets != ends:
            if rest_s := self._rest_s():
                await self._yield_to_loop(rest_s)
                if self._rest_s():
                    return
                continue  # during the rest, members may have left, or records may have been lost
            try:
                scan = await self._scan(group, ends)
            except GapRecorded:
                _dissolve(group)  # its members find the gap and report it
                return
            if scan is not None:
                self._metrics.scanned(scan.skipped, scan.evaluations, scan.selecting_s)
                for cohort in scan.queued:
                    await self._write(cohort)
            await self._send_heartbeats()
            await self._give_way()
            if time.monotonic() >= ends_at:
                return
        if group.cohorts and not group.fits:
            _dissolve(group)

    async def _scan(self, group: CohortGroup, ends: tuple[int, ...]) -> Scan | None:
        steps = group.scan(ends, self._batch_bytes_max, self._documents, window=self.window)
        while True:
            cpu, selecting_s = time.thread_time(), group.selecting_s
            try:
                next(steps)
            except StopIteration as done:
                scan: Scan | None = done.value
                return scan
            finally:
                # Preparing and looking up an event is done once for all filters, and bounded.
                self._used(min(time.thread_time() - cpu, group.selecting_s - selecting_s))
            await self._yield_to_loop(self._rest_s())

    async def _write(self, cohort: Cohort) -> None:
        if not cohort.members:
            return  # they have left since the batch was queued
        self._by_heartbeat.move_to_end(cohort)
        events = cohort.events
        taken, slow = await cohort.write()
        self._metrics.events_out.inc(events * (taken + slow))
        if slow:
            self._metrics.slow.inc(slow)
        await self._give_way()

    async def _send_heartbeats(self) -> None:
        due = time.monotonic() - self.heartbeat_s
        while self._by_heartbeat:
            cohort = next(iter(self._by_heartbeat))
            if cohort.wrote_at > due:
                return
            position = cohort.position
            beat = cohort.spec.heartbeat(position.encode() if cohort.spec.checkpoints else b"")
            cohort.queue((beat,), 0, position)
            await self._write(cohort)

    def _set_alarm(self) -> None:
        """Make sure that the task wakes when the next heartbeat is due.

        An alarm that is already set is kept, even if the heartbeat is due later by now: setting a
        timer in each round would take more time than some rounds without a due heartbeat.
        """
        if self._alarm is None and self._by_heartbeat:
            first = next(iter(self._by_heartbeat))
            due_s = max(0.0, first.wrote_at + self.heartbeat_s - time.monotonic())
            self._alarm = asyncio.get_running_loop().call_later(due_s, self._sound_alarm)

    def _sound_alarm(self) -> None:
        self._alarm = None
        self.news.set()

    async def _give_way(self) -> None:
        """Yield to the event loop if this task has worked long enough."""
        if time.monotonic() - self._gave_way_at >= self._timing.scan_s:
            await self._yield_to_loop()

    async def _yield_to_loop(self, rest_s: float = 0.0) -> None:
        await asyncio.sleep(rest_s)
        self._gave_way_at = time.monotonic()

    # Overridden by `BudgetedWriter`.

    def _round_ends_at(self) -> float:
        """Return when a round must end, by the monotonic clock, in seconds."""
        return math.inf

    def _used(self, spent_s: float) -> None:
        """Record the processor time that selecting events took in one step of a scan."""

    def _rest_s(self) -> float:
        """Return how long to rest before the next step of a scan, in seconds.

        The time may be too short; in that case, the next call returns a further rest.
        """
        return 0.0

    async def _end_round(self) -> None:
        self._on_round()


def _dissolve(group: CohortGroup) -> None:
    """Remove all members, because the tails no longer reach back to the position, or the records
    of a topic have changed."""
    group.abort()
    for cohort in list(group.cohorts.values()):
        cohort.dissolve()
