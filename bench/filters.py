"""200 clients, each with its own filter, at 50 recent changes a second.

One more client receives everything. The expected result of each filter is computed from what that
client received, and every client must have received exactly these events.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson

from bench import events
from bench.child import Child, ChildFailed
from bench.figures import Figure, at_least, at_most
from bench.machine import cpu_s
from bench.stage import PATH, Stage

CLIENTS, RATE = 200, 50
MEASURE_S = 15.0
_WARM_S = 2.0
_PATIENCE_S = 10.0
_KNOWN = 1000
"""The number of events from which the filters take their values."""
_FRAME = re.compile(rb'^data: ({"ts":(\d+),"seq":(\d+),.*)\n', re.MULTILINE)

Change = dict[str, Any]


class Filter(NamedTuple):
    text: str
    matches: Callable[[Change], bool]


def run(stage: Stage) -> list[Figure]:
    filters = _filters()
    found: list[_Measured] = []
    for _ in stage.runs(3):
        with stage.gateway(feed=RATE, unlike=True) as (gateway, port):
            found.append(asyncio.run(_measure(port, gateway, filters, stage.seconds(MEASURE_S))))
    return [
        Figure("processor, of one core", [m.cpu_share for m in found], "", at_most(0.5)),
        Figure("matching events, per client and second", [m.matching for m in found]),
        Figure("latency, p99", [m.p99_ms for m in found], "ms"),
        Figure("cohorts", [m.cohorts for m in found], "", at_least(CLIENTS)),
        Figure("delivered", [m.delivered for m in found], "%", at_least(100)),
    ]


class _Measured(NamedTuple):
    cpu_share: float
    matching: float
    p99_ms: float
    cohorts: float
    """The number of cohorts for which a selection is computed separately."""
    delivered: float
    """Per cent of the matching events; 0 if a client received others or duplicates."""


async def _measure(port: int, gateway: Child, filters: list[Filter], seconds: float) -> _Measured:
    clients = [Client(f"{PATH}?filter={quote(filter_.text)}") for filter_ in filters]
    everything = Client(PATH, keeps_bodies=True)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            # The unfiltered client comes last, so it receives no event that others missed.
            for client in (*clients, everything):
                await client.open(port)
        async with asyncio.TaskGroup() as reading:
            tasks = [reading.create_task(c.read()) for c in (everything, *clients)]
            await asyncio.sleep(_WARM_S)
            began, used = time.monotonic(), cpu_s(gateway.pid)
            await asyncio.sleep(seconds)
            share = (cpu_s(gateway.pid) - used) / (time.monotonic() - began)
            until = max(everything.bodies)
            await asyncio.sleep(1)  # for clients that receive the same event slightly later
            cohorts = gateway.ask("metrics")["eventstreams_cohorts"]
            for task in tasks:
                task.cancel()
    except TimeoutError as error:
        raise ChildFailed("the gateway did not let all clients in") from error
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    finally:
        for client in (*clients, everything):
            client.close()
    changes = {seq: orjson.loads(everything.bodies[seq]) for seq in everything.seqs if seq <= until}
    got = due = 0
    for client, filter_ in zip(clients, filters, strict=True):
        expected = [seq for seq, change in changes.items() if filter_.matches(change)]
        mine = [seq for seq in client.seqs if seq in changes]
        if not set(mine) <= set(expected) or mine != sorted(set(mine)):
            return _Measured(share, 0.0, 0.0, cohorts, 0.0)
        got += len(mine)
        due += len(expected)
    assert due, "filters that match nothing measure nothing"
    late_ms = sorted(ms for client in clients for ms in client.late_ms)
    span_s = len(changes) / RATE
    p99_ms = late_ms[len(late_ms) * 99 // 100] if late_ms else 0.0
    return _Measured(share, due / CLIENTS / span_s, p99_ms, cohorts, 100 * got / due)


class Client:
    """Reads one stream, and keeps the number and delay of each event, and if asked its text."""

    def __init__(self, path: str, *, keeps_bodies: bool = False) -> None:
        self._path = path
        self._keeps_bodies = keeps_bodies
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self.seqs: list[int] = []
        self.bodies: dict[int, bytes] = {}
        self.late_ms: list[float] = []

    async def open(self, port: int) -> None:
        """Open the stream, and return when it has begun. Raises ChildFailed."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"GET {self._path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n"
        self._writer.write(head.encode())
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in answer:
            raise ChildFailed(f"{self._path}: {answer!r}")

    async def read(self) -> None:
        """Read until cancelled. Raises ChildFailed if the stream ends."""
        body = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
            frames, end, body = body.rpartition(b"\n\n")
            now_ns = time.time_ns()
            for data, ts, seq in _FRAME.findall(frames + end):
                self.seqs.append(int(seq))
                if self._keeps_bodies:
                    self.bodies[int(seq)] = data
                self.late_ms.append((now_ns - int(ts)) / 1e6)
        raise ChildFailed(f"{self._path}: ended after {len(self.seqs)} events")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def _filters() -> list[Filter]:
    """Return filters as people would write them, with values that occur in events."""
    changes = known_changes()
    wikis = _most(change["wiki"] for change in changes)
    users = _most(change["user"] for change in changes)
    begins = _most(change["title"][:1] for change in changes if change["title"][:1].isalnum())
    families = [
        _of_wikis(wikis, begins),
        _of_users(users),
        _of_titles(begins),
        _of_lengths(wikis),
    ]
    found: dict[str, Filter] = {}
    for filter_ in itertools.chain.from_iterable(itertools.zip_longest(*families)):
        if filter_ is not None:
            found[filter_.text] = filter_
        if len(found) == CLIENTS:
            return list(found.values())
    raise AssertionError(f"there are only {len(found)} different filters")


def known_changes() -> list[Change]:
    """Return events with all values that the feed has."""
    known = [events.change(events.FIRST_SEQ + n).value for n in range(_KNOWN)]
    return [orjson.loads(value) for value in known if value is not None]


def _most(values: Iterator[str]) -> list[str]:
    """Return the values in descending order of frequency."""
    return [value for value, _ in Counter(values).most_common()]


def _of_wikis(wikis: list[str], begins: list[str]) -> Iterator[Filter]:
    for begin, wiki, bot in itertools.product(["", *begins], wikis[:20], (False, True)):
        text = f"event.wiki == {literal(wiki)} && {'' if bot else '!'}event.bot"
        if begin:
            text += f" && event.title.startsWith({literal(begin)})"

        def matches(change: Change, wiki: str = wiki, begin: str = begin, bot: bool = bot) -> bool:
            its_own = change["wiki"] == wiki and change["title"].startswith(begin)
            return its_own and change["bot"] is bot

        yield Filter(text, matches)


def _of_users(users: list[str]) -> Iterator[Filter]:
    for other, user in itertools.combinations(users[:30], 2):
        pair = (user, other)
        text = f"event.user in [{literal(user)}, {literal(other)}] && event.type != 'log'"

        def matches(change: Change, pair: tuple[str, str] = pair) -> bool:
            return change["user"] in pair and change["type"] != "log"

        yield Filter(text, matches)


def _of_titles(begins: list[str]) -> Iterator[Filter]:
    for namespace, begin in itertools.product((0, 14, 2, 1, 4), begins[:30]):
        text = f"event.namespace == {namespace} && event.title.startsWith({literal(begin)})"

        def matches(change: Change, namespace: int = namespace, begin: str = begin) -> bool:
            return bool(change["namespace"] == namespace and change["title"].startswith(begin))

        yield Filter(text, matches)


def _of_lengths(wikis: list[str]) -> Iterator[Filter]:
    for least, wiki in itertools.product(range(0, 1000, 50), wikis[:6]):
        text = (
            f"has(event.length) && event.length.new - event.length.old > {least} && "
            f"event.wiki != {literal(wiki)}"
        )

        def matches(change: Change, least: int = least, wiki: str = wiki) -> bool:
            length = change.get("length") or {}
            old, new = length.get("old"), length.get("new")
            if old is None or new is None:  # null for new pages
                return False
            return bool(new - old > least and change["wiki"] != wiki)

        yield Filter(text, matches)


def literal(text: str) -> str:
    """Return a text as a literal of CEL."""
    return orjson.dumps(text).decode()
