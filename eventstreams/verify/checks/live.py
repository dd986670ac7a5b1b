"""Checks of live events and quiet streams."""

from __future__ import annotations

from eventstreams.model.event import Partition
from eventstreams.verify.blocks import blocks_of
from eventstreams.verify.check import Check
from eventstreams.verify.ids import Entry, parse_id
from eventstreams.verify.observations import NEVER, has_filters, live, quiet
from eventstreams.verify.reading import Reading
from eventstreams.verify.target import NEEDS_POST, Target
from eventstreams.verify.verdict import Skipped, Verdict, differs, failed, passed, shown


async def _prompt(target: Target) -> Verdict:
    seen = await live(target)
    if None in seen.singles:
        return failed(
            f"test event {len(seen.singles)}, posted alone, did not arrive within "
            f"{target.patience.event_s:g} s"
        )
    slowest = max(single for single in seen.singles if single is not None)
    return passed(
        f"{len(seen.singles)} events, each sent before the next; the slowest took {slowest:.2f} s"
    )


async def _from_ok(target: Target) -> Verdict:
    seen = await live(target)
    if not seen.has_first:
        return failed(
            "a test event, posted after the first byte of a stream, did not arrive within "
            f"{target.patience.event_s:g} s"
        )
    return passed("a test event, posted after the first byte of a stream, arrived")


async def _burst(target: Target) -> Verdict:
    seen = await live(target)
    if seen.burst_missing is None:
        raise Skipped("events that are posted one at a time do not arrive either")
    if seen.burst_missing:
        return failed(
            f"of several events that were posted together, {seen.burst_missing} did not arrive "
            f"within {target.patience.event_s:g} s"
        )
    return passed("all of several events that were posted together arrived")


async def _heartbeat(target: Target) -> Verdict:
    seen = await quiet(target)
    if not seen.body:
        return failed(f"a quiet stream sends nothing in {seen.after_s:.0f} s")
    return differs(f"{shown(seen.body)} after {seen.after_s:.1f} s")


async def _heartbeat_bytes(target: Target) -> Verdict:
    seen = await quiet(target)
    if not seen.body:
        raise Skipped("a quiet stream sends nothing")
    if blocks_of(seen.body):
        return failed(f"a quiet stream sends a block: {shown(seen.body)}")
    if b"\n\n" in b"\n" + seen.body:
        return failed(f"a blank line follows the comment: {shown(seen.body)}")
    if not seen.body.startswith(b":"):
        return failed(f"not a comment: {shown(seen.body)}")
    return differs(f"{shown(seen.body)}, without a blank line")


async def _cursor_moves(target: Target) -> Verdict:
    if not await has_filters(target):
        raise Skipped("the gateway has no filters")
    if not target.can_post:
        raise Skipped(NEEDS_POST)
    async with target.stream(f"filter={NEVER}&heartbeat=checkpoint") as reading:
        await target.begun(reading)
        patience_s = target.patience.heartbeat_s
        if not await reading.until(lambda: _newest(reading) is not None, patience_s):
            raise Skipped("`heartbeat=checkpoint` sends no ids")
        began = _sum(reading)
        count = len([await target.produce(1) for _ in range(2)])
        await reading.until(lambda: _sum(reading) >= began + count, patience_s)
        ended = _sum(reading)
        if reading.messages:
            return failed(f"the filter passes {reading.messages[0].identity}")
    if ended < began + count:
        return failed(
            f"{count} events that do not match the filter moved the id by {ended - began}"
        )
    return differs(f"{count} events that do not match the filter moved the id by {ended - began}")


def _newest(reading: Reading) -> dict[Partition, Entry] | None:
    """Return the newest valid id received, or None."""
    for block in reversed(blocks_of(bytes(reading.body))):
        for n in block.fields(b"id"):
            try:
                return parse_id(block.lines[n].partition(b":")[2].strip().decode())
            except ValueError:
                continue
    return None


def _sum(reading: Reading) -> int:
    """Return the sum of the offsets in the newest id. Raises Skipped if it has none."""
    offsets = [entry.offset for entry in (_newest(reading) or {}).values()]
    if None in offsets:
        raise Skipped("ids have no offsets")
    return sum(offset for offset in offsets if offset is not None)


CHECKS = (
    Check(
        "live.from-ok",
        "A stream has every event from its first byte on",
        "A client that reads the current state once its stream is open, and then follows the "
        "stream, would miss the events in between.",
        _from_ok,
    ),
    Check(
        "live.prompt",
        "Each event is sent immediately, not when the next one arrives",
        "A buffer in the gateway or in a proxy would delay the last events of a quiet stream for "
        "minutes.",
        _prompt,
    ),
    Check(
        "live.burst",
        "Events that arrive together are all sent at once",
        "A gateway that misses the second of two events sends it only with the next one, perhaps "
        "much later.",
        _burst,
    ),
    Check(
        "live.heartbeat",
        "A quiet stream sends something every 25 s",
        "Proxies and clients close streams that are silent for 30, 45 or 60 s, and a client cannot "
        "distinguish silence from a dead connection.",
        _heartbeat,
        upstream="A quiet stream sends nothing.",
    ),
    Check(
        "live.heartbeat-bytes",
        "A heartbeat is a comment line without a blank line after it",
        "With a blank line, httpx-sse, sseclient and r3labs/sse process an empty event.",
        _heartbeat_bytes,
        upstream="A quiet stream sends nothing.",
    ),
    Check(
        "live.cursor-moves",
        "Events that do not match a filter also move the id",
        "Otherwise, the gateway examines days of events again whenever a client with a rare filter "
        "reconnects, or they are no longer kept.",
        _cursor_moves,
        upstream="There are no filters.",
    ),
)
