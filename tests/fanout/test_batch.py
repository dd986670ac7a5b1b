"""Rendering in batches of any size yields every event once, in order, with its own id."""

from __future__ import annotations

import json
import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from eventstreams.fanout.batch import Batch, render
from eventstreams.fanout.spec import Format, SubscriptionSpec
from eventstreams.fanout.tails import TailSlice
from eventstreams.filters.cel import compile_filter
from eventstreams.filters.selector import Documents, Selector
from eventstreams.model.event import Event, Partition
from eventstreams.model.frame import Frame
from eventstreams.model.position import Position
from tests.support.wire import frames_of, place_of

TOPIC = "t"


def frame(number: int, offset: int, stamp: int, *, valid: bool = True) -> Frame:
    value = json.dumps({"n": "x" * (offset % 7)}).encode() if valid else b"nonsense"
    return Frame(Event(Partition(TOPIC, number), offset, stamp, value))


class Source:
    """Partitions with holes and records without events, which end after their last record."""

    def __init__(self, frames: list[list[Frame]], ends: list[int]) -> None:
        self.frames = frames
        self.ends = ends
        self.partitions = tuple(Partition(TOPIC, n) for n in range(len(frames)))

    def runs(self, position: Position, longest: int, ends: tuple[int, ...]) -> dict[int, TailSlice]:
        """Return frames from the position on, as a log does: up to before or after `ends`."""
        runs: dict[int, TailSlice] = {}
        for i, offset in enumerate(position.offsets):
            if offset < ends[i]:
                mine = [f for f in self.frames[i] if f.offset >= offset]
                some = mine[:longest]
                runs[i] = TailSlice(
                    some, some[-1].offset + 1 if len(some) < len(mine) else self.ends[i]
                )
        return runs

    def walk(
        self, format_: Format, longest: int, bytes_max: int, ends: tuple[int, ...]
    ) -> list[tuple[Position, Batch]]:
        spec = SubscriptionSpec(self.partitions, frozenset(), format_)
        position = Position(self.partitions, (0,) * len(ends), (0,) * len(ends))
        batches: list[tuple[Position, Batch]] = []
        while position.offsets != ends:
            batch = render(
                spec,
                position,
                self.runs(position, longest, ends),
                ends,
                bytes_max,
                documents=Documents(),
                piece_s=math.inf,
            )
            assert batch.position != position, "a reader would loop forever"
            assert all(
                a <= b for a, b in zip(position.offsets, batch.position.offsets, strict=True)
            )
            batches.append((position, batch))
            position = batch.position
        return batches


@st.composite
def sources(draw: st.DrawFn, *, monotone: bool = False) -> Source:
    frames: list[list[Frame]] = []
    ends: list[int] = []
    for number in range(draw(st.integers(1, 3))):
        offset, stamp = 0, 1_000
        mine: list[Frame] = []
        for hole, step, odd in draw(
            st.lists(
                st.tuples(st.integers(0, 2), st.integers(-3, 5), st.integers(0, 5)), max_size=9
            )
        ):
            offset += hole
            stamp += abs(step) if monotone else step
            mine.append(frame(number, offset, stamp, valid=odd > 0))
            offset += 1
        frames.append(mine)
        ends.append(offset + draw(st.integers(0, 2)))
    return Source(frames, ends)


lengths = st.integers(1, 12)
sizes = st.sampled_from([1, 150, 400, 10**6])


@given(sources(), lengths, sizes, st.data())
def test_batches_together_hold_every_event_once_with_its_id(
    source: Source, longest: int, bytes_max: int, data: st.DataObject
) -> None:
    ends = tuple(data.draw(st.integers(0, end)) for end in source.ends)
    seen = [0] * len(ends)
    stamps = [0] * len(ends)
    for start, batch in source.walk(Format.SSE, longest, bytes_max, ends):
        assert tuple(start.timestamps) == tuple(stamps)
        events = frames_of(batch.body)
        assert batch.events == len(events)
        for event in events:
            _, number, offset = place_of(event)
            for passed in source.frames[number]:
                if seen[number] <= passed.offset <= offset:
                    stamps[number] = passed.timestamp_ms
                    assert passed.offset == offset or passed.data is None
            seen[number] = offset + 1
            assert event.id is not None
            entry = json.loads(event.id)[number]
            assert (entry["offset"], entry["timestamp"]) == (offset + 1, stamps[number])
        stamps = list(batch.position.timestamps)
        seen = list(batch.position.offsets)
    for number, mine in enumerate(source.frames):
        missed = [f for f in mine if seen[number] <= f.offset < ends[number]]
        assert not missed
    reported = [batch for _, batch in source.walk(Format.SSE, longest, bytes_max, ends)]
    below = [f for i, mine in enumerate(source.frames) for f in mine if f.offset < ends[i]]
    assert sum(c.events for c in reported) == sum(f.data is not None for f in below)
    assert sum(c.skipped for c in reported) == sum(f.data is None for f in below)


