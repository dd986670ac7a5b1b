"""Cohorts of one group, compressed or not, whatever happens while a batch is made and written.

Batches are cut small, compressed in steps of a few bytes and written with a pass of the event loop
after each member, so that clients come, go, stall and resume, records are lost, redactions change
and filters end at any point of a batch. Each client must be able to decode what it got, and that
must be the events that its filter matches, each once, with gaps where records were lost.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlencode

import cramjam
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventstreams.errors import FilterTooCostly
from eventstreams.fanout.send import EndReason
from eventstreams.fanout.timing import Timing
from eventstreams.model.event import Partition, Record
from eventstreams.model.redaction import Redaction, Rule
from tests.support.epoch_log import EpochLog
from tests.support.fanout import PATIENCE_S, Client, Gateway, Socket, joined, passed, serving
from tests.support.wire import Frame, frames_of

P = Partition("t", 0)
FILTERS: dict[str | None, Callable[[int], bool]] = {
    None: lambda _: True,
    "event.kind == 'a'": lambda n: n % 3 == 0,
    "event.kind in ['a', 'b'] && event.n % 2 == 0": lambda n: n % 3 < 2 and n % 2 == 0,
    "event.n % 2 == 0": lambda n: n % 2 == 0,
    "event.text.contains('7')": lambda n: "7" in str(n),
}
LAST = 7_770_000
"""The number of the last event, which all filters match."""
SECRET = b"hidden"
CODINGS = ("none", "gzip", "zstd")
RULE = Rule(domain="d", titles=("T",), remove=("secret",), title_fields=("title",))


def record(n: int) -> Record:
    event = {
        "n": n,
        "kind": "abc"[n % 3],
        "text": f"the number is {n}",
        "title": "T",
        "secret": SECRET.decode(),
        "meta": {"domain": "d"},
    }
    return Record("t", json.dumps(event).encode(), None, 1_000 + n, 0)


class Visitor:
    """A client, and what must be true of what it got."""

    def __init__(
        self, gateway: Gateway, filter_: str | None, coding: str, *, exposed: bool
    ) -> None:
        self.filter = filter_
        self.coding = coding
        self.socket = Socket()
        query = {"since": "0", "compress": coding, "heartbeat": "checkpoint"}
        if filter_ is not None:
            query["filter"] = filter_
        self.client = Client(
            gateway, "t", socket=self.socket, exposed=exposed, query=urlencode(query)
        )
        self.may_end = False
        """Whether its stream may end before the gateway drains."""
        self.secrets: int | None = None
        """How many of its writes may hold secrets; None if all."""

    def forbid_secrets(self) -> None:
        """From now on, except in what is being written."""
        self.secrets = len(self.socket.bodies) + (not self.socket._writable.is_set())

    def decoded(self, bodies: int | None = None) -> bytes:
        """Return the content of the first `bodies` writes, or of all. A response that has ended
        must decode to its end."""
        written = self.socket.bodies[:bodies]
        content = b"".join(written)
        is_whole = self.socket.complete and len(written) == len(self.socket.bodies)
        if self.coding == "gzip":
            if is_whole:
                return gzip.decompress(content)
            return zlib.decompressobj(wbits=31).decompress(content)
        if self.coding == "zstd" and content:
            return bytes(cramjam.zstd.decompress(content + (b"" if is_whole else ZSTD_END)))
        return content

    def frames(self) -> list[Frame]:
        return frames_of(self.decoded())

    def has_all(self) -> bool:
        """Return whether it got the last event, or its stream has ended."""
        if self.client.done.is_set():
            return True
        got = [json.loads(frame.data) for frame in self.frames()]
        return bool(got) and got[-1].get("n") == LAST

    def check(self, lives: list[list[int]]) -> None:
        """Check what it got. `lives` has the numbers of all events, by offset, before each loss of
        records and at last."""
        is_over = self.may_end and self.client.done.is_set()
        segments = [Segment(0, [], None)]
        for frame in self.frames():
            document = json.loads(frame.data)
            if frame.event == "gap":
                [gap] = document["partitions"]
                segments[-1] = segments[-1]._replace(end=gap["requested"])
                if segments == [Segment(0, [], gap["requested"])] and gap["resumed"] == 0:
                    segments.clear()  # it came while the log was empty, and missed nothing
                segments.append(Segment(gap["resumed"], [], None))
            elif frame.event == "message":
                segments[-1].got.append((document["meta"]["offset"], document["n"]))
            else:
                assert document["name"] == "FilterTooCostly"
                assert is_over
                [cursor] = json.loads(frame.id or "")
                segments[-1] = segments[-1]._replace(end=cursor["offset"])
        if not is_over:
            segments[-1] = segments[-1]._replace(end=len(lives[-1]))
        life = 0
        for segment in segments:
            while not segment.is_of(lives[life], FILTERS[self.filter]):
                life += 1
                assert life < len(lives), f"{self.filter}, {self.coding}: {segments} of {lives}"
        if self.secrets is not None:
            assert SECRET not in self.decoded()[len(self.decoded(self.secrets)) :]


ZSTD_END = b"\x01\0\0"
"""Ends an open frame of zstd."""


class Segment(NamedTuple):
    """What came without a gap."""

    start: int
    got: list[tuple[int, int]]
    """Offsets and numbers."""
    end: int | None
    """Up to which offset it must be complete; None if only up to the last event."""

    def is_of(self, life: list[int], matches: Any) -> bool:
        end = self.end if self.end is not None else max([0, *(o + 1 for o, _ in self.got)])
        due = [(o, n) for o, n in enumerate(life[:end]) if o >= self.start and matches(n)]
        return self.got == due and end <= len(life)


class Run:
    """A gateway, its log and its clients."""

    def __init__(self, gateway: Gateway, log: EpochLog, tasks: asyncio.TaskGroup) -> None:
        self.gateway = gateway
        self.log = log
        self.tasks = tasks
        self.visitors: list[Visitor] = []
        self.lives: list[list[int]] = [[]]
        self.numbers = iter(range(LAST))
        self.is_redacted = False

    async def append(self, count: int) -> None:
        numbers = [next(self.numbers) for _ in range(count)]
        self.lives[-1] += numbers
        await self.log.append(list(map(record, numbers)))

    async def lose(self, count: int, more: int) -> None:
        """Lose the last `count` records in an election, and get `more` others in their place."""
        end = max(0, len(self.lives[-1]) - count)
        numbers = [next(self.numbers) for _ in range(more)]
        self.lives.append(self.lives[-1][:end] + numbers)
        await self.log.lose(P, end, list(map(record, numbers)))

    async def come(self, filter_: str | None, coding: str, exposed: bool) -> None:
        visitor = Visitor(self.gateway, filter_, coding, exposed=exposed)
        if self.is_redacted:
            visitor.forbid_secrets()
        self.visitors.append(visitor)
        self.tasks.create_task(visitor.client.serve())

    async def redact(self) -> None:
        self.is_redacted = True
        if self.gateway.hub.tails.redactions.of("t") is None:
            for visitor in self.visitors:
                visitor.forbid_secrets()
        self.gateway.hub.redact({"t": Redaction([RULE])})

    async def end_filter(self, which: int) -> None:
        cohorts = list(self.gateway.hub._cohorts.values())
        if cohorts:
            for visitor in self.visitors:
                visitor.may_end = True
            for _ in cohorts[which % len(cohorts)].end(FilterTooCostly("too costly")):
                pass

    async def client(self, which: int, does: str, count: int) -> None:
        if not self.visitors:
            return
        visitor = self.visitors[which % len(self.visitors)]
        match does:
            case "stall":
                visitor.socket.high_water = count
            case "take":
                visitor.socket.take(count)
            case "flow":
                visitor.socket.take_all()
            case "go":
                visitor.may_end = True
                visitor.socket.hang_up()
            case "close":
                visitor.may_end = True
                for subscription in list(self.gateway.hub.subscriptions):
                    if subscription.connection is visitor.socket:
                        subscription.end(EndReason.CLOSED)

    async def finish(self) -> None:
        """Append an event that all clients get, and check what each has got."""
        for visitor in self.visitors:
            visitor.socket.take_all()
        self.lives[-1].append(LAST)
        await self.log.append([record(LAST)])
        for visitor in self.visitors:
            await visitor.socket.until(visitor.has_all)
        await self.gateway.hub.drain(0)
        for visitor in self.visitors:
            await visitor.client.ended()
            visitor.check(self.lives)


counts = st.integers(0, 6)
whiches = st.integers(0, 20)
comes = st.tuples(
    st.just("come"), st.sampled_from([*FILTERS]), st.sampled_from(CODINGS), st.booleans()
)
appends = st.tuples(st.just("append"), counts)
behaves = st.tuples(
    st.just("client"),
    whiches,
    st.sampled_from(["stall", "take", "take", "flow", "go", "close"]),
    st.integers(1, 800),
)
actions = st.one_of(
    comes,
    comes,
    appends,
    appends,
    appends,
    behaves,
    behaves,
    st.tuples(st.just("lose"), counts, counts),
    st.tuples(st.just("redact")),
    st.tuples(st.just("end_filter"), whiches),
)
passes = st.one_of(st.integers(0, 3), st.integers(0, 60))
histories = st.lists(st.tuples(actions, passes), min_size=5, max_size=40)


LOST_AS_A_CLIENT_COMES = [
    (("append", 0), 0),
    (("lose", 0, 4), 0),
    (("lose", 3, 0), 1),
    (("come", None, "none", False), 0),
    (("lose", 1, 0), 1),
]
"""The log loses all its records, and the gateway does not know yet: its end is beyond the log's."""


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@example(LOST_AS_A_CLIENT_COMES, False, False, 1)
@given(histories, st.booleans(), st.booleans(), st.sampled_from([1, 600, 10**6]))
def test_each_client_decodes_what_its_filter_matches_whatever_happens_meanwhile(
    history: list[Any], cuts: bool, keyframes: bool, batch_bytes: int
) -> None:
    """`cuts`: a scan is suspended before each evaluation. `keyframes`: all clients join at once."""
    timing = Timing(
        keyframe_every_s=0.0 if keyframes else math.inf,
        turn_s=-1.0,
        members_per_look=1,
        encoded_bytes=100,
        scan_s=-1.0 if cuts else math.inf,
    )
    asyncio.run(_run(history, batch_bytes, timing))


