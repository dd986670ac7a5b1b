"""Examines each event once for all cohorts that read the same partitions.

All cohorts of a group are at the group's position. A `FilterIndex` finds the cohorts whose filter
an event may match; only these evaluate it, and only those that it matches render and write. A
cohort that an event does not match does nothing, and has moved past the event all the same.

Easy to get wrong: `scan` can be suspended between two evaluations. Until it has returned, the
position has not moved and nothing has been queued. Therefore a client that joins meanwhile misses
nothing, and the work can be dropped and repeated.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import NamedTuple

from eventstreams.fanout.batch import FRAMING_BYTES, merged
from eventstreams.fanout.cohort import Cohort
from eventstreams.fanout.spec import SubscriptionSpec
from eventstreams.fanout.tails import Tail
from eventstreams.filters.index import FilterIndex
from eventstreams.filters.selector import Documents
from eventstreams.model.event import Partition
from eventstreams.model.position import Cursor, Position
from eventstreams.turns import PIECE_S

_NEAR_FLOOR = 4
"""A position in the first of this many equal parts of a tail is near the tail's floor."""


class Scan(NamedTuple):
    """The result of examining one piece of a group's events."""

    queued: list[Cohort]
    """The cohorts for which a batch is queued."""
    skipped: int
    """How many records were skipped because they hold no event."""
    evaluations: int
    """How often a selector was applied to an event."""
    selecting_s: float
    """The time that these evaluations took, in seconds."""


class _Output:
    __slots__ = ("events", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.events = 0


class CohortGroup:
    """The cohorts that read `partitions`, in this order.

    `position` is where the next scan begins. Every member of every cohort has received, or has
    queued, all events before it that it should receive.
    """

    def __init__(self, position: Position, tails: list[Tail], *, piece_s: float = PIECE_S) -> None:
        """`piece_s` is how long one piece of a scan takes at most, in seconds."""
        self.position = position
        self.tails = tails
        self.cohorts: dict[SubscriptionSpec, Cohort] = {}
        self.index = FilterIndex[Cohort]()
        self.selecting_s = 0.0
        """The time that selecting events has taken in all, in seconds."""
        self.is_scanning = False
        self._is_aborted = False
        self._piece_s = piece_s

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return self.position.partitions

    @property
    def ends(self) -> tuple[int, ...]:
        """The offsets at which the tails end."""
        return tuple(tail.next for tail in self.tails)

    @property
    def fits(self) -> bool:
        """Whether the tails still reach back to this position."""
        return all(
            tail.floor <= offset <= tail.next
            for tail, offset in zip(self.tails, self.position.offsets, strict=True)
        )

    @property
    def is_near_floor(self) -> bool:
        """Whether a tail that drops old events may soon drop some behind this position."""
        return any(
            tail.is_trimmed and offset < tail.floor + (tail.next - tail.floor) // _NEAR_FLOOR
            for tail, offset in zip(self.tails, self.position.offsets, strict=True)
        )

    def add(self, cohort: Cohort) -> None:
        """Add a cohort at the group's position. Requires that no scan is in progress."""
        assert not self.is_scanning
        self.cohorts[cohort.spec] = cohort
        selector = cohort.spec.selector
        self.index.add(cohort, () if selector is None else selector.covers)

    def remove(self, cohort: Cohort) -> None:
        del self.cohorts[cohort.spec]
        self.index.remove(cohort)

    def abort(self) -> None:
        """Make a suspended scan drop what it has found, because events have changed."""
        self._is_aborted = True

    def scan(
        self, ends: tuple[int, ...], bytes_max: int, documents: Documents, *, window: int = 0
    ) -> Generator[None, None, Scan | None]:
        """Examine the next events up to `ends`, queue what each cohort gets, move the position.

        Stops after about `bytes_max` bytes of events, or after `piece_s` seconds between two
        events. Each `yield` is a point at which other work can proceed. Returns None after `abort`:
        then the position has not moved. Requires `fits`. Raises GapRecorded if the next record
        marks a gap. The time that selecting takes is added to the cohorts' sums for `window`.
        """
        self.is_scanning, self._is_aborted = True, False
        try:
            yield from self.position.prepare()
            if self._is_aborted:
                return None
            return (yield from self._scan(ends, bytes_max, documents, window))
        finally:
            self.is_scanning = False

    def _scan(  # noqa: PLR0912 - one loop over events and their candidates
        self, ends: tuple[int, ...], bytes_max: int, documents: Documents, window: int
    ) -> Generator[None, None, Scan | None]:
        slices = {
            i: tail.since(offset)
            for i, (tail, offset) in enumerate(zip(self.tails, self.position.offsets, strict=True))
            if offset < ends[i]
        }
        cursor = Cursor(self.position)
        outputs: dict[Cohort, _Output] = {}
        size = skipped = evaluations = 0
        selecting_s = 0.0
        began = now = time.perf_counter()
        for frame, position_id in merged(cursor, slices, ends):
            data = frame.data
            if data is None:
                skipped += 1
            else:
                size += len(data) + len(position_id) + FRAMING_BYTES
                is_prepared = False
                for cohort in self.index.candidates(frame, documents):
                    line: bytes | None = data
                    if (selector := cohort.spec.selector) is not None:
                        before = time.perf_counter()
                        if before - now >= self._piece_s:
                            yield
                            if self._is_aborted:
                                return None
                            now = before = time.perf_counter()
                        if not cohort.members:
                            continue  # they have left while this was suspended
                        if not is_prepared:  # not charged to a filter: all of them share it
                            selector.prepare(frame, documents)
                            is_prepared, before = True, time.perf_counter()
                        line = selector.select(frame, documents)
                        spent_s = time.perf_counter() - before
                        selecting_s += spent_s
                        self.selecting_s += spent_s
                        cohort.spend(spent_s, window)
                        evaluations += 1
                    if line is not None:
                        output = outputs.get(cohort)
                        if output is None:
                            output = outputs[cohort] = _Output()
                        output.parts += cohort.framed(line, position_id, None)
                        output.events += 1
            if size >= bytes_max or time.perf_counter() - began >= self._piece_s:
                break
        before_position, self.position = self.position, cursor.position()
        queued = [cohort for cohort in outputs if cohort.members]
        for cohort in queued:
            output = outputs[cohort]
            cohort.queue(output.parts, output.events, before_position)
        return Scan(queued, skipped, evaluations, selecting_s)
