"""Compares the batches of a group with those rendered for each member alone."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventstreams.fanout.batch import framer, merged, render
from eventstreams.fanout.cohort import Cohort
from eventstreams.fanout.compression import CompressionWindows, Encoding, begin
from eventstreams.fanout.group import CohortGroup, Scan
from eventstreams.fanout.send import Connection
from eventstreams.fanout.spec import Format, SubscriptionSpec
from eventstreams.fanout.tails import Tail, TailSlice
from eventstreams.fanout.timing import Timing
from eventstreams.filters.selector import Documents, parse_selector
from eventstreams.model.epochs import Epochs
from eventstreams.model.event import Event, Partition
from eventstreams.model.frame import Frame
from eventstreams.model.position import Cursor, Position

PARTITIONS = (Partition("t", 0), Partition("t", 1), Partition("u", 0))
SELECTORS: list[dict[str, Any]] = [
    {},
    {"filter_": "event.wiki == 'a'"},
    {"filter_": "event.wiki in ['a', 'b'] && event.n > 2"},
    {"filter_": "event.wiki == 'b' || event.title.startsWith('t')"},
    {"filter_": "event.n % 2 == 0"},
    {"filter_": "event.nothing == 1"},
    {"filter_": "topic == 'u' && has(event.bot)"},
    {"fields": "n,meta.offset"},
    {"sample": "0.3"},
    {"sample": "0.5", "filter_": "event.bot", "fields": "n"},
]
SPECS = [
    SubscriptionSpec(
        PARTITIONS,
        frozenset(),
        format_,
        parse_selector(s.get("filter_"), s.get("fields"), s.get("sample")) if s else None,
    )
    for s in SELECTORS
    for format_ in (Format.SSE, Format.NDJSON)
]
VALUES = st.one_of(
    st.fixed_dictionaries(
        {"wiki": st.sampled_from("abc"), "n": st.integers(0, 5)},
        optional={"bot": st.booleans(), "title": st.sampled_from(["t1", "x"])},
    ),
    st.sampled_from([None, [1], "junk"]),
)


class Receiver:
    """A member that accepts everything immediately."""

    connection: Connection | None = None

    def __init__(self, start: Position) -> None:
        self.start = self.position = start
        self.cohort: Cohort | None = None
        self.response, _ = begin(Encoding.IDENTITY, b":ok\n\n")
        self.received: list[bytes] = []

    def try_send(self, body: bytes) -> None:
        self.received.append(body)

    def leave_cohort(self) -> None:
        assert self.cohort is not None
        self.cohort.remove(self)

    def fall_behind(self, *_: object) -> None:
        raise AssertionError

    lose = give_up = fall_behind


class _Steps:
    """Yields whenever a scan is suspended, and then has its result."""

    def __init__(self, scan: Generator[None, None, Scan | None]) -> None:
        self._scan = scan
        self.result: Scan | None = None

    def __iter__(self) -> Iterator[None]:
        self.result = yield from self._scan


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tails = [Tail(partition, 10, 0) for partition in PARTITIONS]
        self.group = CohortGroup(Position(PARTITIONS, (10,) * 3, (0,) * 3), self.tails)
        self.positions = [self.group.position]
        """The positions after each scan."""
        self.eager: dict[SubscriptionSpec, list[bytes]] = {spec: [] for spec in SPECS}
        """The batches of each scan for each spec, rendered for it alone."""
        self.documents = Documents()
        self.windows = CompressionWindows()
        self.members: list[tuple[SubscriptionSpec, Receiver]] = []
        self.left: list[tuple[SubscriptionSpec, Receiver]] = []
        self.queued: list[Cohort] = []
        self.now_ms = 1_000

    @rule(
        partition=st.integers(0, 2),
        values=st.lists(VALUES, max_size=4),
        hole=st.integers(0, 2),
        back_ms=st.integers(-20, 5),
        epoch=st.integers(0, 1),
    )
    def append(
        self, partition: int, values: list[Any], hole: int, back_ms: int, epoch: int
    ) -> None:
        tail = self.tails[partition]
        frames: list[Frame] = []
        for n, value in enumerate(values):
            self.now_ms -= back_ms
            data = b"junk" if value == "junk" else None if value is None else json.dumps(value)
            raw = data.encode() if isinstance(data, str) else data
            at = Event(tail.partition, tail.next + n, max(1, self.now_ms), raw)
            frames.append(Frame(at))
        number = (tail.epochs.epochs or (0,))[-1] + epoch
        epochs = Epochs((tail.next,), (number,)) if frames else Epochs()
        tail.append(frames, tail.next + len(values) + hole, epochs)

    @rule(spec=st.sampled_from(SPECS))
    def join(self, spec: SubscriptionSpec) -> None:
        cohort = self.group.cohorts.get(spec)
        if cohort is None:
            cohort = Cohort(spec, self.group, self.windows, Timing())
            self.group.add(cohort)
        member = Receiver(self.group.position)
        assert cohort.admits
        cohort.add(member)
        self.members.append((spec, member))

    @precondition(lambda self: self.members)
    @rule(which=st.integers(0, 100))
    def leave(self, which: int) -> None:
        spec, member = self.members.pop(which % len(self.members))
        cohort = member.cohort
        assert cohort is not None
        member.leave_cohort()
        if not cohort.members:
            self.group.remove(cohort)
        self.left.append((spec, member))

    @precondition(lambda self: not self.queued and self.group.position.offsets != self.group.ends)
    @rule(
        bytes_max=st.sampled_from([1, 300, 10_000]),
        piece_s=st.sampled_from([-1.0, math.inf]),
        aborts=st.integers(0, 8),
    )
    def scan(self, bytes_max: int, piece_s: float, aborts: int) -> None:
        """Scan to the end or until the scan stops early; sometimes abort it."""
        before, ends = self.group.position, self.group.ends
        self.group._piece_s = piece_s
        slices = {
            i: tail.since(before.offsets[i])
            for i, tail in enumerate(self.tails)
            if before.offsets[i] < ends[i]
        }
        steps = _Steps(self.group.scan(ends, bytes_max, self.documents))
        aborted = False
        for n, _ in enumerate(steps):
            assert self.group.position is before
            if n == aborts:
                self.group.abort()
                aborted = True
        assert (steps.result is None) == aborted
        if steps.result is None:
            assert self.group.position is before
            assert not any(cohort.is_queued for cohort in self.group.cohorts.values())
            return
        self.queued = steps.result.queued
        after = self.group.position
        self.positions.append(after)
        for spec in SPECS:
            batch = render(spec, before, slices, ends, 10**9, documents=Documents(), piece_s=1e9)
            if batch.position.offsets == after.offsets:  # the scan was not stopped early
                assert places(batch.position) == places(after)
                self.eager[spec].append(batch.body)
            else:
                body, position = cut_at(spec, before, slices, ends, after)
                assert places(position) == places(after)
                self.eager[spec].append(body)

    @precondition(lambda self: self.queued)
    @rule(which=st.integers(0, 100))
    def write(self, which: int) -> None:
        cohort = self.queued.pop(which % len(self.queued))
        if not cohort.members:
            return
        writing = cohort.write()
        try:
            while True:
                writing.send(None)
        except StopIteration:
            pass

    @invariant()
    def each_has_what_is_before_its_position_and_nothing_else(self) -> None:
        for spec, member in self.left:
            assert member.received == self.due(spec, member.start, member.position)
        waiting: set[object] = {member for cohort in self.queued for member in cohort._writing}
        for spec, member in self.members:
            if member not in waiting:
                assert member.received == self.due(spec, member.start, self.group.position)

    def due(self, spec: SubscriptionSpec, start: Position, until: Position) -> list[bytes]:
        """Return the batches between two positions that are not empty."""
        first, last = (
            next(i for i, p in enumerate(self.positions) if p is q) for q in (start, until)
        )
        return [body for body in self.eager[spec][first:last] if body]


def places(position: Position) -> tuple[tuple[int, ...], ...]:
    return position.offsets, position.timestamps, position.epochs


def cut_at(
    spec: SubscriptionSpec,
    before: Position,
    slices: Mapping[int, TailSlice],
    ends: tuple[int, ...],
    after: Position,
) -> tuple[bytes, Position]:
    """Render for one subscription, event by event, until its position has these offsets."""
    cursor, parts, documents = Cursor(before), list[bytes](), Documents()
    for frame, position_id in merged(cursor, slices, ends):
        line = frame.data if spec.selector is None else spec.selector.select(frame, documents)
        if line is not None:
            parts += framer(spec)(line, position_id, None)
        if cursor.position().offsets == after.offsets:
            break
    return b"".join(parts), cursor.position()


def test_each_member_gets_the_same_events_as_alone() -> None:
    histories = settings(max_examples=60, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(Histories, settings=histories)