async def _run(history: list[Any], batch_bytes: int, timing: Timing) -> None:
    log = EpochLog()
    await log.create_topic("t", 1)
    limits = {"batch_bytes_max": batch_bytes, "pace_max_ms": 0, "heartbeat_s": 0.01}
    async with (
        serving(log, ["t"], timing=timing, **limits) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        gateway.hub._windows._count_max = 2
        run = Run(gateway, log, tasks)
        for (name, *arguments), turns in history:
            await getattr(run, name)(*arguments)
            await passed(turns)
        await run.finish()
    gateway.assert_nobody_is_left()


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("filter_", [None, "event.kind == 'a'", "event.n % 2 == 0"])
@pytest.mark.anyio
async def test_a_redaction_amid_a_write_spares_those_that_have_yet_to_get_it(
    coding: str, filter_: str | None
) -> None:
    log = EpochLog()
    await log.create_topic("t", 1)
    timing = Timing(turn_s=-1.0, members_per_look=1)
    async with serving(log, ["t"], timing=timing) as gateway, asyncio.TaskGroup() as tasks:
        run = Run(gateway, log, tasks)
        for _ in range(10):
            await run.come(filter_, coding, exposed=True)
        await joined(gateway, *(visitor.client for visitor in run.visitors))
        await run.append(1)
        first = run.visitors[0].socket
        await first.until(lambda: len(first.bodies) > 1)
        await run.redact()
        assert SECRET in run.visitors[0].decoded()
        await run.finish()
        assert SECRET not in run.visitors[-1].decoded()


@pytest.mark.anyio
async def test_a_redaction_may_empty_a_group_whose_batch_is_being_compressed() -> None:
    log = EpochLog()
    await log.create_topic("t", 1)
    async with (
        serving(log, ["t"], timing=Timing(encoded_bytes=20)) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        run = Run(gateway, log, tasks)
        await run.come("event.kind == 'a'", "gzip", exposed=True)
        [visitor] = run.visitors
        await joined(gateway, visitor.client)
        [cohort] = gateway.hub._cohorts.values()
        await run.append(1)
        async with asyncio.timeout(PATIENCE_S):
            while not cohort._writing:
                await asyncio.sleep(0)
        await run.redact()
        assert not cohort.members
        await run.finish()
        assert SECRET not in visitor.decoded()
