"""Checks whether clients learn that events they ask for are missing."""

from __future__ import annotations

from eventstreams.verify.check import Check
from eventstreams.verify.ids import Entry, as_header, parse_id
from eventstreams.verify.observations import Cut, of_each_cut, sample
from eventstreams.verify.reading import Seen
from eventstreams.verify.target import SSE, Target, read_all
from eventstreams.verify.verdict import Skipped, Verdict, differs, failed, shown

_BEYOND = 10**9
_HAS_ALL = "the log still has its first event; name a stream whose oldest events are gone"


async def _entries(target: Target) -> tuple[Seen, list[Entry]]:
    """Return the first event, and the entries of its id. Raises Skipped."""
    event = (await sample(target)).events[0]
    try:
        entries = list(parse_id(event.id).values())
    except ValueError as error:
        raise Skipped("the ids cannot be read") from error
    if event.offset is None:
        raise Skipped("events do not contain their topic, partition and offset")
    return event, entries


async def _reported(target: Target, last_event_id: str, what: str) -> tuple[Verdict, Seen | None]:
    """Resume at a missing offset, and return the first event, which should be a gap report.

    A refusal counts as a report.
    """
    async with target.open(target.path(), {**SSE, "Last-Event-ID": last_event_id}) as reading:
        if not reading.is_stream:
            status = reading.head.status
            if 400 <= status < 500:
                return differs(f"{what} is refused with {status}"), None
            return failed(f"{what} gets {status}"), None
        await target.begun(reading)
        await read_all(target, reading, lambda: bool(reading.seen))
        first = reading.seen[0] if reading.seen else None
        if first is not None and first.event not in ("message", ""):
            return differs(f"{what} is reported: event: {first.event}, {shown(first.data)}"), first
        came = f"{first.identity} comes first" if first else "the stream sends nothing"
        return failed(f"{what} is not reported: {came}"), first


async def _beyond_end(target: Target) -> Verdict:
    event, _ = await _entries(target)
    assert event.offset is not None
    header = as_header([Entry(event.offset[0], event.offset[1] + _BEYOND, None)])
    verdict, _ = await _reported(target, header, "an offset beyond the end")
    return verdict


async def _below_oldest(target: Target) -> Verdict:
    verdict, _ = await _lost(target)
    return verdict


async def _lost(target: Target) -> tuple[Verdict, Seen | None]:
    await _entries(target)
    firsts = [events[0].offset for events in (await sample(target)).partitions.values()]
    lost = [first for first in firsts if first is not None and first[1] > 0]
    if not lost:
        raise Skipped(_HAS_ALL)
    partition, oldest = lost[0]
    header = as_header([Entry(partition, 0, None)])
    verdict, first = await target.once(
        "lost", lambda: _reported(target, header, f"offset 0, before the oldest offset {oldest},")
    )
    if first is not None and first.offset == (partition, 0):
        raise Skipped(_HAS_ALL)
    return verdict, first


async def _once(target: Target) -> Verdict:
    """Check that the id of a gap report leads past the gap."""
    _, report = await _lost(target)
    if report is None or report.is_message or not report.id:
        raise Skipped("no gap report has an id")
    async with target.stream(last_event_id=report.id) as reading:
        await target.begun(reading)
        await reading.until(lambda: bool(reading.seen), target.patience.event_s)
        if not reading.seen:
            return failed("nothing arrives after the id of the report")
        first = reading.seen[0]
    if not first.is_message:
        return failed(f"event: {first.event} comes again after the id of the report")
    return differs(f"{first.identity} comes first after the id of the report")


def _invented(cut: Cut) -> str | None:
    return f"a gap is reported: {shown(cut.gaps[0].data)}" if cut.gaps else None


CHECKS = (
    Check(
        "gaps.beyond-end",
        "An id beyond the end of the log is reported",
        "The log was recreated, or the id belongs to another one: the client misses events and "
        "does not notice.",
        _beyond_end,
        upstream="The stream silently begins with the next event.",
    ),
    Check(
        "gaps.below-oldest",
        "An id before the oldest event is reported",
        "A client can fetch lost events elsewhere only if it knows that they are lost.",
        _below_oldest,
        upstream="The stream silently begins with the next event.",
    ),
    Check(
        "gaps.once",
        "A client that resumes with the id of the report continues from there",
        "It would get the same gap report at every reconnect.",
        _once,
        upstream="Gaps are not reported.",
    ),
    Check(
        "gaps.none",
        "No gap is reported if nothing is missing",
        "A client that fills gaps would do so at every reconnect.",
        of_each_cut(_invented, "no gap in {} resumed streams"),
    ),
)
