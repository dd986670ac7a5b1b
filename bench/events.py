"""The events of all benches: 1 KiB each, their data beginning with time and number.

They are recent changes; `plain` ones hold a single text beside, which is less to parse. Where it
matters that no two are alike, `change` gives them as they came: the real ones kept beside the
checkout, where they are, else those of the demo feed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from pathlib import Path

import orjson

from eventstreams.demo_events import RecentChanges
from eventstreams.fanout.chunk import render
from eventstreams.fanout.selector import Documents
from eventstreams.fanout.tail import Run
from eventstreams.fanout.want import Format, Want
from eventstreams.model.event import Event, Partition, Record
from eventstreams.model.frame import Frame
from eventstreams.model.position import Position

TOPIC = "eqiad.mediawiki.recentchange"
STREAM = "mediawiki.recentchange"
EVENT_BYTES = 1024
FIRST_SEQ = 1_000_000
"""Numbers have seven digits from here on, so that all events have one size."""

_KEPT = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
_HEAD = b'{"ts":%d,"seq":%d,'


def _rest() -> bytes:
    """A recent change without its brace, its comment as long as makes the event EVENT_BYTES."""
    change = RecentChanges(stream=STREAM, seed=1).event(1_700_000_000_000)
    change["comment"] = change["parsedcomment"] = ""
    missing = EVENT_BYTES - len(_HEAD % (10**18, FIRST_SEQ)) - len(orjson.dumps(change)[1:])
    assert missing > 0
    change["comment"] = "x" * missing
    return orjson.dumps(change)[1:]


_REST = _rest()
_PLAIN_REST = b'"text":"' + b"x" * (len(_REST) - 10) + b'"}'
assert len(_PLAIN_REST) == len(_REST)


def value(seq: int, *, plain: bool = False, late_ns: int = 0) -> bytes:
    """An event made now, or `late_ns` ago."""
    return _HEAD % (time.time_ns() - late_ns, seq) + (_PLAIN_REST if plain else _REST)


@functools.cache
def _changes() -> list[bytes]:
    """Without their first braces; they are taken in turn."""
    kept = sorted(_KEPT.glob("recentchange-*.ndjson"))
    if kept:
        return [line.strip()[1:] for file in kept for line in file.read_bytes().splitlines()]
    source = RecentChanges(stream=STREAM, seed=1)
    made = (source.event(1_700_000_000_000 + 50 * n) for n in range(1000))
    return [orjson.dumps(change)[1:] for change in made]


def change(seq: int) -> Record:
    """A recent change made now, unlike the one before it."""
    texts = _changes()
    return Record(TOPIC, _HEAD % (time.time_ns(), seq) + texts[seq % len(texts)])


def record(seq: int, topic: str = TOPIC, *, late_ns: int = 0) -> Record:
    return Record(topic, value(seq, late_ns=late_ns))


def records(seqs: Iterable[int], topic: str = TOPIC, *, plain: bool = False) -> list[Record]:
    return [Record(topic, value(seq, plain=plain)) for seq in seqs]


def frame_bytes() -> int:
    """The size of the gateway's own frame for one of these events, on a stream of one topic."""
    partition, offset, now_ms = Partition(TOPIC, 0), 5000, time.time_ns() // 1_000_000
    frame = Frame(Event(partition, offset, now_ms, value(FIRST_SEQ)))
    want = Want((partition,), frozenset({TOPIC}), Format.SSE)
    position = Position((partition,), (offset,), (now_ms,))
    chunk = render(
        want, position, {0: Run([frame], offset + 1)}, (offset + 1,), 1 << 20, documents=Documents()
    )
    return len(chunk.body)
