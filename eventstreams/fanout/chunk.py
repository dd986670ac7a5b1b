"""Frames in, bytes out: a batch rendered once for all who want the same from the same position.

What a chunk holds depends on the want, the position it starts from and the runs; where it ends, on
the clock, too. The position moves past every event looked at, sent or not.
"""

from __future__ import annotations

import heapq
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

from eventstreams.fanout.compression import Encoding, Piece, apart_in_steps
from eventstreams.fanout.selector import Documents
from eventstreams.fanout.tail import Run
from eventstreams.fanout.want import Format, Want
from eventstreams.model import sse
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.frame import Frame
from eventstreams.model.position import Cursor, Position
from eventstreams.turns import PIECE_S

_FRAMING_BYTES = len(sse.MESSAGE) + len(sse.ID) + len(sse.END)


class Chunk(NamedTuple):
    """Whole frames, and where they lead. `body` is empty if nothing was to send."""

    body: bytes
    position: Position
    events: int
    skipped: int
    """Records passed over because they hold no event."""
    selecting_s: float = 0.0
    """What it took to find which ones to send."""
    passed_bytes: int = 0
    """Of the events that were looked at, what is not sent."""


class Portion(NamedTuple):
    """A chunk encoded for whoever pulls it alone. `piece` is None if nothing was to send."""

    piece: Piece | None
    position: Position
    passed_bytes: int
    """As of the chunk."""
    selecting_s: float
    """What it took to choose the events; 0.0 where another client had it made."""


def portion(chunk: Chunk, encoding: Encoding) -> Generator[None, None, Portion]:
    """Encode the chunk, in steps."""
    piece: Piece | None = None
    if chunk.body:
        piece = yield from apart_in_steps(encoding, chunk.body, chunk.events)
    return Portion(piece, chunk.position, chunk.passed_bytes, chunk.selecting_s)


def render(
    want: Want,
    position: Position,
    runs: Mapping[int, Run],
    ends: Sequence[int],
    bytes_max: int,
    *,
    documents: Documents,
    left: int | None = None,
    piece_s: float = PIECE_S,
) -> Chunk:
    """Renders from `position` on, until about `bytes_max` bytes of events were looked at, `left`
    events are in it, or `piece_s` have passed; at least one record if there is any.

    `runs[i]` begins at `position.offsets[i]`; a partition without a run has nothing to give before
    `ends[i]`, and no event at or beyond `ends[i]` is taken. Several partitions are merged by record
    timestamp, no further than where the first run stops short of its end: what follows there may
    be older than what the others hold.
    """
    cursor = Cursor(position)
    frames = {i: _before(run, ends[i]) for i, run in runs.items()}
    short = {i for i, run in runs.items() if run.next < ends[i]}
    framed = _framer(want)
    selector = want.selector
    parts: list[bytes] = []
    size = events = skipped = passed_bytes = 0
    selecting_s = 0.0
    began = time.perf_counter()
    for index, frame in _in_order(frames, short):
        data = frame.data
        if data is not None and selector is not None:
            passed_bytes += len(data)
            now = time.perf_counter()
            data = selector.select(frame, documents)
            selecting_s += time.perf_counter() - now
            passed_bytes -= 0 if data is None else len(data)
        epoch = runs[index].epochs.at(frame.offset)
        position_id = cursor.pass_event(index, frame.offset, frame.timestamp_ms, epoch)
        if frame.data is None:
            skipped += 1
        elif data is not None:
            parts += framed(data, position_id, None if left is None else left - events - 1)
            events += 1
            size += len(data) + len(position_id) + _FRAMING_BYTES
        if size + passed_bytes >= bytes_max or events == left:
            break
        if time.perf_counter() - began >= piece_s:
            break
    else:
        for index, run in runs.items():
            mine = frames[index]
            if not mine or cursor.offset(index) > mine[-1].offset:
                whole = run.next <= ends[index]
                end = run.next if whole else ends[index]
                cursor.pass_hole(index, end, run.last_epoch if whole else NO_EPOCH)
    body = b"".join(parts)
    return Chunk(body, cursor.position(), events, skipped, selecting_s, passed_bytes)


def _framer(want: Want) -> Callable[[bytes, bytes, int | None], tuple[bytes, ...]]:
    """(data, position's id, events left after it) -> the pieces of its frame."""
    extent = want.extent
    if want.format is not Format.SSE:
        return lambda data, _id, _left: (data, b"\n")
    if extent is None:
        return lambda data, id_, _left: (sse.MESSAGE, data, sse.ID, id_, sse.END)

    def bounded(data: bytes, id_: bytes, left: int | None) -> tuple[bytes, ...]:
        return sse.MESSAGE, data, sse.ID, extent._replace(left=left).wrap(id_), sse.END

    return bounded


def _before(run: Run, end: int) -> Sequence[Frame]:
    if run.next <= end:
        return run.frames
    return run.frames[: bisect_left(run.frames, end, key=_offset)]


def _offset(frame: Frame) -> int:
    return frame.offset


def _in_order(
    frames: Mapping[int, Sequence[Frame]], short: set[int]
) -> Iterator[tuple[int, Frame]]:
    """(partition's index, frame) by timestamp, until a short run is used up or all are."""
    if len(frames) == 1:
        [(index, only)] = frames.items()
        for frame in only:
            yield index, frame
        return
    heap: list[tuple[int, int, Frame, Iterator[Frame]]] = []
    for index, mine in frames.items():
        rest = iter(mine)
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
