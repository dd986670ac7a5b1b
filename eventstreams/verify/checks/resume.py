"""Checks of where a stream begins: after an id, at a time, at the newest event."""

from __future__ import annotations

import time
from collections import Counter
from urllib.parse import quote

from eventstreams.verify.check import Check
from eventstreams.verify.ids import Entry, as_header, named, parse_id
from eventstreams.verify.observations import EARLIEST, Cut, by_partition, of_each_cut, sample, seam
from eventstreams.verify.reading import Seen
from eventstreams.verify.target import SSE, Target, have, read_all
from eventstreams.verify.verdict import Skipped, Verdict, differs, failed, passed, shown

_SEAM_SHOWN_MAX = 5
_DAY_S = 86_400
_CUTS = "resumed after {} events"


def _lost(cut: Cut) -> str | None:
    if not cut.missing:
        return None
    return (
        f"{len(cut.missing)} of {len(cut.expected)} events that follow did not arrive; "
        f"the first is {shown(cut.missing[0])}"
    )


def _repeated(cut: Cut) -> str | None:
    return f"{shown(cut.twice[0])} came again" if cut.twice else None


def _swapped(cut: Cut) -> str | None:
    return f"{shown(cut.swapped[0])} came out of order" if cut.swapped else None


async def _seam(target: Target) -> Verdict:
    seen = await seam(target)
    live, again = by_partition(seen.live), by_partition(seen.again)
    for partition, events in again.items():
        names = [event.identity for event in events]
        came = [event.identity for event in live.get(partition, [])]
        twice = [name for name, count in Counter(came).items() if count > 1]
        missing = [name for name in names if name not in set(came)]
        if twice:
            return failed(f"sent twice between history and live events: {shown(twice[0])}")
        if missing:
            some = ", ".join(missing[:_SEAM_SHOWN_MAX])
            return failed(f"missing between history and live events: {some}")
        if came != names:
            return failed(f"the order of {named(partition)} differs from that of its history")
    return passed(f"{len(seen.live)} events, the same as later in the history")


async def _header_wins(target: Target) -> Verdict:
    events = (await sample(target)).events
    after = len(events) // 2
    partition = events[after].partition
    earlier = {event.identity for event in events[: after + 1] if event.partition == partition}
    async with target.stream(EARLIEST, last_event_id=events[after].id) as reading:
        await target.begun(reading)
        rest = len(events) - after - 1
        await read_all(target, reading, lambda: len(reading.messages) > rest + 1)
        again = [event.identity for event in reading.messages if event.identity in earlier]
    if again:
        return failed(f"with `since` in the URL as well, {shown(again[0])} came again")
    return passed(f"the id takes precedence over {EARLIEST}")


async def _empty_header(target: Target) -> Verdict:
    async with target.open(target.path(), {**SSE, "Last-Event-ID": ""}) as reading:
        if reading.is_stream:
            return differs("an empty Last-Event-ID is ignored")
        return failed(f"an empty Last-Event-ID gets {reading.head.status}")


async def _subset(target: Target) -> Verdict:
    """Omit a whole topic, because a single omitted partition could be newer than the id."""
    event = (await sample(target)).events[0]
    entries = _readable(event.id)
    kept = [entry for entry in entries if entry.partition.topic != entries[-1].partition.topic]
    if not kept:
        raise Skipped("the streams have one topic; name several streams")
    left_out = entries[-1].partition.topic
    from_start = [Entry(entry.partition, 0, None) for entry in kept]
    async with target.stream(last_event_id=as_header(from_start)) as reading:
        await target.begun(reading)
        await read_all(target, reading, lambda: len(reading.messages) >= target.patience.events)
        foreign = [e for e in reading.messages if e.partition.topic == left_out]
        topics = {p.topic for e in reading.messages if e.id for p in parse_id(e.id)}
    if foreign or left_out in topics:
        return failed(f"{left_out} is read, although the id does not name it")
    if not reading.messages:
        raise Skipped("the topics in the id have no events")
    return passed(f"{left_out} is not in the id, and is not read")


def _readable(id_: str) -> list[Entry]:
    try:
        return list(parse_id(id_).values())
    except ValueError as error:
        raise Skipped("the ids cannot be read") from error


async def _timestamp(target: Target) -> Verdict:
    """Resume with a timestamp alone, as in ids of EventStreams.

    Other events of the same millisecond may come first.
    """
    events = [event for event in (await sample(target)).events if event.offset is not None]
    if not events:
        raise Skipped("events do not contain their topic, partition and offset")
    event = events[-1]
    assert event.offset is not None
    partition, offset = event.offset
    own = {entry.partition: entry for entry in _readable(event.id)}.get(partition)
    if own is None or not own.timestamp_ms:
        raise Skipped("ids have no timestamps")
    async with target.stream(last_event_id=as_header([own._replace(offset=None)])) as reading:
        await target.begun(reading)
        if own.offset is None:  # as in EventStreams, the time is that of the next event
            return passed(f"a timestamp alone is accepted: {shown(event.id)}")
        await reading.messages_until(1, target.patience.event_s)
        found = [event.offset for event in reading.messages if event.offset is not None]
    if not found:
        return failed(f"nothing arrives from the time of offset {offset} on")
    if found[0][1] > offset:
        return failed(f"from the time of offset {offset} on, offset {found[0][1]} comes first")
    return passed(f"from the time of offset {offset} on, offset {found[0][1]} comes first")


