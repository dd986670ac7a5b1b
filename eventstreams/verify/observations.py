"""Observations that several checks share. Each is made once in a run, when first needed.

An observation raises Wrong if the gateway does not behave as it requires, and Skipped if something
else is missing. The checks that need it then fail or are skipped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from eventstreams.model.event import Partition
from eventstreams.verify.blocks import Block, blocks_of
from eventstreams.verify.reading import Reading, Seen
from eventstreams.verify.target import NEEDS_POST, Target, have, read_all
from eventstreams.verify.verdict import Skipped, Verdict, Wrong, failed, passed
from eventstreams.verify.wire import Head

EARLIEST = "since=2001-01-01T00%3A00%3A00Z"
"""Selects the oldest event, in a form that every gateway accepts; KafkaSSE ignores 1970."""
NEVER = quote('event.meta.id == "no event has this id"')
"""A filter that matches no event."""
_POSTED = 8
_ENOUGH = 4
_ROUNDS = 3
_BURST = 3
_BAD_CUTS = 2


@dataclass(frozen=True)
class Opening:
    """The beginning of a live stream."""

    head: Head
    chunked: bool
    first: bytes
    after_s: float
    """The time from the request to the first byte."""


@dataclass(frozen=True)
class Sample:
    """Events of the log, in the order in which one connection sent them."""

    head: Head
    body: bytes
    events: list[Seen]
    """Only messages, in order."""

    @property
    def blocks(self) -> list[Block]:
        """The blocks of messages."""
        return [block for block in blocks_of(self.body) if block.is_message]

    @property
    def partitions(self) -> dict[Partition, list[Seen]]:
        return by_partition(self.events)


@dataclass(frozen=True)
class Cut:
    """The events of a stream that was resumed with the id of an event of the sample."""

    after: Seen
    before: frozenset[str]
    """The identities of the events that the client already had."""
    expected: list[Seen]
    """The events of the sample that it did not have."""
    got: list[Seen]
    gaps: list[Seen]

    @property
    def missing(self) -> list[str]:
        there = {event.identity for event in self.got}
        return [event.identity for event in self.expected if event.identity not in there]

    @property
    def twice(self) -> list[str]:
        counted = Counter(event.identity for event in self.got)
        return [name for name, count in counted.items() if count > 1 or name in self.before]

    @property
    def swapped(self) -> list[str]:
        """Events that arrived after a later event of the same partition in the sample."""
        wanted = by_partition(self.expected)
        found: list[str] = []
        for partition, events in by_partition(self.got).items():
            order = {event.identity: n for n, event in enumerate(wanted.get(partition, []))}
            places = [order[event.identity] for event in events if event.identity in order]
            names = [event.identity for event in events if event.identity in order]
            found += [names[n] for n in range(1, len(places)) if places[n] < max(places[:n])]
        return found


@dataclass(frozen=True)
class Quiet:
    """The bytes of a stream without events."""

    body: bytes
    """The bytes of about one heartbeat interval."""
    after_s: float
    """The time until the first byte, or until the limit."""


@dataclass(frozen=True)
class Live:
    """Test events that were posted while a stream was open, one at a time and several at once."""

    body: bytes
    chunk_ends: list[int]
    events: list[Seen]
    has_first: bool
    """Whether an event arrived that was posted immediately after the stream began."""
    singles: list[float | None]
    """The seconds from each response of the intake to the event; None if it did not arrive."""
    burst_missing: int | None
    """How many events of one request did not arrive; None if this was not tried."""


def by_partition(events: Sequence[Seen]) -> dict[Partition, list[Seen]]:
    found: dict[Partition, list[Seen]] = {}
    for event in events:
        found.setdefault(event.partition, []).append(event)
    return found


async def opening(target: Target) -> Opening:
    return await target.once("opening", lambda: _opening(target))


async def _opening(target: Target) -> Opening:
    began = time.monotonic()
    async with target.stream() as reading:
        await target.begun(reading)
        after_s = reading.arrivals[0] - began
        return Opening(reading.head, reading.chunked, bytes(reading.body), after_s)


async def sample(target: Target) -> Sample:
    """Return events of the history; if there are too few, also live or posted ones."""
    return await target.once("sample", lambda: _sample(target))


async def _sample(target: Target) -> Sample:
    patience = target.patience
    async with target.stream(EARLIEST) as reading:
        await target.begun(reading)
        await read_all(target, reading, lambda: len(reading.messages) >= patience.events)
        if len(reading.messages) < _POSTED and target.can_post:
            await _post_a_few(target, reading)
        elif len(reading.messages) < _ENOUGH:
            await reading.messages_until(_ENOUGH, patience.live_s)
        events = reading.messages[: patience.events]
        if not events:
            raise Skipped(
                f"no event arrived within {patience.live_s:g} s: name a stream with events, or "
                "pass --produce"
            )
        return Sample(reading.head, bytes(reading.body), events)


async def _post_a_few(target: Target, reading: Reading) -> None:
    posted: list[str] = []
    for _ in range(_POSTED):
        posted += await target.produce(1)
    if not await reading.until(have(reading, posted), target.patience.event_s):
        raise Wrong(
            f"of {_POSTED} test events posted while a stream was open, some did not arrive within "
            f"{target.patience.event_s:g} s"
        )


async def resumed(target: Target) -> list[Cut]:
    """Resume after each id of the sample, or after some of them, evenly spaced.

    Ends early after two of them were resumed incorrectly.
    """
    return await target.once("resumed", lambda: _resumed(target))


def of_each_cut(
    problem: Callable[[Cut], str | None], otherwise: str
) -> Callable[[Target], Awaitable[Verdict]]:
    """Return a check that fails with the first problem of a resumed stream.

    `otherwise` is the evidence if there is none, with {} for the number of streams.
    """

    async def check(target: Target) -> Verdict:
        cuts = await resumed(target)
        for cut in cuts:
            if found := problem(cut):
                return failed(f"after {cut.after.identity}: {found}")
        return passed(otherwise.format(len(cuts)))

    return check


async def _resumed(target: Target) -> list[Cut]:
    events = (await sample(target)).events
    last = len(events) - 1
    count = min(len(events), max(2, target.patience.cuts))
    cuts: list[Cut] = []
    bad = 0
    for after in sorted({round(n * last / max(1, count - 1)) for n in range(count)}):
        cut = await _resume(target, events, after)
        cuts.append(cut)
        bad += bool(cut.missing or cut.twice or cut.swapped)
        if bad >= _BAD_CUTS:
            break
    return cuts


async def _resume(target: Target, events: list[Seen], after: int) -> Cut:
    expected = events[after + 1 :]
    lasts = {at[-1].identity for at in by_partition(expected).values()}
    async with target.stream(last_event_id=events[after].id) as reading:
        await target.begun(reading)
        if expected:
            await reading.until(_has(reading, lasts), target.patience.event_s)
            every = {event.identity for event in expected}
            await reading.until(_has(reading, every), target.patience.quiet_s)
        else:
            await read_all(target, reading, lambda: False)
        before = frozenset(event.identity for event in events[: after + 1])
        gaps = [event for event in reading.seen if event.event == "gap"]
        return Cut(events[after], before, expected, reading.messages, gaps)


def _has(reading: Reading, identities: set[str]) -> Callable[[], bool]:
    missing = set(identities)
    looked_at = 0

    def arrived() -> bool:
        nonlocal looked_at
        missing.difference_update(event.identity for event in reading.seen[looked_at:])
        looked_at = len(reading.seen)
        return not missing

    return arrived


async def quiet(target: Target) -> Quiet:
    return await target.once("quiet", lambda: _quiet(target))


async def _quiet(target: Target) -> Quiet:
    query = f"filter={NEVER}" if await has_filters(target) else ""
    began = time.monotonic()
    async with target.stream(query) as reading:
        await target.begun(reading)
        size = len(reading.body)
        await reading.grow(target.patience.heartbeat_s)
        after_s = time.monotonic() - began
        await reading.settle(target.patience.quiet_s / 4, target.patience.quiet_s / 2)
        if reading.messages:
            raise Skipped("the stream is never quiet; name a stream with few events")
        return Quiet(bytes(reading.body[size:]), after_s)


async def has_filters(target: Target) -> bool:
    """Return whether the gateway has filters, which it must refuse if they are invalid."""
    return await target.once("filters", lambda: _has_filters(target))


async def _has_filters(target: Target) -> bool:
    headers = {"Accept": "text/event-stream"}
    async with target.open(target.path(query="filter=%28%28"), headers) as reading:
        return reading.head.status == 400


async def live(target: Target) -> Live:
    return await target.once("live", lambda: _live(target))


async def _live(target: Target) -> Live:
    if not target.can_post:
        raise Skipped(NEEDS_POST)
    singles: list[float | None] = []
    missing: int | None = None
    async with target.stream() as reading:
        await target.begun(reading)
        has_first = await seconds_to_arrive(target, reading) is not None
        for _ in range(_ROUNDS):
            singles.append(await seconds_to_arrive(target, reading))
            if singles[-1] is None:
                break
        else:
            posted = await target.produce(_BURST)
            arrived = have(reading, posted)
            await reading.until(arrived, target.patience.event_s)
            there = {str(event.meta.get("id")) for event in reading.seen}
            missing = len(set(posted) - there)
        return Live(
            body=bytes(reading.body),
            chunk_ends=reading.chunk_ends,
            events=reading.messages,
            has_first=has_first,
            singles=singles,
            burst_missing=missing,
        )


async def seconds_to_arrive(target: Target, reading: Reading) -> float | None:
    """Post one test event, and return the seconds until it arrives, or None."""
    [posted] = await target.produce(1)
    began = time.monotonic()
    if not await reading.until(have(reading, [posted]), target.patience.event_s):
        return None
    return max(0.0, reading.arrivals[-1] - began)


@dataclass(frozen=True)
class Seam:
    """The same part of the log, read across the transition from history to live events, and again
    when all of it was history.
    """

    live: list[Seen]
    again: list[Seen]


async def seam(target: Target) -> Seam:
    return await target.once("seam", lambda: _seam(target))


async def _seam(target: Target) -> Seam:
    if not target.can_post:
        raise Skipped(NEEDS_POST)
    first = (await sample(target)).events[0].id
    readings: list[list[Seen]] = []
    posted: list[str] = []
    async with target.stream(last_event_id=first) as reading:
        for _ in range(_BURST):  # while the gateway sends history
            posted += await target.produce(1)
        await reading.until(have(reading, posted), target.patience.event_s)
        readings.append(reading.messages)
    async with target.stream(last_event_id=first) as reading:
        await reading.until(have(reading, posted), target.patience.event_s)
        readings.append(reading.messages)
    return Seam(*readings)


@dataclass(frozen=True)
class Drained:
    """How a stream ended when the gateway was stopped."""

    reading: Reading
    on_purpose: bool
    """Whether this run stopped the gateway; otherwise a stream ended by itself."""


async def drained(target: Target) -> Drained:
    """Stop the gateway. All other checks must have finished."""
    return await target.once("drained", lambda: _drained(target))


async def _drained(target: Target) -> Drained:
    if target.drain is None:
        if target.ended:
            return Drained(target.ended[-1], on_purpose=False)
        raise Skipped("the gateway must be stopped for this: pass --drain-pid or --drain-command")
    async with target.stream() as reading:
        await target.begun(reading)
        await target.drain()
        await reading.until(lambda: reading.ending is not None, target.patience.drain_s)
        return Drained(reading, on_purpose=True)