@given(sources(), lengths, sizes)
def test_the_position_covers_every_examined_event(
    source: Source, longest: int, bytes_max: int
) -> None:
    for start, batch in source.walk(Format.SSE, longest, bytes_max, tuple(source.ends)):
        for i, mine in enumerate(source.frames):
            passed = [f for f in mine if f.offset < batch.position.offsets[i]]
            stamp = passed[-1].timestamp_ms if passed else 0
            assert batch.position.timestamps[i] == stamp
            assert start.offsets[i] <= batch.position.offsets[i] <= source.ends[i]


@given(sources(monotone=True), lengths, sizes)
def test_ordered_partitions_are_merged_by_timestamp(
    source: Source, longest: int, bytes_max: int
) -> None:
    stamp_of = {(f.partition.number, f.offset): f.timestamp_ms for m in source.frames for f in m}
    body = b"".join(
        c.body for _, c in source.walk(Format.SSE, longest, bytes_max, tuple(source.ends))
    )
    stamps = [stamp_of[place_of(event)[1:]] for event in frames_of(body)]
    assert all(a <= b for a, b in pairwise(stamps))


@given(sources(), lengths, sizes)
def test_the_same_position_gives_the_same_bytes(
    source: Source, longest: int, bytes_max: int
) -> None:
    ends = tuple(source.ends)
    assert source.walk(Format.SSE, longest, bytes_max, ends) == source.walk(
        Format.SSE, longest, bytes_max, ends
    )


@given(sources(), lengths, sizes)
def test_both_formats_hold_the_same_events(source: Source, longest: int, bytes_max: int) -> None:
    ends = tuple(source.ends)
    as_sse = [
        e.data
        for _, c in source.walk(Format.SSE, longest, bytes_max, ends)
        for e in frames_of(c.body)
    ]
    lines = b"".join(c.body for _, c in source.walk(Format.NDJSON, longest, bytes_max, ends))
    assert not lines or lines.endswith(b"\n")
    assert lines.decode().split("\n")[:-1] == as_sse


@given(sources(), sizes)
def test_a_batch_exceeds_its_size_by_at_most_one_event(source: Source, bytes_max: int) -> None:
    for _, batch in source.walk(Format.SSE, 100, bytes_max, tuple(source.ends)):
        events = batch.body.split(b"\n\n")[:-1]
        assert len(batch.body) - (len(events[-1]) + 2 if events else 0) < bytes_max


def test_a_slice_that_ends_early_stops_the_merge() -> None:
    partitions = (Partition(TOPIC, 0), Partition(TOPIC, 1))
    spec = SubscriptionSpec(partitions, frozenset(), Format.SSE)
    runs = {
        0: TailSlice([frame(0, 0, 10)], 1),
        1: TailSlice([frame(1, 0, 5), frame(1, 1, 20), frame(1, 2, 30)], 3),
    }
    batch = render(
        spec,
        Position(partitions, (0, 0), (0, 0)),
        runs,
        (2, 3),
        10**6,
        documents=Documents(),
        piece_s=math.inf,
    )
    assert batch.position.offsets == (1, 1)
    assert batch.events == 2
    empty = {0: TailSlice([], 1), 1: runs[1]}
    batch = render(
        spec,
        Position(partitions, (0, 0), (0, 0)),
        empty,
        (2, 3),
        10**6,
        documents=Documents(),
        piece_s=math.inf,
    )
    assert batch.position.offsets == (1, 0)
    assert batch.body == b""


EVEN = Selector(compile_filter("offset % 2 == 0"), (), None)


def test_a_batch_that_runs_out_of_time_ends_after_its_first_record() -> None:
    source = Source([[frame(0, n, 1_000 + n) for n in range(5)]], [5])
    spec = SubscriptionSpec((Partition(TOPIC, 0),), frozenset({TOPIC}), Format.SSE, selector=EVEN)
    position = Position(spec.partitions, (0,), (0,))
    frames = source.frames[0]
    for start in range(5):
        batch = render(
            spec,
            position,
            {0: TailSlice(frames[start:], 5)},
            (5,),
            10**6,
            documents=Documents(),
            piece_s=0.0,
        )
        assert batch.position.offsets == (start + 1,)
        assert batch.events == (start % 2 == 0)
        data = frames[start].data
        assert data is not None
        assert batch.passed_bytes == (0 if batch.events else len(data))
        position = batch.position
