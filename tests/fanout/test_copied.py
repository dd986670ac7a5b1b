"""Batches copied from runs of events have the bytes that making every frame gives."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import GapRecorded, RecordsDamaged
from eventstreams.fanout.batch import render
from eventstreams.fanout.history import History
from eventstreams.fanout.spec import Format, SubscriptionSpec
from eventstreams.fanout.tails import TailSlice
from eventstreams.filters.selector import Documents, Selector
from eventstreams.log.base import Log, Slice
from eventstreams.log.memory import MemoryLog
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.metrics import Metrics
from eventstreams.model.epochs import NO_EPOCH, Epochs
from eventstreams.model.event import Event, EventRun, Partition, Record
from eventstreams.model.frame import Frame, encode
from eventstreams.model.frame_run import FrameRun, index_of
from eventstreams.model.gap_marker import restored_record
from eventstreams.model.place import find_span
from eventstreams.model.position import Position
from eventstreams.model.redaction import Redaction, Redactions, Rule
from eventstreams.model.stop_condition import StopCondition
from tests.support.fanout import serving
from tests.support.strategies import (
    close_timestamps_ms,
    event_texts,
    positions,
    texts,
)

pytestmark = pytest.mark.anyio

P = Partition("t", 0)
NONE = Redactions()
REDACTION = Redaction([Rule(domain="d", titles=("a",), remove=("b",), title_fields=("a",))])


def compact(fields: dict[str, object], meta: dict[str, object]) -> bytes:
    """Return an event as producers write it, which has a place span."""
    text = orjson.dumps({"a": "a", "b": "hidden", "meta": {"domain": "d", **meta}, "z": fields})
    return text.replace(b"\xe2\x80\xa8", b"\\u2028")


ascii_texts = texts.filter(str.isascii)
compact_events = st.builds(
    compact,
    st.dictionaries(ascii_texts, st.integers(-(2**63), 2**64 - 1) | ascii_texts, max_size=3),
    st.just({}) | st.just({"topic": "u", "partition": 1, "offset": 5}) | st.just({"id": "é%d%b"}),
)
sizes = st.sampled_from([1, 200, 500, 2_000, 10**6])


def run_of(partition: Partition, first: int, stored: Sequence[tuple[bytes, int]]) -> EventRun:
    """Return a run of those of the values that have a span, with their timestamps."""
    values: list[bytes] = []
    stamps: list[int] = []
    spans: list[int] = []
    for value, stamp in stored:
        event = Event(partition, first + len(values), stamp, value)
        line = encode(event)
        span = None if line is None else find_span(event, line)
        if span is not None:
            values.append(value)
            stamps.append(stamp)
            spans.append(span)
    return EventRun(partition, first, stamps, values, spans)


def parsed(run: EventRun) -> list[Frame]:
    """Return frames that know no spans, so that they are parsed."""
    return [Frame(msgspec.structs.replace(event, place_span=None)) for event in run]


some_events = st.lists(
    st.tuples(st.one_of(*[compact_events] * 3, event_texts()), close_timestamps_ms), max_size=12
)
specs = st.builds(
    SubscriptionSpec,
    st.just(()),
    st.just(frozenset()),
    st.sampled_from([Format.SSE, Format.SSE, Format.NDJSON]),
    st.none(),
    stop_condition=st.none()
    | st.builds(StopCondition, st.none() | st.just(9), st.none() | st.just(7), st.none()),
)


@given(some_events, specs, positions(), st.sampled_from(["", "%", "%d%b"]), sizes, st.data())
def test_a_copied_batch_equals_the_one_made_of_frames(  # noqa: PLR0917 - what is generated
    stored: list[tuple[bytes, int]],
    spec: SubscriptionSpec,
    start: Position,
    topic_end: str,
    bytes_max: int,
    data: st.DataObject,
) -> None:
    index = data.draw(st.integers(0, len(start.offsets) - 1))
    many = data.draw(st.sampled_from([0, 0, 12, 40]))  # so that some ids become tokens
    others = tuple(Partition("o" * 12, 50 + n) for n in range(many))
    partitions = tuple(Partition(p.topic + topic_end, p.number) for p in start.partitions) + others
    position = Position(
        partitions,
        (*start.offsets, *[2**40] * many),
        (*start.timestamps, *[2**40] * many),
        (*start.epochs, *[NO_EPOCH] * many),
    )
    first = position.offsets[index]
    run = run_of(partitions[index], first, stored)
    frames, plain = FrameRun.of(run, NONE), parsed(run)
    following = first + len(run)
    end = data.draw(st.integers(first, following + 1))
    ends = tuple(end if i == index else offset for i, offset in enumerate(position.offsets))
    while first < min(end, following):
        copied, expected = (
            render(
                spec._replace(partitions=partitions),
                position,
                {index: TailSlice(source[index_of(source, first) :], following)},
                ends,
                bytes_max,
                documents=Documents(),
                piece_s=math.inf,
            )
            for source in (frames, plain)
        )
        assert copied == expected
        for name in ("offsets", "timestamps", "epochs"):
            assert getattr(copied.position, name) == getattr(expected.position, name)
        position = copied.position
        first = position.offsets[index]


def test_ids_of_a_run_with_epochs_hold_them() -> None:
    run = run_of(P, 5, [(compact({"n": n}, {}), 1_000) for n in range(3)])
    spec = SubscriptionSpec((P,), frozenset(), Format.SSE)
    slices = {0: TailSlice(FrameRun.of(run, NONE), 8, Epochs((5,), (3,)), 3)}
    start = Position((P,), (5,), (0,))
    batch = render(spec, start, slices, (8,), 10**6, documents=Documents(), piece_s=math.inf)
    assert batch.body.count(b'"epoch":3}]\n\n') == 3
    assert batch.position.epochs == (3,)


@given(st.lists(st.tuples(compact_events, close_timestamps_ms), min_size=1), st.data())
def test_the_rest_follows_from_any_id_within_a_copied_batch(
    stored: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    run = run_of(P, 5, stored)
    spec = SubscriptionSpec((P,), frozenset(), Format.SSE)
    ends = (5 + len(run),)

    def from_(position: Position) -> bytes:
        frames = FrameRun.of(run, NONE)[position.offsets[0] - 5 :]
        slices = {0: TailSlice(frames, ends[0])}
        batch = render(spec, position, slices, ends, 10**9, documents=Documents(), piece_s=math.inf)
        return batch.body

    body = from_(Position((P,), (5,), (0,)))
    single = body.split(b"\n\n")[:-1]
    assert len(single) == len(run)
    count = data.draw(st.integers(0, len(run) - 1))
    if count:
        [entry] = orjson.loads(single[count - 1].rpartition(b"\nid: ")[2])
        rest = from_(Position((P,), (entry["offset"],), (entry["timestamp"],)))
        assert rest == b"".join(part + b"\n\n" for part in single[count:])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the offsets of which a frame is made."""
    offsets: list[int] = []
    whole = Frame.__init__

    def counted(self: Frame, event: Event, redactions: Redactions = NONE) -> None:
        offsets.append(event.offset)
        whole(self, event, redactions)

    monkeypatch.setattr(Frame, "__init__", counted)
    return offsets


