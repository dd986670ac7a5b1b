"""What the server does to a client, and how the results are described.

A scenario is a script of answers to the requests of a run. A cell evaluates a finished run. Ids
have the form of the gateway's; events have the offsets 1, 2, 3, checkpoints 100 and more.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from bench.clients.server import Exchange, Run, Script

RECONNECT_S = 15.0
"""Longer than the default reconnection delay of any of the clients."""
AFTER_204_S = 6.0


def id_of(offset: int) -> str:
    at = {"topic": "eqiad.t", "partition": 0, "offset": offset, "timestamp": 1769860800123}
    return json.dumps([at], separators=(",", ":"))


def event(offset: int, *, retry: bool = False) -> str:
    """Return an event in the gateway's layout. `retry` adds a retry field to the event itself."""
    reconnect = "retry: 100\n" if retry else ""
    return f"event: message\ndata: {offset}\n{reconnect}id: {id_of(offset)}\n\n"


def checkpoint(offset: int) -> str:
    return f"id: {id_of(offset)}\n\n"


async def _second(run: Run, to: Exchange) -> None:
    """Send the last answer of every script: one event, after which the stream stays open."""
    await to.start()
    await to.send(event(9))
    await run.handed("9")
    run.done.set()
    await asyncio.sleep(RECONNECT_S)


async def first(run: Run, to: Exchange) -> None:
    """Send a checkpoint before any event, then cut the connection."""
    if to.number > 1:
        return await _second(run, to)
    await to.start()
    await to.send(checkpoint(100))
    return await to.cut()


async def between(run: Run, to: Exchange) -> None:
    """Send checkpoints before, between and after events, then cut the connection."""
    if to.number > 1:
        return await _second(run, to)
    await to.start()
    await to.send(checkpoint(100))
    await to.send(event(1, retry=True))
    await to.send(checkpoint(101))
    await to.send(checkpoint(102))
    await to.send(event(2))
    await to.send(checkpoint(103))
    return await to.cut()


async def comments(run: Run, to: Exchange) -> None:
    """Send comment lines before, between and after events, then cut the connection."""
    if to.number > 1:
        return await _second(run, to)
    await to.start()
    await to.send(":\n")
    await to.send(event(1, retry=True))
    await to.send(":\n")
    await to.send(":\n")
    await to.send(event(2))
    await to.send(":\n")
    return await to.cut()


async def torn(run: Run, to: Exchange) -> None:
    """Cut the connection in the middle of a checkpoint's line."""
    if to.number > 1:
        return await _second(run, to)
    await to.start()
    await to.send(event(1, retry=True))
    await to.send(checkpoint(101)[:40])
    return await to.cut()


async def end(run: Run, to: Exchange) -> None:
    """End the response properly."""
    if to.number > 1:
        return await _second(run, to)
    await to.start()
    await to.send(event(1, retry=True))
    return await to.end()


async def no_content(run: Run, to: Exchange) -> None:
    """Cut the connection, and answer the reconnect with 204."""
    if to.number == 1:
        await to.start()
        await to.send(event(1, retry=True))
        return await to.cut()
    await to.no_content()
    if to.number == 2:
        await asyncio.sleep(AFTER_204_S)
    run.done.set()
    return None


async def gzip(run: Run, to: Exchange) -> None:
    """Send events in gzip, flushed after each. The next is sent only when one was delivered."""
    if to.number > 1:
        return await _second(run, to)
    await to.start(gzip=to.takes_gzip)
    for offset in (1, 2, 3):
        await to.send(event(offset, retry=offset == 1))
        await run.handed(str(offset), 1.0)
        run.items.append((time.monotonic(), {"mark": offset}))
    await to.send(checkpoint(103))
    return await to.cut()


SCENARIOS: dict[str, Script] = {
    each.__name__: each for each in (first, between, comments, torn, end, no_content, gzip)
}


# Cells


def frames(run: Run, expected: list[str]) -> str:
    """Return which frames the first connection delivered in addition to the expected events."""
    data = [item for item in _of_first_connection(run) if "data" in item]
    if [item["data"] for item in data if item["data"]] != expected:
        return f"**events lost: {[item['data'] for item in data]}**"
    # The blank line after `:ok` is not part of this question; see `behind_ok`.
    empty = [item for item in data if not item["data"]][_empty_behind_ok(run) :]
    if not empty:
        return "nothing"
    shown = "with" if all(item.get("id") for item in empty) else "without"
    return f"{len(empty)} empty event{'s' if len(empty) > 1 else ''}, {shown} the id"


def behind_ok(run: Run) -> str:
    return "an empty event" if _empty_behind_ok(run) else "nothing"


def _empty_behind_ok(run: Run) -> int:
    """Return the number of events without an id, which can only come from the line after `:ok`."""
    return sum(
        item["data"] == "" and not item.get("id")
        for item in _of_first_connection(run)[:2]
        if "data" in item
    )


def _of_first_connection(run: Run) -> list[dict[str, Any]]:
    second = run.exchange(2)
    return [item for at, item in run.items if second is None or at < second.at]


def resumed_with(run: Run, *, event: int = 0, checkpoint: int = 0) -> str:
    """Return which of the two newest ids the second request has: an event's or a checkpoint's."""
    second = run.exchange(2)
    if second is None:
        return "does not reconnect"
    last_event_id = second.last_event_id
    if not last_event_id:
        return "none" if last_event_id is None else "empty"
    newest = {id_of(event): "the event", id_of(checkpoint): "the checkpoint"}
    return newest.get(last_event_id, f"**another**: `{last_event_id[:60]}`")


def end_reported(run: Run, connection: int) -> str | None:
    """Return how a program says that a connection ended: by an error or without one."""
    ends = [item for _, item in run.items if "error" in item or "end" in item]
    if len(ends) < connection:
        return None
    item = ends[connection - 1]
    return f"`{item['error']}`" if "error" in item else str(item["end"])


def how_it_ended(run: Run) -> str:
    what, one, two = end_reported(run, 1), run.exchange(1), run.exchange(2)
    if one is None or two is None or (run.looped and what):
        return what or "reports nothing, does not reconnect"
    waited = two.at - one.ended_at
    came = "reconnects" + (f" after {waited:.0f} s" if waited > 1 else "")
    return f"{what}; {came}" if what else came


def after_204(run: Run) -> str:
    if run.exchange(2) is None:
        return "does not reconnect after the cut"
    what = end_reported(run, 2 if run.looped else 1) or "reports nothing"
    if run.looped:
        return what
    return "requests it again" if run.exchange(3) else f"stops: {what}"


def fetch_mode(run: Run) -> str:
    one = run.exchange(1)
    return "?" if one is None else f"{one.headers.get('sec-fetch-mode', 'none')}"


def encodings(run: Run) -> str:
    one = run.exchange(1)
    return "?" if one is None else f"`{one.headers.get('accept-encoding') or 'none'}`"


def in_gzip(run: Run) -> str:
    one, two = run.exchange(1), run.exchange(2)
    if one is None:
        return "?"
    if not one.takes_gzip:
        return "not requested"
    marks = {item["mark"]: at for at, item in run.items if "mark" in item}
    handed = {offset: run.handed_at(str(offset)) for offset in marks}
    with_id = two and resumed_with(run, event=3, checkpoint=103)
    if all(at is None for at in handed.values()):
        reported = end_reported(run, 1)
        return "**nothing delivered**" + (f", {reported}" if reported else "")
    if all(at is not None and at <= marks[offset] for offset, at in handed.items()):
        return "each at once" + (f"; resumes with {with_id}" if with_id else "")
    return "late"
