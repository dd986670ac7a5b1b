"""Checks of ids and of the order of events."""

from __future__ import annotations

from itertools import pairwise

from eventstreams.model.event import Partition
from eventstreams.verify.blocks import id_text_problem
from eventstreams.verify.check import Check
from eventstreams.verify.ids import TOKENS, Entry, named, parse_id
from eventstreams.verify.observations import live, sample
from eventstreams.verify.reading import Seen
from eventstreams.verify.target import Target
from eventstreams.verify.verdict import Skipped, Verdict, differs, failed, passed, shown

_META_FIELDS = ("stream", "topic", "partition", "offset")
_NEEDS_OFFSETS = "events do not contain their topic, partition and offset"


async def _on_every_event(target: Target) -> Verdict:
    blocks = (await sample(target)).blocks
    without = [block for block in blocks if not block.fields(b"id")]
    if without:
        return failed(f"{len(without)} of {len(blocks)} events have no id")
    return passed(f"{len(blocks)} events examined")


async def _text(target: Target) -> Verdict:
    blocks = (await sample(target)).blocks
    lines = [block.lines[n] for block in blocks for n in block.fields(b"id")]
    for line in lines:
        problem = id_text_problem(line)
        if problem is not None:
            return failed(problem)
    if not lines:
        raise Skipped("no event has an id")
    return passed(f"{len(lines)} ids, the longest of {max(map(len, lines)) - 4:,} bytes")


async def _parsed(target: Target) -> list[tuple[Seen, dict[Partition, Entry]]]:
    return _with_ids((await sample(target)).events)


def _with_ids(events: list[Seen]) -> list[tuple[Seen, dict[Partition, Entry]]]:
    """Return events with their ids. Raises Skipped; the check `ids.form` reports the reason."""
    found: list[tuple[Seen, dict[Partition, Entry]]] = []
    for event in events:
        try:
            found.append((event, parse_id(event.id)))
        except ValueError as error:
            raise Skipped("the ids cannot be read") from error
    return found


async def _form(target: Target) -> Verdict:
    events = (await sample(target)).events
    for event in events:
        try:
            parse_id(event.id)
        except ValueError as error:
            return failed(f"{error}: {shown(event.id)}")
    if events[0].id.startswith(TOKENS):
        return differs(f"tokens instead of long arrays: {shown(events[0].id)}")
    return passed(shown(events[0].id))


async def _every_partition(target: Target) -> Verdict:
    parsed = await _parsed(target)
    first = set(parsed[0][1])
    for event, entries in parsed:
        if set(entries) != first:
            return failed(f"an id names other partitions than the first one: {shown(event.id)}")
        if event.offset is not None and event.offset[0] not in first:
            return failed(
                f"an event of {named(event.offset[0])} has an id without it: {shown(event.id)}"
            )
    return passed(f"{len(first)} partitions in each of {len(parsed)} ids")


async def _next_offset(target: Target) -> Verdict:
    """Check the offsets of ids. Entries with only a timestamp are ignored."""
    looked_at = 0
    for event, entries in await _parsed(target):
        if event.offset is None:
            raise Skipped(_NEEDS_OFFSETS)
        partition, offset = event.offset
        entry = entries.get(partition)
        if entry is None or entry.offset is None:
            continue
        looked_at += 1
        if entry.offset <= offset:
            return failed(f"the id of offset {offset} leads to {entry.offset} again")
        if entry.offset != offset + 1:
            return failed(f"the id of offset {offset} leads to {entry.offset}")
    if not looked_at:
        raise Skipped("ids have no offsets")
    return passed(f"{looked_at} ids lead to the next offset")


async def _offsets(target: Target) -> Verdict:
    for event, entries in await _parsed(target):
        for entry in entries.values():
            if entry.offset is None:
                return failed(f"only a timestamp for {named(entry.partition)}: {shown(event.id)}")
    return differs("every entry has an offset")