async def filled(log: Log, records: Sequence[Record]) -> Log:
    await log.start()
    await log.create_topic("t", 1)
    await log.append(records)
    return log


async def replay(
    log: Log,
    selector: Selector | None = None,
    *,
    block_bytes: int = 2**19,
    batch_bytes_max: int = 2**17,
) -> bytes:
    """Return what one client gets from the first record on."""
    spec = SubscriptionSpec((P,), frozenset({"t"}), Format.SSE, selector)
    position = Position((P,), (0,), (0,))
    parts: list[bytes] = []
    async with serving(
        log, ["t"], block_bytes=block_bytes, batch_bytes_max=batch_bytes_max
    ) as gateway:
        ends = gateway.hub.ends(spec)
        while position.is_behind(ends):
            try:
                batch = await gateway.hub.read(spec, position, ends, None, client="c")
            except GapRecorded as error:
                position, gap = await gateway.hub.position_after(position, error)
                parts.append(orjson.dumps(gap))
            else:
                position = batch.position
                parts.append(b"" if batch.piece is None else batch.piece.content)
    return b"".join(parts)


values = st.one_of(
    *[compact_events] * 8, event_texts(), st.sampled_from([None, b"", b"1", b"[]", b"\xff{"])
)
stored_records = st.builds(
    Record,
    st.just("t"),
    values,
    st.sampled_from([None] * 8 + [b"", b"k"]),
    close_timestamps_ms,
    st.just(0),
) | st.just(restored_record("t", 0))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(stored_records, min_size=1, max_size=60),
    st.sampled_from([1, 400, 2_000]),
    st.sampled_from([1, 600, 10**5]),
)
def test_replay_of_the_embedded_log_has_the_bytes_of_a_log_without_spans(
    records: list[Record], block_bytes: int, batch_bytes_max: int
) -> None:
    records = [
        record if record.timestamp_ms else msgspec.structs.replace(record, timestamp_ms=1_000)
        for record in records
    ]
    limits = {"block_bytes": block_bytes, "batch_bytes_max": batch_bytes_max}

    async def check() -> None:
        expected = await replay(await filled(MemoryLog(), records), **limits)
        with tempfile.TemporaryDirectory() as folder:
            log = await filled(
                SqliteLog(directory=Path(folder), settings=SqliteSettings()), records
            )
            try:
                assert await replay(log, **limits) == expected
            finally:
                await log.aclose()

    asyncio.run(check())


EVENTS = [Record("t", compact({"n": n}, {}), None, 1_000 + n, 0) for n in range(600)]