async def _since_earliest(target: Target) -> Verdict:
    """Compare with the history, which includes events posted for the sample."""
    history = (await sample(target)).events
    async with target.stream(EARLIEST) as reading:
        await read_all(target, reading, lambda: bool(reading.messages))
        if not reading.messages:
            return failed(f"{EARLIEST} sends nothing, but the log has {history[0].identity}")
        first = reading.messages[0]
    if first.partition in by_partition(history) and not _is_old(first, history):
        return failed(f"{EARLIEST} begins with {first.identity}, not with the history")
    return passed(f"{first.identity} comes first")


async def _since_milliseconds(target: Target) -> Verdict:
    history = (await sample(target)).events
    query = f"since={int((time.time() + _DAY_S) * 1000)}"
    async with target.stream(query) as reading:
        await target.begun(reading)
        await read_all(target, reading, lambda: bool(reading.messages))
        old = [event for event in reading.messages if _is_old(event, history)]
    if old:
        return failed(f"{query}, which is tomorrow, replays {old[0].identity}")
    return differs(f"{query}, which is tomorrow, replays nothing")


def _is_old(event: Seen, history: list[Seen]) -> bool:
    """Return whether an event is in the known history, or before it."""
    if event.identity in {known.identity for known in history}:
        return True
    newest = [k.offset[1] for k in history if k.offset and k.partition == event.partition]
    return bool(event.offset and newest and event.offset[1] <= max(newest))


async def _since_plus(target: Target) -> Verdict:
    query = "since=2026-01-31T12:00:00+00:00"
    async with target.open(target.path(query=query), SSE) as reading:
        if reading.is_stream:
            return differs(f"{query} is understood")
        return failed(f"{query} gets {reading.head.status}")


async def _since_empty(target: Target) -> Verdict:
    await sample(target)
    async with target.stream("since=") as reading:
        await target.begun(reading)
        return passed("`since=` is ignored")


async def _since_forms(target: Target) -> Verdict:
    forms = (
        "2026-01-31T12:00:00.000Z",
        "2026-01-31T12:00:00",
        "2026-01-31 12:00:00",
        "2026-01-31",
        "Sat, 31 Jan 2026 12:00:00 GMT",
    )
    for form in forms:
        path = target.path(query=f"since={quote(form)}")
        async with target.open(path, SSE) as reading:
            if not reading.is_stream:
                return failed(f"since={form} gets {reading.head.status}")
    return passed(f"{len(forms)} forms of a time are accepted")


async def _posted_while_away(target: Target) -> Verdict:
    """Check that events posted between two connections arrive on the second one."""
    newest = (await sample(target)).events[-1].id
    posted = await target.produce(2)
    async with target.stream(last_event_id=newest) as reading:
        if not await reading.until(have(reading, posted), target.patience.event_s):
            return failed(
                "events that were posted while the client was disconnected did not arrive"
            )
        return passed("events that were posted while the client was disconnected arrived")


CHECKS = (
    Check(
        "resume.nothing-lost",
        "A client that resumes with any id gets every event that follows",
        "Clients are disconnected every few minutes, and rely on the id.",
        of_each_cut(_lost, _CUTS),
    ),
    Check(
        "resume.nothing-twice",
        "A client that resumes with any id gets no event twice",
        "Counters and mirrors go wrong when events come twice.",
        of_each_cut(_repeated, _CUTS),
    ),
    Check(
        "resume.in-order",
        "After a resume the events of each partition come in the same order",
        "Otherwise, consumers that build state from events end in a wrong state.",
        of_each_cut(_swapped, _CUTS),
    ),
    Check(
        "resume.while-away",
        "Events that happen while a client is disconnected are sent when it resumes",
        "Otherwise, every reconnect silently loses events.",
        _posted_while_away,
    ),
    Check(
        "resume.seam",
        "Between history and live events, nothing is lost, repeated or out of order",
        "Events that arrive at that moment are the easiest to lose or to send twice.",
        _seam,
    ),
    Check(
        "resume.header-wins",
        "`Last-Event-ID` takes precedence over `since` in the URL",
        "Clients reconnect with their original URL: `since` would replay everything after each "
        "disconnect.",
        _header_wins,
    ),
    Check(
        "resume.empty-header",
        "An empty `Last-Event-ID` is ignored",
        "reqwest-eventsource and others send it before their first event.",
        _empty_header,
        upstream="It is answered with 400.",
    ),
    Check(
        "resume.subset",
        "Topics that are not in the id are not read",
        "The id is the subscription: clients omit topics that they do not want.",
        _subset,
    ),
    Check(
        "resume.timestamp",
        "An entry with a timestamp and no offset begins at the first event of that time",
        "Clients of EventStreams have stored such ids, and use them with gateways of other "
        "clusters.",
        _timestamp,
    ),
    Check(
        "resume.since",
        "`since` before the oldest event begins at the oldest",
        "Clients ask for everything that is kept.",
        _since_earliest,
    ),
    Check(
        "resume.since-forms",
        "`since` accepts the usual forms of a time",
        "Clients send the form that their language prints.",
        _since_forms,
    ),
    Check(
        "resume.since-milliseconds",
        "`since` accepts milliseconds, and a time in the future replays nothing",
        "It is the documented form.",
        _since_milliseconds,
        upstream="Every number replays everything that is kept.",
    ),
    Check(
        "resume.since-plus",
        "`since` accepts a time zone with an unencoded `+`",
        "Python clients and curl send it unencoded.",
        _since_plus,
        upstream="It is answered with 400.",
    ),
    Check(
        "resume.since-empty",
        "An empty `since` is ignored",
        "Forms and scripts send it.",
        _since_empty,
    ),
)
