"""The events of all benches: 1 KiB each, with data that begins with time and number.

They are recent changes; `plain` ones contain a single text instead of fields, which is faster to
parse. Where no two events may be alike, `change` returns recorded ones from beside the checkout if
they exist, and otherwise those of the demo feed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from pathlib import Path

import orjson

from eventstreams.demo.recent_changes import RecentChanges
from eventstreams.fanout.batch import render
from eventstreams.fanout.spec import Format, SubscriptionSpec
from eventstreams.fanout.tails import TailSlice
from eventstreams.filters.selector import Documents
from eventstreams.model.event import Event, Partition, Record
from eventstreams.model.frame import Frame
from eventstreams.model.position import Position

TOPIC = "eqiad.mediawiki.recentchange"
STREAM = "mediawiki.recentchange"
EVENT_BYTES = 1024
FIRST_SEQ = 1_000_000
"""The first number. Numbers have seven digits, so all events have the same size."""

USERS = 1_000
"""Users in the events of `edit`."""

_KEPT = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
_HEAD = b'{"ts":%d,"seq":%d,'


def _rest() -> bytes:
    """Return a recent change without its opening brace, with a comment that pads it to
    EVENT_BYTES."""
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
    """Return an event made now, or `late_ns` ago."""
    return _HEAD % (time.time_ns() - late_ns, seq) + (_PLAIN_REST if plain else _REST)


@functools.cache
def _changes() -> list[bytes]:
    """Return recent changes without their opening braces, to be used in turn."""
    kept = sorted(_KEPT.glob("recentchange-*.ndjson"))
    if kept:
        return [line.strip()[1:] for file in kept for line in file.read_bytes().splitlines()]
    source = RecentChanges(stream=STREAM, seed=1)
    made = (source.event(1_700_000_000_000 + 50 * n) for n in range(1000))
    return [orjson.dumps(change)[1:] for change in made]


def change(seq: int) -> Record:
    """Return a recent change made now that differs from the previous one."""
    texts = _changes()
    return Record(TOPIC, _HEAD % (time.time_ns(), seq) + texts[seq % len(texts)])


@functools.cache
def _edits() -> list[bytes]:
    """Return recent changes of USERS users without their opening braces."""
    source = RecentChanges(stream=STREAM, seed=1)
    found: list[bytes] = []
    for n in range(USERS):
        change = source.event(1_700_000_000_000 + 50 * n)
        change["wiki"], change["user"] = wiki_and_user(n)
        found.append(orjson.dumps(change)[1:])
    return found


def wiki_and_user(seq: int) -> tuple[str, str]:
    """Return the wiki and the user of `edit`. Each user makes one in USERS edits, in one wiki."""
    n = seq % USERS
    return f"wiki{n % 300}", f"User {n}"


def edit(seq: int) -> Record:
    """Return a recent change made now, by another user than the USERS - 1 before it."""
    return Record(TOPIC, _HEAD % (time.time_ns(), seq) + _edits()[seq % USERS])


def record(seq: int, topic: str = TOPIC, *, late_ns: int = 0) -> Record:
    return Record(topic, value(seq, late_ns=late_ns))


def records(seqs: Iterable[int], topic: str = TOPIC, *, plain: bool = False) -> list[Record]:
    return [Record(topic, value(seq, plain=plain)) for seq in seqs]


def frame_bytes() -> int:
    """Return the size of the gateway's frame for one of these events, on a stream of one topic."""
    partition, offset, now_ms = Partition(TOPIC, 0), 5000, time.time_ns() // 1_000_000
    frame = Frame(Event(partition, offset, now_ms, value(FIRST_SEQ)))
    spec = SubscriptionSpec((partition,), frozenset({TOPIC}), Format.SSE)
    position = Position((partition,), (offset,), (now_ms,))
    chunk = render(
        spec,
        position,
        {0: TailSlice([frame], offset + 1)},
        (offset + 1,),
        1 << 20,
        documents=Documents(),
    )
    return len(chunk.body)
