"""Appends events at a steady rate, each due at a fixed time however long an append takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bench import events
from eventstreams.log.base import Log


async def feed(
    log: Log,
    rate: float,
    seq: int = events.FIRST_SEQ,
    topic: str = events.TOPIC,
    appended: Callable[[int], None] = lambda _: None,
    *,
    unlike: bool = False,
    edits: bool = False,
) -> None:
    """Append events until cancelled.

    `appended` is called with the number of each event. All events differ if `unlike`;
    with `edits` they are of many users.
    """
    due = time.monotonic()
    while True:
        due += 1 / rate
        late_s = time.monotonic() - due  # its time counts from when it was due
        await asyncio.sleep(max(0.0, -late_s))
        late_ns = max(0, int(late_s * 1e9))
        if edits:
            record = events.edit(seq)
        else:
            record = events.change(seq) if unlike else events.record(seq, topic, late_ns=late_ns)
        await log.append([record])
        appended(seq)
        seq += 1


async def fill(log: Log, count: int, seq: int, topic: str, *, plain: bool) -> None:
    """Append `count` events as fast as possible."""
    end = seq + count
    for first in range(seq, end, 1000):
        seqs = range(first, min(first + 1000, end))
        await log.append(events.records(seqs, topic, plain=plain))