async def _quiet_partitions(target: Target) -> Verdict:
    """Examine also a stream that began at the newest event, where most partitions are quiet."""
    parsed = await _parsed(target)
    if target.can_post:
        parsed += _with_ids((await live(target)).events)
    for event, entries in parsed:
        for entry in entries.values():
            if entry.offset is not None and entry.offset < 0:
                return failed(
                    f"offset {entry.offset} for {named(entry.partition)}: {shown(event.id)}"
                )
    return differs(f"real offsets in each of {len(parsed)} ids")


async def _forward(target: Target) -> Verdict:
    parsed = await _parsed(target)
    for (_, before), (event, after) in pairwise(parsed):
        for partition, entry in after.items():
            earlier = before.get(partition)
            if earlier is None or earlier.offset is None or entry.offset is None:
                continue
            if earlier.offset > entry.offset:
                return failed(
                    f"{named(partition)} goes back from {earlier.offset} to {entry.offset}: "
                    f"{shown(event.id)}"
                )
    return passed(f"{len(parsed)} ids examined")


async def _order(target: Target) -> Verdict:
    events = (await sample(target)).events
    newest: dict[Partition, int] = {}
    for event in events:
        if event.offset is None:
            raise Skipped(_NEEDS_OFFSETS)
        partition, offset = event.offset
        if partition in newest and offset <= newest[partition]:
            return failed(f"offset {offset} in {named(partition)} comes after {newest[partition]}")
        newest[partition] = offset
    return passed(f"{len(events)} events of {len(newest)} partitions in order")


async def _meta(target: Target) -> Verdict:
    events = (await sample(target)).events
    for event in events:
        missing = [name for name in _META_FIELDS if event.meta.get(name) is None]
        if missing:
            return failed(f"`meta` lacks {', '.join(missing)}: {shown(event.data)}")
    return passed(f"{len(events)} events examined")


CHECKS = (
    Check(
        "ids.every-event",
        "Every event has an id",
        "If some events have no id, most clients lose or repeat events when they reconnect.",
        _on_every_event,
    ),
    Check(
        "ids.text",
        "Ids are printable ASCII and fit into a header line of 8 KiB",
        "Clients send the id in a header. A CR or a non-ASCII character prevents them from "
        "resuming, and proxies refuse a long id.",
        _text,
    ),
    Check(
        "ids.form",
        "An id is a JSON array with topic, partition and offset or timestamp of each partition",
        "Tools use it to measure lag, and other gateways of the same log accept it.",
        _form,
    ),
    Check(
        "ids.every-partition",
        "Each id names every partition of the subscription",
        "The id is the subscription when a client resumes: omitted partitions are not read.",
        _every_partition,
    ),
    Check(
        "ids.next-offset",
        "The offset in an id is the one after its event",
        "With the event's own offset, clients get it twice; with a later one, they lose events.",
        _next_offset,
    ),
    Check(
        "ids.offsets",
        "Every entry of an id has an offset",
        "A timestamp identifies all events of its millisecond: a client that resumes after the "
        "first of them never gets the others.",
        _offsets,
        upstream="Ids have the timestamp plus 1 ms after the first event of a partition.",
    ),
    Check(
        "ids.quiet-partitions",
        "A partition without an event yet has its real end in the id",
        "`offset: -1` means the newest event: a disconnected client loses events of the partition.",
        _quiet_partitions,
        upstream="Ids have `offset: -1` for such partitions.",
    ),
    Check(
        "ids.forward",
        "No entry of an id goes back on one connection",
        "A client that resumes with such an id gets events again.",
        _forward,
    ),
    Check(
        "ids.order",
        "Offsets of each partition increase on one connection",
        "Consumers build state from the order of events, and drop apparent repetitions.",
        _order,
    ),
    Check(
        "ids.meta",
        "The `meta` of each event has its stream, topic, partition and offset",
        "Clients of several streams distinguish them by `meta.stream`, and detect repetitions by "
        "the others.",
        _meta,
    ),
)
