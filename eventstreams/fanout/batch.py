"""Renders frames into batches of bytes that are ready to send.

Subscriptions with the same spec at the same position share a batch. Its events depend only on the
spec, the position and the slices; its length depends on the clock as well. The position moves past
every event examined, whether or not the event is sent.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

from eventstreams.errors import GapRecorded
from eventstreams.fanout.compression import EncodedBody, Encoding, apart_in_steps
from eventstreams.fanout.spec import Format, SubscriptionSpec
from eventstreams.fanout.tails import TailSlice
from eventstreams.filters.selector import Documents
from eventstreams.model import sse
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.frame import Frame
from eventstreams.model.frame_run import FrameRun, index_of
from eventstreams.model.place import insert_places
from eventstreams.model.position import Cursor, Position
from eventstreams.turns import PIECE_S

FRAMING_BYTES = len(sse.MESSAGE) + len(sse.ID) + len(sse.END)


class Batch(NamedTuple):
    """Complete frames and the position after them. `body` is empty if no event was selected."""

    body: bytes
    position: Position
    events: int
    """How many events `body` holds."""
    skipped: int
    """How many records were skipped because they hold no event."""
    selecting_s: float = 0.0
    """Time spent on selecting the events, in seconds."""
    passed_bytes: int = 0
    """Bytes that were examined and not selected: whole events, and fields left out of others."""


class EncodedBatch(NamedTuple):
    """A batch encoded independently of other batches. `piece` is None if no event was selected."""

    piece: EncodedBody | None
    position: Position
    passed_bytes: int
    """Bytes that were examined and not selected: whole events, and fields left out of others."""
    selecting_s: float
    """Time spent on selecting the events, in seconds; 0.0 if the batch came from the cache."""


def encode_batch(batch: Batch, encoding: Encoding) -> Generator[None, None, EncodedBatch]:
    """Encode the batch; each `yield` is a point at which other work can proceed."""
    piece: EncodedBody | None = None
    if batch.body:
        piece = yield from apart_in_steps(encoding, batch.body, batch.events)
    return EncodedBatch(piece, batch.position, batch.passed_bytes, batch.selecting_s)


def render(
    spec: SubscriptionSpec,
    position: Position,
    slices: Mapping[int, TailSlice],
    ends: Sequence[int],
    bytes_max: int,
    *,
    documents: Documents,
    remaining: int | None = None,
    piece_s: float = PIECE_S,
) -> Batch:
    """Return the next batch from `position`.

    The batch ends when about `bytes_max` bytes of events were examined, when it holds `remaining`
    events, or after `piece_s` seconds. It covers at least one record if there is one.

    `slices[i]` begins at `position.offsets[i]`. A partition without a slice holds no records before
    `ends[i]`. Events at or beyond `ends[i]` are left out. Partitions are merged by record
    timestamp. The merge ends with the first slice that stops short of its end, because the records
    that follow there may be older than those of the other partitions.

    The batch ends before a record that marks a gap. Raises GapRecorded if that record is the first.
    """
    if remaining is None:
        copied = _copied(spec, position, slices, ends, bytes_max=bytes_max, piece_s=piece_s)
        if copied is not None:
            return copied
    cursor = Cursor(position)
    framed = framer(spec)
    selector = spec.selector
    parts: list[bytes] = []
    size = events = skipped = passed_bytes = 0
    selecting_s = 0.0
    began = time.perf_counter()
    for frame, position_id in merged(cursor, slices, ends):
        data = line = frame.data
        if data is None or line is None:
            skipped += 1
        else:
            if selector is not None:
                now = time.perf_counter()
                line = selector.select(frame, documents)
                selecting_s += time.perf_counter() - now
            passed_bytes += len(data) - len(line or b"")
            if line is not None:
                left = None if remaining is None else remaining - events - 1
                parts += framed(line, position_id, left)
                events += 1
                size += len(line) + len(position_id) + FRAMING_BYTES
        if size + passed_bytes >= bytes_max or events == remaining:
            break
        if time.perf_counter() - began >= piece_s:
            break
    body = b"".join(parts)
    return Batch(body, cursor.position(), events, skipped, selecting_s, passed_bytes)


def _copied(
    spec: SubscriptionSpec,
    position: Position,
    slices: Mapping[int, TailSlice],
    ends: Sequence[int],
    *,
    bytes_max: int,
    piece_s: float,
) -> Batch | None:
    """Return the batch that `render` would make, without making a frame or a cursor's id.

    This takes half the time for an event. It is possible where a client takes all events as they
    are, where only one partition has events, and where its log has stored the place spans of all of
    them. Otherwise return None.
    """
    if len(slices) != 1 or spec.selector is not None or spec.format is not Format.SSE:
        return None
    [(index, tail_slice)] = slices.items()
    frames = _before(tail_slice, ends[index])
    events = frames.to_copy if isinstance(frames, FrameRun) else None
    id_form = position.id_form(index)
    if not events or id_form is None or tail_slice.epochs.starts:
        return None
    if spec.stop_condition is not None:
        id_form = spec.stop_condition.wrap(id_form)
    parts: list[bytes] = []
    size = 0
    began = time.perf_counter()
    for part in insert_places(events, sse.MESSAGE, b"%b%b%b" % (sse.ID, id_form, sse.END)):
        parts.append(part)
        size += len(part)
        if size >= bytes_max or time.perf_counter() - began >= piece_s:
            break
    count = len(parts)
    moved = position.at(events.partition, events.first + count, events.timestamps_ms[count - 1])
    return Batch(b"".join(parts), moved, events=count, skipped=0)


def merged(
    cursor: Cursor, slices: Mapping[int, TailSlice], ends: Sequence[int]
) -> Iterator[tuple[Frame, bytes]]:
    """Yield each frame with the id after it, in the order in which clients receive them.

    Moves `cursor` past each frame before it is yielded, and past holes at the ends of the slices
    when no frame is left. See `render` for slices, ends, the order and GapRecorded.
    """
    frames = {i: _before(tail_slice, ends[i]) for i, tail_slice in slices.items()}
    short = {i for i, tail_slice in slices.items() if tail_slice.next < ends[i]}
    has_epochs = any(tail_slice.epochs.starts for tail_slice in slices.values())
    is_first = True
    for index, frame in _in_order(frames, short):
        offset = frame.offset
        epoch = slices[index].epochs.at(offset) if has_epochs else NO_EPOCH
        if frame.gap is not None:
            if not is_first:
                return
            raise GapRecorded(
                frame.partition,
                offset,
                frame.gap,
                timestamp_ms=frame.timestamp_ms,
                epoch=epoch,
            )
        is_first = False
        yield frame, cursor.pass_event(index, offset, frame.timestamp_ms, epoch)
    for index, tail_slice in slices.items():
        partition_frames = frames[index]
        if not partition_frames or cursor.offset(index) > partition_frames[-1].offset:
            whole = tail_slice.next <= ends[index]
            end = tail_slice.next if whole else ends[index]
            cursor.pass_hole(index, end, tail_slice.last_epoch if whole else NO_EPOCH)


Framer = Callable[[bytes, bytes, int | None], tuple[bytes, ...]]


def framer(spec: SubscriptionSpec) -> Framer:
    """Return a function of (data, encoded position, events remaining) that returns the frame."""
    stop_condition = spec.stop_condition
    if spec.format is not Format.SSE:
        return _as_line
    if stop_condition is None:
        return _as_event

    def bounded(data: bytes, id_: bytes, remaining: int | None) -> tuple[bytes, ...]:
        return (
            sse.MESSAGE,
            data,
            sse.ID,
            stop_condition._replace(remaining=remaining).wrap(id_),
            sse.END,
        )

    return bounded


def _as_line(data: bytes, _id: bytes, _remaining: int | None) -> tuple[bytes, ...]:
    return data, b"\n"


def _as_event(data: bytes, id_: bytes, _remaining: int | None) -> tuple[bytes, ...]:
    return sse.MESSAGE, data, sse.ID, id_, sse.END


def _before(tail_slice: TailSlice, end: int) -> Sequence[Frame]:
    if tail_slice.next <= end:
        return tail_slice.frames
    return tail_slice.frames[: index_of(tail_slice.frames, end)]


def _in_order(
    frames: Mapping[int, Sequence[Frame]], short: set[int]
) -> Iterable[tuple[int, Frame]]:
    """Return pairs (partition index, frame) by timestamp, until a short slice or all end."""
    if len(frames) == 1:
        [(index, only)] = frames.items()
        return zip(repeat(index), only, strict=False)
    return _by_timestamp(frames, short)


def _by_timestamp(
    frames: Mapping[int, Sequence[Frame]], short: set[int]
) -> Iterator[tuple[int, Frame]]:
    heap: list[tuple[int, int, Frame, Iterator[Frame]]] = []
    for index, partition_frames in frames.items():
        rest = iter(partition_frames)
        head = next(rest, None)
        if head is not None:
            heap.append((head.timestamp_ms, index, head, rest))
        elif index in short:
            return
    heapq.heapify(heap)
    while heap:
        _, index, head, rest = heap[0]
        yield index, head
        following = next(rest, None)
        if following is not None:
            heapq.heapreplace(heap, (following.timestamp_ms, index, following, rest))
        elif index in short:
            return
        else:
            heapq.heappop(heap)
