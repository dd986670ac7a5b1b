"""Compares any filter, fields, sample and stop condition with a simple model over the whole log.

Streams are SSE or NDJSON, compressed or not, and are interrupted and resumed.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple
from urllib.parse import urlencode

import cramjam
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.fanout.timing import Timing
from eventstreams.log.memory import MemoryLog
from eventstreams.model.event import Partition, Record
from tests.support.fanout import Client, Gateway, Socket, passed, serving, settled
from tests.support.wire import frames_of

Event = dict[str, Any]

PARTITIONS = [Partition("t", 0), Partition("t", 1), Partition("u", 0)]
JUNK = "junk"
"""Stands for the wiki of a record that holds no event."""
T0, TIMES = 1_000, 20
EAGER = Timing(keyframe_every_s=0.0)
"""Clients may join compressed streams at any time."""

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
        "offset >= 2 && partition == 0 && topic == 't'",
        lambda e: e["meta"]["offset"] >= 2 and (e["meta"]["topic"], e["meta"]["partition"]) == T_0,
    ),
    ("timestamp >= timestamp('1970-01-01T00:00:01.008Z')", lambda e: e["meta"]["dt"] >= T0 + 8),
    ("event.nothing.at.all == 1", lambda _: False),
    ("event.title.matches('^T[0-4]')", lambda e: e["title"][1] in "01234"),
]
T_0 = ("t", 0)

FIELDS: list[tuple[str | None, Callable[[Event], Event]]] = [
    (None, lambda e: e),
    ("title,meta.id,n", lambda e: {"n": e["n"], "title": e["title"], **_meta(e, "id")}),
    ("nothing", lambda _: {}),
    ("bot,meta.offset,n", lambda e: {"n": e["n"], **_bot(e), "meta": _offset(e)}),
]


def _bot(event: Event) -> Event:
    return {"bot": event["bot"]} if "bot" in event else {}


def _offset(event: Event) -> Event:
    return {"offset": event["meta"]["offset"]}


def _meta(event: Event, name: str) -> Event:
    return {"meta": {name: event["meta"][name]}} if name in event["meta"] else {}


class Query(NamedTuple):
    filter: tuple[str | None, Callable[[Event], bool]]
    fields: tuple[str | None, Callable[[Event], Event]]
    sample: float | None
    since: str
    until: str | None
    limit: int | None
    max_seconds: int | None
    heartbeat: str

    def text(self, **others: Any) -> str:
        """Return the query string."""
        given = {
            **self._asdict(),
            "filter": self.filter[0],
            "fields": self.fields[0],
            **others,
        }
        return urlencode({name: value for name, value in given.items() if value is not None})

    def is_sampled(self, event: Event) -> bool:
        meta = event["meta"]
        place = f"{meta['topic']}/{meta['partition']}/{meta['offset']}"
        digest = blake2b(meta.get("id", place).encode(), digest_size=8).digest()
        return self.sample is None or int.from_bytes(digest, "big") < self.sample * 2**64


class Written(NamedTuple):
    partition: int
    stamp: int
    wiki: str
    bot: bool | None


class Case(NamedTuple):
    query: Query
    written: list[Written]
    """All records, in the order of appending."""
    percent: int
    """The part of the records, in percent, that is appended before the gateway starts."""
    waits: bool
    """Whether the rest is appended only after every client has connected for the last time."""
    turns: int
    """Passes of the event loop between two appends."""
    cuts: list[tuple[int, int]]
    """For each interrupted connection: passes of the loop, and the bytes read in each."""
    compress: str
    exposed: bool
    batch_bytes: int

    @property
    def before(self) -> int:
        return len(self.written) * self.percent // 100


class Selected(NamedTuple):
    """The expected (timestamp, document) of each partition, in order."""

    partitions: list[list[tuple[int, Event]]]
    limit: int | None

    @property
    def count(self) -> int:
        whole = sum(map(len, self.partitions))
        return whole if self.limit is None else min(whole, self.limit)

    def check(self, got: Sequence[Event]) -> None:
        """Check that the events of each partition are the first ones, and their total number."""
        assert len(got) == self.count
        if {} in got:
            assert all(document == {} for document in got)
            return
        where = {
            json.dumps(document): (i, n)
            for i, mine in enumerate(self.partitions)
            for n, (_, document) in enumerate(mine)
        }
        taken = [0] * len(self.partitions)
        for document in got:
            partition, n = where[json.dumps(document)]
            assert n == taken[partition], "missed, repeated or out of order"
            taken[partition] += 1


def event_of(n: int, written: Written, offset: int) -> Event:
    event: Event = {"n": n, "wiki": written.wiki}
    if written.bot is not None:
        event["bot"] = written.bot
    topic, number = PARTITIONS[written.partition]
    identity = {"id": f"id-{n}"} if n % 4 else {}
    meta = {**identity, "dt": written.stamp, "topic": topic, "partition": number, "offset": offset}
    return {**event, "title": f"T{n % 7}", "meta": meta}


def by_hand(case: Case) -> Selected:
    query = case.query
    since = 0 if query.since == "earliest" else int(query.since)
    until = int(query.until) if query.until is not None and query.until.isdigit() else None
    found: list[list[tuple[int, Event]]] = []
    for partition in range(len(PARTITIONS)):
        mine = [(n, w) for n, w in enumerate(case.written) if w.partition == partition]
        stamps = [written.stamp for _, written in mine]
        begin = next((i for i, stamp in enumerate(stamps) if stamp >= since), len(mine))
        end = next((i for i, stamp in enumerate(stamps) if until and stamp >= until), len(mine))
        found.append([])
        for offset, (n, written) in enumerate(mine):
            if written.wiki == JUNK or not begin <= offset < end:
                continue
            event = event_of(n, written, offset)
            if query.is_sampled(event) and query.filter[1](event):
                found[-1].append((written.stamp, query.fields[1](event)))
    return Selected(found, query.limit)


class Visitor:
    """A client that reconnects whenever it is disconnected, until it has all events."""

    def __init__(self, gateway: Gateway, case: Case, selected: Selected) -> None:
        self.gateway = gateway
        self.case = case
        self.selected = selected
        self.got: list[Event] = []
        self.stays = asyncio.Event()
        total = sum(map(len, selected.partitions))
        limit = case.query.limit
        self.ends = case.query.until is not None or (limit is not None and limit <= total)

    def come(self, socket: Socket) -> Client:
        raise NotImplementedError

    def take(self, socket: Socket) -> None:
        """Keep the events received, and what is needed to resume."""
        raise NotImplementedError

    async def read(self, tasks: asyncio.TaskGroup, *, appended: asyncio.Event) -> None:
        for turns, count in self.case.cuts if self.may_be_cut else []:
            socket = Socket(high_water=1)
            client = self.come(socket)
            tasks.create_task(client.serve())
            await client.opened()
            for _ in range(turns):
                await asyncio.sleep(0)
                socket.take(count)
            socket.hang_up()
            await client.ended()
            self.take(socket)
            if socket.status == 204:
                self.stays.set()
                return
        socket = Socket()
        client = self.come(socket)
        tasks.create_task(client.serve())
        await client.opened()
        self.stays.set()
        left = self.selected.count - len(self.got)
        await socket.until(lambda: client.done.is_set() or self.count(socket) >= left)
        await appended.wait()
        if self.ends:
            await client.ended()
        else:
            await settled()
            assert not client.done.is_set()
            socket.hang_up()
            await client.ended()
        self.take(socket)

    @property
    def may_be_cut(self) -> bool:
        return True

    def count(self, socket: Socket) -> int:
        return len(documents_of(socket))


class SseVisitor(Visitor):
    """Resumes with the last id, which may be that of a checkpoint, as a browser does."""

    last_id: str | None = None

    def come(self, socket: Socket) -> Client:
        return Client(
            self.gateway,
            "all",
            socket=socket,
            exposed=self.case.exposed,
            query=self.case.query.text(compress=self.case.compress),
            last_event_id=self.last_id,
        )

    def take(self, socket: Socket) -> None:
        assert socket.status in (200, 204)
        encoding = "identity" if self.case.compress == "none" else self.case.compress
        assert socket.status == 204 or socket.headers.get("content-encoding", "identity") == (
            encoding
        )
        self.got += documents_of(socket)
        ids = re.findall(rb"^id: (.*)\n\n", decoded(socket), re.MULTILINE)
        self.last_id = ids[-1].decode() if ids else self.last_id


class LineVisitor(Visitor):
    """Resumes NDJSON, which has no ids, at the time of its last event, and skips repeated events.

    This is correct as long as all events are in the order of their times.
    """

    @property
    def may_be_cut(self) -> bool:
        query, stamps = self.case.query, [written.stamp for written in self.case.written]
        is_whole = query.fields[0] is None
        return is_whole and query.until is not None and stamps == sorted(stamps)

    def come(self, socket: Socket) -> Client:
        query = self.case.query
        if self.got:
            since = self.got[-1]["meta"]["dt"]
            again = sum(event["meta"]["dt"] >= since for event in self.got)
            left = None if query.limit is None else query.limit - len(self.got) + again
            query = query._replace(since=str(since), limit=left)
        return Client(
            self.gateway,
            "all",
            socket=socket,
            exposed=self.case.exposed,
            query=query.text(compress=self.case.compress),
            accept="application/json",
        )

    def take(self, socket: Socket) -> None:
        assert socket.status == 200
        documents = documents_of(socket)
        if self.may_be_cut:
            documents = [document for document in documents if document not in self.got]
        self.got += documents
        if self.may_be_cut and self.case.query.limit is not None:
            self.got = self.got[: self.case.query.limit]


def documents_of(socket: Socket) -> list[Event]:
    """Return the complete events."""
    body = decoded(socket)
    if socket.headers.get("content-type", "").startswith("application/json"):
        return [json.loads(line) for line in body.split(b"\n")[:-1] if line]
    return [json.loads(frame.data) for frame in frames_of(body) if frame.event == "message"]


def decoded(socket: Socket) -> bytes:
    """Return what a client can decode from the bytes that it has read."""
    coding = socket.headers.get("content-encoding")
    if coding == "gzip":
        return zlib.decompressobj(wbits=31).decompress(socket.taken)
    if coding != "zstd":
        return socket.taken
    whole, size = b"", 0
    for body in socket.bodies:
        size += len(body)
        if size <= socket.read:
            whole += body
    is_end = socket.complete and size == socket.read
    last_block = b"" if is_end else b"\x01\0\0"
    return bytes(cramjam.zstd.decompress(whole + last_block)) if whole else b""


async def _append(log: MemoryLog, case: Case, numbers: range) -> None:
    counts = [0] * len(PARTITIONS)
    for n, written in enumerate(case.written):
        offset, counts[written.partition] = counts[written.partition], counts[written.partition] + 1
        if n not in numbers:
            continue
        event = event_of(n, written, offset)
        for name in ("topic", "partition", "offset"):  # the gateway adds these
            del event["meta"][name]
        value = b"junk" if written.wiki == JUNK else json.dumps(event).encode()
        topic, number = PARTITIONS[written.partition]
        [placed] = await log.append([Record(topic, value, None, written.stamp, number)])
        assert placed.offset == offset
        await passed(case.turns)


async def _selects(case: Case) -> None:
    log = MemoryLog()
    await log.create_topic("t", 2)
    await log.create_topic("u", 1)
    selected = by_hand(case)
    await _append(log, case, range(case.before))
    appended = asyncio.Event()

    async def append_rest(visitors: Sequence[Visitor]) -> None:
        for visitor in visitors:
            await visitor.stays.wait()
        await passed(case.turns)
        await _append(log, case, range(case.before, len(case.written)))
        appended.set()

    batch = case.batch_bytes
    limits: dict[str, Any] = {"batch_bytes_max": batch, "pace_max_ms": 0, "heartbeat_s": 0.01}
    async with serving(log, ["t", "u"], timing=EAGER, **limits) as gateway:
        if case.query.until is not None:  # such a stream ends at the records that exist now
            await append_rest([])
        visitors = [kind(gateway, case, selected) for kind in (SseVisitor, LineVisitor)]
        async with asyncio.TaskGroup() as tasks, asyncio.TaskGroup() as reading:
            for visitor in visitors:
                reading.create_task(visitor.read(tasks, appended=appended))
            if not appended.is_set():
                reading.create_task(append_rest(visitors if case.waits else []))
        for visitor in visitors:
            selected.check(visitor.got)
        gateway.assert_nobody_is_left()


stamps = st.integers(T0, T0 + TIMES)
times = stamps.map(str)
records = st.builds(
    Written,
    partition=st.integers(0, len(PARTITIONS) - 1),
    stamp=stamps,
    wiki=st.sampled_from(["enwiki", "enwiki", "dewiki", "frwiki", JUNK]),
    bot=st.sampled_from([True, False, None]),
)
histories = st.lists(records, max_size=40)
in_order = histories.map(lambda those: sorted(those, key=lambda written: written.stamp))


def cases(**bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        query=st.builds(
            Query,
            filter=st.sampled_from(FILTERS),
            fields=st.sampled_from(FIELDS),
            sample=st.sampled_from([None, 0.3, 0.9]),
            heartbeat=st.sampled_from(["checkpoint", "comment"]),
            **bounds,
        ),
        written=in_order | histories,
        percent=st.integers(0, 100),
        waits=st.booleans(),
        turns=st.sampled_from([0, 3, 30]),
        cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 700)), max_size=4),
        compress=st.sampled_from(["none", "gzip", "zstd"]),
        exposed=st.booleans(),
        batch_bytes=st.sampled_from([1, 300, 10**6]),
    )


limits = st.sampled_from([None, 1, 3, 7, 1000])
earliest, never = st.just("earliest"), st.none()
far = st.sampled_from([None, 1000])


bounded = cases(since=earliest | times, until=st.just("-1s") | times, limit=limits, max_seconds=far)
so_many = cases(since=earliest, until=never, limit=limits, max_seconds=far)
endless = cases(since=earliest, until=never, limit=never, max_seconds=never)
"""Streams without end. A client that is disconnected before it has an id would miss events, unless
it starts at the oldest ones."""


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(bounded | so_many | endless)
def test_selection_agrees_with_a_simple_model(case: Case) -> None:
    asyncio.run(_selects(case))
