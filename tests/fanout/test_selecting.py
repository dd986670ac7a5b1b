"""The promise of selection: any filter, fields, sample and bound give what the same done by hand
over the whole log gives, over SSE and lines of JSON, whatever is cut and resumed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Any
from urllib.parse import urlencode

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Record
from tests.fanout.gateway import Client, Gateway, Socket, serving

Event = dict[str, Any]

FILTERS: list[tuple[str | None, Callable[[Event], bool]]] = [
    (None, lambda _: True),
    ("event.wiki == 'enwiki'", lambda e: e["wiki"] == "enwiki"),
    (
        'event.wiki in ["dewiki", "frwiki"] && !event.bot',
        lambda e: e["wiki"] != "enwiki" and e.get("bot") is False,
    ),
    ("has(event.bot) && event.bot", lambda e: e.get("bot") is True),
    ("event.n % 3 == 0", lambda e: e["n"] % 3 == 0),
    (
        "offset >= 2 && partition == 0",
        lambda e: e["meta"]["offset"] >= 2 and not e["meta"]["partition"],
    ),
    ("event.nothing.at.all == 1", lambda _: False),
    ("event.title.matches('^T[0-4]')", lambda e: e["title"][1] in "01234"),
]

FIELDS: list[tuple[str | None, Callable[[Event], Event]]] = [
    (None, lambda e: e),
    ("title,meta.dt", lambda e: {"title": e["title"], "meta": {"dt": e["meta"]["dt"]}}),
    ("nothing", lambda _: {}),
    ("meta.offset,n", lambda e: {"n": e["n"], "meta": {"offset": e["meta"]["offset"]}}),
]


def sampled(event: Event, share: float) -> bool:
    digest = blake2b(event["meta"]["id"].encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


class Visitor:
    """Reads a bounded stream to its end, coming back with the last id whenever it is cut."""

    def __init__(self, gateway: Gateway, query: str, cuts: list[int], *, lent: bool) -> None:
        self._gateway = gateway
        self._query = query
        self._cuts = cuts
        self._lent = lent
        self.got: list[Event] = []

    async def read(self, tasks: asyncio.TaskGroup) -> None:
        last_id: str | None = None
        while self._cuts:
            socket = Socket(high_water=1)
            client = self._client(socket, last_id)
            task = tasks.create_task(client.serve())
            await client.opened()
            bytes_ = self._cuts.pop()
            for _ in range(bytes_ % 40):
                await asyncio.sleep(0)
                socket.take(bytes_)
            socket.hang_up()
            await task
            last_id = self._take(socket) or last_id
        client = self._client(Socket(), last_id)
        tasks.create_task(client.serve())
        await client.ended()
        assert client.socket.status in (200, 204)
        self._take(client.socket)

    def _client(self, socket: Socket, last_id: str | None) -> Client:
        return Client(
            self._gateway,
            "all",
            socket=socket,
            lent=self._lent,
            query=self._query,
            last_event_id=last_id,
        )

    def _take(self, socket: Socket) -> str | None:
        """The last id, checkpoints too, as a browser keeps it."""
        self.got += [json.loads(f.data) for f in socket.frames if f.event == "message"]
        ids = re.findall(rb"^id: (.*)\n\n", socket.taken, re.MULTILINE)
        return ids[-1].decode() if ids else None


queries = st.fixed_dictionaries(
    {
        "filter": st.sampled_from(FILTERS),
        "fields": st.sampled_from(FIELDS),
        "sample": st.sampled_from([None, 0.3, 0.9]),
        "limit": st.sampled_from([None, 1, 3, 7, 1000]),
        "until": st.sampled_from([None, 1_005, 1_012]),
        "heartbeat": st.sampled_from(["checkpoint", "comment"]),
    }
)
wikis = st.sampled_from(["enwiki", "dewiki", "frwiki"])
events = st.lists(
    st.tuples(st.integers(0, 1), wikis, st.sampled_from([True, False, None])), max_size=40
)


def event_of(n: int, wiki: str, bot: bool | None) -> Event:
    event: Event = {
        "n": n,
        "wiki": wiki,
        "title": f"T{n % 7}",
        "meta": {"id": f"id-{n}", "dt": f"{n}"},
    }
    if bot is not None:
        event["bot"] = bot
    return event


def by_hand(query: dict[str, Any], appended: list[tuple[int, int, Event]]) -> list[list[Event]]:
    """Per partition, what is to come of (partition, timestamp, event)."""
    matches, shape = query["filter"][1], query["fields"][1]
    found: list[list[Event]] = [[], []]
    over = [False, False]
    for partition, stamp, event in appended:
        over[partition] |= query["until"] is not None and stamp >= query["until"]
        kept = query["sample"] is None or sampled(event, query["sample"])
        if not over[partition] and kept and matches(event):
            found[partition].append(shape(event))
    return found


async def _selects(
    query: dict[str, Any],
    written: list[tuple[int, str, bool | None]],
    cuts: list[int],
    batch: int,
    *,
    lent: bool,
) -> None:
    log = MemoryLog()
    await log.create_topic("t", 2)
    appended: list[tuple[int, int, Event]] = []
    for n, (partition, wiki, bot) in enumerate(written):
        stamp = 1_000 + n // 2
        event = event_of(n, wiki, bot)
        value = json.dumps(event).encode()
        [placed] = await log.append([Record("t", value, None, stamp, partition)])
        event["meta"] |= {"topic": "t", "partition": partition, "offset": placed.offset}
        appended.append((partition, stamp, event))
    said = {
        name: (value[0] if isinstance(value, tuple) else value) for name, value in query.items()
    }
    said = {name: value for name, value in said.items() if value is not None}
    said.setdefault("until", "-1s")
    text = urlencode({"since": "earliest", **said})
    expected = by_hand(query, appended)
    whole = [e for part in expected for e in part]
    async with serving(log, ["t"], batch_bytes_max=batch) as gateway, asyncio.TaskGroup() as tasks:
        visitor = Visitor(gateway, text, list(cuts), lent=lent)
        await visitor.read(tasks)
        count = min(len(whole), query["limit"] or len(whole))
        assert len(visitor.got) == count
        rest = list(visitor.got)
        for part in expected:  # of each partition a beginning, in order
            taken = [e for e in part if e in rest] if query["fields"][0] is None else None
            if taken is not None:
                assert taken == part[: len(taken)]
                assert [e for e in visitor.got if e in part] == taken
        if count == len(whole):
            key = json.dumps
            assert sorted(map(key, visitor.got)) == sorted(map(key, whole))
        client = Client(gateway, "all", query=text, accept="application/json")
        task = tasks.create_task(client.serve())
        await task
        lines = [json.loads(line) for line in client.socket.taken.split(b"\n") if line]
        assert len(lines) == count
        if count == len(whole):
            assert sorted(map(json.dumps, lines)) == sorted(map(json.dumps, whole))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    queries,
    events,
    st.lists(st.integers(1, 700), max_size=4),
    st.sampled_from([1, 300, 10**6]),
    st.booleans(),
)
def test_what_is_selected_is_what_the_same_done_by_hand_selects(
    query: dict[str, Any],
    written: list[tuple[int, str, bool | None]],
    cuts: list[int],
    batch: int,
    lent: bool,
) -> None:
    asyncio.run(_selects(query, written, cuts, batch, lent=lent))