async def test_replay_makes_no_frames_of_compact_events(tmp_path: Path, made: list[int]) -> None:
    log = await filled(SqliteLog(directory=tmp_path, settings=SqliteSettings()), EVENTS)
    try:
        body = await replay(log)
        assert body.count(b"\nid: ") == len(EVENTS)
        assert len(made) < len(EVENTS) / 10
        assert await replay(log, Selector(None, (), None, canaries=False)) == body
        assert {*range(len(EVENTS))} <= {*made}, "those of a client that chooses events"
    finally:
        await log.aclose()


async def test_keys_and_damage_among_compact_events_are_read(tmp_path: Path) -> None:
    key = {"topic": "t", "partition": 0, "offset": 0, "key": {"type": "Buffer", "data": [107]}}
    keyed = Record("t", compact({}, key), b"k", 1_000, 0)
    records = [*EVENTS[:3], *EVENTS[4:6], keyed]
    log = await filled(SqliteLog(directory=tmp_path, settings=SqliteSettings()), records)
    try:
        found = await log.read(P, 0, 10**6)
        assert [(e.value, e.key) for e in found.events] == [(r.value, r.key) for r in records]
        found = await log.read(P, 0, 5 * len(EVENTS[0].value or b""))
        assert isinstance(found.events, EventRun)
        with closing(sqlite3.connect(tmp_path / "log.sqlite3")) as file, file:
            file.execute(
                "UPDATE events SET value = replace(value, ?, ?) WHERE id & 255 = 1",
                ("hidden", "hiddem"),
            )
        found = await log.read(P, 0, 4 * len(EVENTS[0].value or b""))
        assert [event.offset for event in found.events] == [0]
        with pytest.raises(RecordsDamaged):
            await log.read(P, 1, 10**6)
        found = await log.read(P, 2, 600)
        assert [event.offset for event in found.events] == [2, 3, 4, 5]
    finally:
        await log.aclose()


async def test_a_redaction_applies_to_events_that_could_be_copied(tmp_path: Path) -> None:
    log = await filled(SqliteLog(directory=tmp_path, settings=SqliteSettings()), EVENTS)
    spec = SubscriptionSpec((P,), frozenset({"t"}), Format.SSE)
    start = Position((P,), (0,), (0,))
    try:
        async with serving(log, ["t"], batch_bytes_max=500) as gateway:
            hub = gateway.hub
            ends = hub.ends(spec)
            before = await hub.read(spec, start, ends, None, client="c")
            hub.redact({"t": REDACTION})
            for position in (start, before.position):
                after = await hub.read(spec, position, ends, None, client="c")
                assert before.piece
                assert b"hidden" in before.piece.content
                assert after.piece
                assert b"hidden" not in after.piece.content
    finally:
        await log.aclose()


class Runs(MemoryLog):
    """A log that returns its events as runs."""

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> Slice:
        found = await super().read(partition, offset, max_bytes)
        stored = [(event.value or b"", event.timestamp_ms) for event in found.events]
        return found._replace(events=run_of(partition, offset, stored))


async def test_a_block_of_copied_events_counts_as_many_bytes_as_its_frames() -> None:
    histories = [
        History(
            log=await filled(log, EVENTS), block_bytes=9_000, bytes_max=10**6, metrics=Metrics()
        )
        for log in (MemoryLog(), Runs())
    ]
    for history in histories:
        for offset in (300, 0):  # the second block is cut where the first one begins
            await history.load(P, offset)
    counted, copied = histories
    assert copied._bytes == counted._bytes
    for offset in (0, 255, 256, 300):
        assert await copied.timestamp_before(P, offset + 1) == 1_000 + offset
    run = copied.cached(P, 0)
    assert run is not None
    assert isinstance(run.frames, FrameRun)
    assert run.frames.to_copy is not None, "looking at single frames keeps the events"
    assert {id(frame) for frame in run.frames} == {id(frame) for frame in run.frames}
    assert run.frames.to_copy is None, "the frames have replaced the events"


slices = st.slices(8).filter(lambda part: part.step in {None, 1})


@given(st.lists(compact_events, max_size=8), slices, slices, st.booleans())
def test_a_run_is_a_sequence_like_the_list_of_its_events(
    stored: list[bytes], part: slice, inner: slice, made_before: bool
) -> None:
    run = run_of(P, 40, [(value, n) for n, value in enumerate(stored)])
    events = [run[n] for n in range(len(run))]
    assert [*run] == events
    assert [*run[part][inner]] == events[part][inner]
    frames = FrameRun.of(run, NONE)
    if made_before:
        assert [frame.offset for frame in frames] == [event.offset for event in events]
    some = frames[part][inner]
    expected = events[part][inner]
    for offset in range(38, 50):
        assert index_of(some, offset) == sum(event.offset < offset for event in expected)
    shown = [
        (frame.offset, frame.timestamp_ms, frame.data)
        for frame in map(some.__getitem__, range(len(some)))
    ]
    assert shown == [(e.offset, e.timestamp_ms, encode(e)) for e in expected]
    assert [frame.data for frame in some] == [encode(event) for event in expected]
    with pytest.raises(IndexError):
        some[len(some)]
