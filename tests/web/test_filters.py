"""filter, fields and sample over HTTP, and the errors of invalid requests."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from hashlib import blake2b
from typing import Any
from urllib.parse import quote

import pytest

from eventstreams.config.settings import LimitSettings
from tests.support.client import Answer, Stream, frames_of
from tests.support.gateway import NDJSON, SSE, T0, Headers, Served, Site
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

Event = dict[str, Any]

WIKIS = ("enwiki", "dewiki", "wikidatawiki")
EVENTS: list[Event] = [
    {
        "n": n,
        "wiki": WIKIS[n % 3],
        **({"bot": n % 2 == 0} if n % 5 else {}),
        "title": f"Page {n}",
        "length": {"old": 100, "new": 90 + n},
        "meta": {
            "id": f"id-{n}",
            "dt": "2026-01-31T12:00:00Z",
            **({"domain": "canary" if n == 9 else "example.org"} if n % 3 == 0 else {}),
        },
    }
    for n in range(30)
]


def is_sampled(event: Event, share: float) -> bool:
    digest = blake2b(event["meta"]["id"].encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def grows(event: Event) -> bool:
    return bool(event["length"]["new"] - event["length"]["old"] > 10)


WHOLE = [(event["n"], event["title"]) for event in EVENTS]
SELECTED: list[tuple[dict[str, str], list[Any]]] = [
    ({"filter": 'event.wiki == "enwiki"'}, [e for e in EVENTS if e["wiki"] == "enwiki"]),
    ({"filter": "event.bot"}, [e for e in EVENTS if e.get("bot")]),
    ({"filter": "!event.bot"}, [e for e in EVENTS if e.get("bot") is False]),
    ({"filter": "!has(event.bot) || event.bot"}, [e for e in EVENTS if e.get("bot", True)]),
    ({"filter": "event.length.new - event.length.old > 10"}, [e for e in EVENTS if grows(e)]),
    ({"filter": "event.title.startsWith('Page 1') && offset > 10"}, EVENTS[11:20]),
    ({"filter": "event.nothing == 1 || event.nothing != 1"}, []),
    ({"filter": "has(event.meta.nothing.at.all)"}, []),
    ({"fields": "n,title"}, [{"n": n, "title": title} for n, title in WHOLE]),
    ({"fields": "length.new"}, [{"length": {"new": 90 + n}} for n, _ in WHOLE]),
    ({"fields": "nothing,title.nothing"}, [{} for _ in EVENTS]),
    ({"sample": "0.4"}, [e for e in EVENTS if is_sampled(e, 0.4)]),
    ({"sample": "1"}, EVENTS),
    ({"canary": "false"}, [e for e in EVENTS if e["n"] != 9]),
    (
        {"canary": "false", "filter": "event.n < 11", "fields": "n"},
        [{"n": n} for n in range(11) if n != 9],
    ),
    (
        {"filter": "event.n >= 10", "fields": "n", "sample": "0.6"},
        [{"n": e["n"]} for e in EVENTS if e["n"] >= 10 and is_sampled(e, 0.6)],
    ),
]
assert 0 < len([e for e in EVENTS if is_sampled(e, 0.4)]) < len(EVENTS)


def target(**query: str) -> str:
    text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    return f"/v2/stream/s?{text}"


def documents_in(answer: Answer, accept: Headers) -> list[Any]:
    assert answer.status == 200, answer.body
    if accept is NDJSON:
        return [json.loads(line) for line in answer.body.split(b"\n") if line]
    frames = frames_of(answer.body.removeprefix(b":ok\n\n"))
    return [f.document for f in frames if f.event != "checkpoint"]


def without_place(document: Any) -> Any:
    """Return the event as it was appended, without the place that the gateway adds to `meta`."""
    if "meta" not in document:
        return document
    kept = {k: v for k, v in document["meta"].items() if k in ("id", "dt", "domain")}
    return {**document, "meta": kept}


async def joined(gateway: Served, count: int) -> None:
    """Wait until this many clients wait for new events."""
    async with asyncio.timeout(PATIENCE_S):
        while sum(s.cohort is not None for s in gateway.parts.hub.subscriptions) != count:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("accept", [SSE, NDJSON], ids=["sse", "ndjson"])
async def test_history_is_filtered(embedded: Site, accept: Headers) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, *EVENTS, timestamp_ms=T0)
    async with embedded.gateway({"s": [topic]}) as gateway:
        for query, expected in SELECTED:
            answer = await gateway.get(target(since="earliest", until="-1s", **query), accept)
            assert list(map(without_place, documents_in(answer, accept))) == expected, query


@pytest.mark.parametrize("accept", [SSE, NDJSON], ids=["sse", "ndjson"])
async def test_live_events_are_filtered(embedded: Site, accept: Headers) -> None:
    """Open these streams at the same time, each with another request."""
    topic = await embedded.topic()
    async with embedded.gateway({"s": [topic]}, drain_s=1.0) as gateway, AsyncExitStack() as stack:
        streams: list[Stream] = []
        for query, _ in SELECTED:
            opened = gateway.opened(target(**query), accept)
            streams.append(await stack.enter_async_context(opened))
        await joined(gateway, len(SELECTED))
        assert gateway.count("cohorts") == len(SELECTED)
        await embedded.produce(topic, *EVENTS)
        for stream, (query, expected) in zip(streams, SELECTED, strict=True):
            if accept is NDJSON:
                got = [json.loads(line) for line in await stream.lines(len(expected))]
            else:
                got = await stream.documents(len(expected))
            assert list(map(without_place, got)) == expected, query
        await gateway.server.drain()
        for stream, (query, expected) in zip(streams, SELECTED, strict=True):
            await stream.rest()
            found = b"".join(stream.chunks)
            sent = [line for line in found.split(b"\n") if line.startswith((b"{", b"data: "))]
            assert len(sent) == len(expected), query


async def test_a_resumed_filter_continues_after_the_last_event(site: Site) -> None:
    topic = await site.topic()
    await site.produce(topic, *EVENTS, timestamp_ms=T0)
    query = {"filter": 'event.wiki == "dewiki"', "fields": "n", "since": "earliest"}
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.opened(target(**query)) as stream:
            frames = await stream.frames(10)
        assert [f.document["n"] for f in frames] == list(range(1, 30, 3))
        for frame in frames:
            answer = await gateway.get(
                target(**query, until="-1s"), {**SSE, "Last-Event-ID": frame.id}
            )
            rest = [d["n"] for d in documents_in(answer, SSE)]
            assert rest == list(range(frame.document["n"] + 3, 30, 3))


SAME = [
    {"filter": 'event.wiki=="enwiki"&&!event.bot', "fields": "title,n"},
    {"filter": ' event.wiki  == "enwiki"\n  && ! event.bot // no bots', "fields": " n , title,n"},
    {"filter": 'event.wiki == "enwiki" && !event.bot', "fields": "n,title,title.x", "sample": "1"},
]


async def test_equivalent_spellings_share_a_cohort(embedded: Site) -> None:
    other = {"filter": "event.wiki == 'enwiki' && !event.bot", "fields": "n,title"}
    topic = await embedded.topic()
    async with embedded.gateway({"s": [topic]}) as gateway, AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(gateway.opened(target(**query)))
            for query in (*SAME, other)
        ]
        await joined(gateway, 4)
        assert gateway.count("cohorts") == 2, "literals in other quotes are other text"
        await embedded.produce(topic, *EVENTS)
        expected = [
            {"n": e["n"], "title": e["title"]}
            for e in EVENTS
            if e["wiki"] == "enwiki" and e.get("bot") is False
        ]
        for stream in streams:
            assert await stream.documents(len(expected)) == expected


# Filters that take more than their share.

COSTLY = "event.l.exists(x, x == 1) || event.n >= 0"


async def test_costly_filters_have_no_cohort_and_the_same_events(site: Site) -> None:
    topic = await site.topic()
    async with site.gateway({"s": [topic]}) as gateway, AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(gateway.opened(target(filter=text)))
            for text in (COSTLY, COSTLY, "event.n >= 0")
        ]
        for stream in streams:
            await stream.opened()
        await gateway.until("cohorts", 1)
        await site.produce(topic, *({"n": n, "l": [0] * n} for n in range(20)))
        for stream in streams:
            assert [d["n"] for d in await stream.documents(20)] == list(range(20))
        assert gateway.count("cohorts") == 1


async def test_filters_beyond_their_budget_end_and_indexed_ones_do_not(embedded: Site) -> None:
    topic = await embedded.topic()
    limits = LimitSettings(filters_share=0.001)
    async with (
        embedded.gateway({"s": [topic]}, limits=limits, filter_patience_s=0.2) as gateway,
        gateway.opened(target(filter="event.text.contains('x')")) as examined,
        gateway.opened(target(filter="event.n in [0, 1]")) as indexed,
        gateway.opened(target()) as whole,
    ):
        for stream in (examined, indexed, whole):
            await stream.opened()
        await gateway.until("cohorts", 3)
        assert gateway.count("filters", evaluation="examined") == 1
        assert gateway.count("filters", evaluation="indexed") == 1
        produced = 0

        async def produce() -> None:
            nonlocal produced
            while not gateway.count("streams_ended_total", reason="filter_error"):
                values = [{"n": n, "text": "x"} for n in range(produced, produced + 100)]
                await embedded.produce(topic, *values)
                produced += len(values)

        async with asyncio.timeout(PATIENCE_S):
            await produce()
        frames = frames_of(b"".join(await examined.rest()).removeprefix(b":ok\n\n"))
        sent, error = [frame.document["n"] for frame in frames[:-1]], frames[-1]
        assert error.document["name"] == "FilterTooCostly"
        assert "add a condition that can be indexed" in error.document["message"]
        assert [d["n"] for d in await indexed.documents(2)] == [0, 1]
        everything = list(range(produced))
        assert [d["n"] for d in await whole.documents(produced)] == everything
        async with gateway.opened(target(), last_event_id=error.id) as resumed:
            rest = produced - len(sent)
            assert [d["n"] for d in await resumed.documents(rest)] == everything[len(sent) :]


async def test_filters_end_even_if_none_was_evaluated_since_they_fell_behind(
    embedded: Site,
) -> None:
    topic = await embedded.topic()
    limits = LimitSettings(filters_share=1e-6)
    async with (
        embedded.gateway({"s": [topic]}, limits=limits, filter_patience_s=0.2) as gateway,
        gateway.opened(target(filter="event.text.contains('x')")) as examined,
    ):
        await examined.opened()
        async with asyncio.timeout(PATIENCE_S):
            while not gateway.count("streams_ended_total", reason="filter_error"):
                await embedded.produce(topic, {"text": "x"})
        assert b"FilterTooCostly" in b"".join(await examined.rest())


async def test_only_a_stream_beyond_its_share_is_slowed_and_ended(
    embedded: Site,
) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"s": [topic]}, filter_share=1e-6, filter_patience_s=0.2) as gateway,
        gateway.opened(target(filter=COSTLY)) as costly,
        gateway.opened(target(filter="event.n >= 0")) as cheap,
        gateway.opened(target()) as whole,
    ):
        for stream in (costly, cheap, whole):
            await stream.opened()
        produced = 0

        async def produce() -> None:
            nonlocal produced
            while not gateway.count("streams_ended_total", reason="filter_error"):
                await embedded.produce(topic, {"n": produced, "l": [0] * 100})
                produced += 1

        async with asyncio.timeout(PATIENCE_S):
            await produce()
        frames = frames_of(b"".join(await costly.rest()).removeprefix(b":ok\n\n"))
        sent, error = [frame.document["n"] for frame in frames[:-1]], frames[-1]
        assert error.event == "error"
        assert error.document["name"] == "FilterTooCostly"
        assert error.document["message"].startswith(
            "Selecting the events of this stream takes more than its share of the gateway's time"
        )
        reported = re.search(rb"\n\nretry: (\d+)\n$", costly.chunks[-1])
        assert reported, "a client that reconnects would get it again"
        assert 45_000 <= int(reported[1]) <= 75_000
        everything = list(range(produced))
        assert [d["n"] for d in await cheap.documents(produced)] == everything
        assert [d["n"] for d in await whole.documents(produced)] == everything
        async with gateway.opened(target(), last_event_id=error.id) as resumed:
            rest = [d["n"] for d in await resumed.documents(produced - len(sent))]
        assert sent + rest == everything, "no event is lost"


# Refusals.

BAD_FILTERS = [
    ("event.n ==¦", "the expression ends too early"),
    ("event.n == ¦== 3", "Syntax error: extraneous input '=='"),
    ("event.n ¦= 3", "write == to compare"),
    ("event.n ¦# 3", "Syntax error: token recognition error at: '#'"),
    ("(event.n == 3¦", "Syntax error: missing ')' at '<EOF>'"),
    ("event.n == 3¦)", "Syntax error: extraneous input ')'"),
    ("event.a[1 == 2¦", "Syntax error: missing ']' at '<EOF>'"),
    ("event.n == ¦'a", "the text that begins here does not end: add '"),
    ("event.wiki == 'enwiki' &&\n  event.n ==¦", "the expression ends too early"),
    ("1 ¦+ 'a' == 2", "found no matching overload for '_+_' applied to '(int, string)'"),
    ("1 ¦== 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
    ("true ¦&& 1", "found no matching overload for '_&&_' applied to '(bool, int)'"),
    ("¦event.n + 1", "the result must be a bool, but is int"),
    ("  ¦'x'", "the result must be a bool, but is string"),
    ("¦event.n == 3 ? 1 : 2", "the result must be a bool, but is int"),
    ("¦event", "the result must be a bool, but is map<string, dyn>"),
    ("¦// nothing", "the expression is empty"),
    ("¦nope == 1", "undeclared reference to 'nope'"),
    ('"é\U0001f600" == ¦nope', "undeclared reference to 'nope'"),
    ("event.n == 3 &&\n\n  ¦nope", "undeclared reference to 'nope'"),
    ("true || " * 30 + "¦nope" + " || true" * 30, "undeclared reference to 'nope'"),
    ("frobnicate¦(event.n)", "undeclared reference to 'frobnicate'"),
    ("event.n.foo¦()", "undeclared reference to 'foo'"),
    ("event.l.exists(¦x)", "undeclared reference to 'x'"),
    ("has(¦event)", "has() argument must be a field selection"),
    ("event.n == 'a¦\0b'", "the character U+0000 is not allowed in a filter"),
    ("event.l.¦map(x, x) == [1]", "map() is not supported: use all() or exists()"),
    ("size(event.l.¦filter(x, x == 1)) > 0", "filter() is not supported: use all() or exists()"),
    ("¦bytes(event.t) == b''", "there is no function bytes()"),
    ("event.t.¦matches(event.p)", "a regular expression must be a literal string"),
    ("event.t.¦matches('a' + 'b')", "a regular expression must be a literal string"),
    ("event.t.matches(¦'(')", "invalid regular expression: missing ): ("),
    ("event.l.all(x, x ¦+ 1 == 1)", "+ is not supported within all()"),
    ("event.n" + " + 1" * 8 + " ¦+ 1 == 2", "+ is used more than 8 times"),
    ("[¦event.n] == [1]", "lists and maps may only contain literals"),
    (
        "event.all(a, event.¦all(b, a == b))",
        "a loop within a loop may only iterate over a part of the outer loop's value, not over the "
        "event again",
    ),
    (
        "timestamp.getHours(¦'/proc/self/fd/2') >= 0",
        "unknown time zone '/proc/self/fd/2': give the name of an IANA zone like 'Europe/Berlin', "
        "or an offset from UTC like '+05:30'",
    ),
    (
        "timestamp.¦getHours(event.tz) >= 0",
        "a time zone must be a literal string such as 'Europe/Berlin'",
    ),
]
"""Expressions with a mark at the error, and the message."""
SHOWN_MAX = 60


async def refusal(gateway: Served, query: str) -> dict[str, Any]:
    """Return the body of a refusal, without the common fields."""
    answer = await gateway.get(f"/v2/stream/s?{query}")
    assert answer.status == 400, query
    assert answer.head.get("content-type") == "application/json; charset=utf-8"
    body: dict[str, Any] = answer.json()
    assert body.pop("status") == 400
    assert body.pop("method") == "GET"
    assert body.pop("uri") == f"/v2/stream/s?{query}"
    return body


async def test_an_invalid_filter_is_refused_with_a_caret_at_the_error(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for marked, reason in BAD_FILTERS:
            before, after = marked.split("¦")
            body = await refusal(gateway, f"filter={quote(before + after, safe='')}")
            assert (body["type"], body["title"]) == ("invalid_filter", "Invalid Filter")
            first, shown, caret = body["detail"].split("\n")
            line, column = before.count("\n") + 1, len(before.split("\n")[-1]) + 1
            where = f"Invalid filter at line {line}, column {column}: "
            assert first.startswith(where)
            said = first.removeprefix(where)
            assert said == reason or said.endswith(f" ({reason})"), "perhaps after a hint"
            its_line = before.split("\n")[-1] + after.split("\n")[0]
            cut = max(0, column - 1 - SHOWN_MAX)
            assert shown == its_line.replace("\0", " ")[cut : column - 1 + SHOWN_MAX]
            assert caret == " " * (column - 1 - cut) + "^", marked
        assert gateway.count("refused_total", code="InvalidFilter") == len(BAD_FILTERS)
        assert gateway.count("clients") == 0


TIMES = (
    " is not a time: use milliseconds since 1970 (13 digits), seconds (10 digits), ISO 8601 like "
    "2026-01-31T12:00:00Z, a time ago like -15m, -2h or -7d, or earliest"
)
SINGLE = (
    *("filter", "fields", "sample", "canary", "until", "limit", "max_seconds"),
    *("heartbeat", "gap", "caught_up", "compress"),
)
REFUSED: list[tuple[str, str, str]] = [
    *(
        (f"filter={text}", "invalid_filter", detail)
        for text, detail in (
            ("x" * 2049, "The filter has 2049 characters; the limit is 2048"),
            (
                "(" * 300 + "true" + ")" * 300,
                "The filter is nested too deeply or has too many operators in a row",
            ),
            (  # a surrogate is not UTF-8, and its bytes are replaced
                "%ED%A0%80",
                "Invalid filter at line 1, column 1: Syntax error: token recognition error at: "
                "'\ufffd'\n\ufffd\ufffd\ufffd\n^",
            ),
        )
    ),
    *(
        (f"fields={quote(text)}", "invalid_fields", detail)
        for text, detail in (
            (",", "Invalid fields at position 1: a name is empty"),
            ("a,,b", "Invalid fields at position 3: a name is empty"),
            ("a b,", "Invalid fields at position 5: a name is empty"),
            (".a", "Invalid fields at position 1: a part of .a is empty"),
            ("title,meta.", "Invalid fields at position 12: a part of meta. is empty"),
            ("a,é..b", "Invalid fields at position 5: a part of é..b is empty"),
            ("a\0", "Invalid fields at position 2: the character U+0000 is not allowed in a name"),
            ("a\tb", "Invalid fields at position 2: the character U+0009 is not allowed in a name"),
            ("x" * 1025, "The fields have 1025 characters; the limit is 1024"),
            (
                ",".join(f"f{n:02}" for n in range(65)),
                "Invalid fields at position 257: there may be 64 names at most",
            ),
            (
                ".".join("a" * 33),
                "Invalid fields at position 1: a path has 33 parts; the limit is 32",
            ),
        )
    ),
    *(
        (
            f"sample={quote(text)}",
            "invalid_sample",
            f"sample={text!a} is not a decimal number above 0 and at most 1",
        )
        for text in ("0", "2", "nan", "x", "-0.1", "1e-3", "1.0001", "inf", "0,5", "½", "1/2", "\0")
    ),
    *(
        (
            f"limit={quote(text)}",
            "invalid_parameter",
            f"limit={text} is not a number of events: use a whole number of at least 1",
        )
        for text in ("0", "-1", "+1", "1.5", "ten", "9" * 16, "1e3", "0x1", "٣", "1_000", "\0")
    ),
    *(
        (
            f"max_seconds={quote(text)}",
            "invalid_parameter",
            f"max_seconds={text} is not a number of seconds greater than 0",
        )
        for text in ("0", "0.000", "-5", "1e3", "nan", "inf", "1.2345", "5s", "1" * 10)
    ),
    *(
        (f"{name}={quote(text)}", "invalid_timestamp", f"{name}={text}{TIMES}")
        for name in ("since", "until")
        for text in ("soon", "-5x", "2026-13-01", "2026-01-31T25:00Z", "-", "1h", "\0")
    ),
    *(
        (
            f"heartbeat={quote(text)}",
            "invalid_parameter",
            f"heartbeat={text} is not one of: checkpoint, comment",
        )
        for text in ("often", "Checkpoint", "checkpoint,comment", "true", "comment ")
    ),
    *(
        (f"canary={quote(text)}", "invalid_parameter", f"canary={text} is not one of: true, false")
        for text in ("no", "False", "0")
    ),
    *(
        (f"gap={quote(text)}", "invalid_parameter", f"gap={text} is not one of: tell, fail")
        for text in ("ignore", "TELL", "410")
    ),
    *(
        (
            f"compress={quote(text)}",
            "invalid_parameter",
            f"compress={text} is not one of: gzip, zstd, none",
        )
        for text in ("br", "GZIP", "gzip,zstd", "x-gzip", "identity", "1")
    ),
    *(
        (f"{name}=1&{name}=1", "invalid_parameter", f"{name} is given more than once")
        for name in SINGLE
    ),
    ("since=1&since=2", "invalid_timestamp", "since is given 2 times: 1, 2"),
]
TITLES = {
    "invalid_filter": "Invalid Filter",
    "invalid_fields": "Invalid Fields",
    "invalid_sample": "Invalid Sample",
    "invalid_parameter": "Invalid Parameter",
    "invalid_timestamp": "Invalid timestamp",
}


async def test_an_invalid_parameter_is_refused_with_the_allowed_values(
    embedded: Site,
) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for query, type_, detail in REFUSED:
            body = await refusal(gateway, query)
            assert body == {"type": type_, "title": TITLES[type_], "detail": detail}, query
        assert gateway.count("clients") == 0


async def test_the_first_of_several_errors_is_reported(embedded: Site) -> None:
    """Parameters are checked in a fixed order, whatever their order in the query."""
    faults = ["since=x", "limit=x", "filter=(", "fields=,", "sample=x", "heartbeat=x", "gap=x"]
    types = [
        "invalid_timestamp",
        "invalid_parameter",
        "invalid_filter",
        "invalid_fields",
        "invalid_sample",
        "invalid_parameter",
        "invalid_parameter",
    ]
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for first, type_ in enumerate(types):
            body = await refusal(gateway, "&".join(reversed(faults[first:])))
            assert body["type"] == type_, faults[first]


async def test_empty_parameters_are_ignored(embedded: Site) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, {"n": 0}, timestamp_ms=T0)
    empty = "&".join(f"{name}=%20" for name in SINGLE if name != "until")
    async with embedded.gateway({"s": [topic]}) as gateway:
        answer = await gateway.get(f"/v2/stream/s?since=earliest&until=-1s&{empty}")
        assert [d["n"] for d in documents_in(answer, SSE)] == [0]
