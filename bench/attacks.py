"""The attacks of `abuse`: what an attacker at one address does repeatedly until it is stopped.

An attack is a coroutine function of one attacker. `ATTACKS` also gives the maximum rate of all
attackers of a process: high enough to stop a gateway that does not bound its work, and low enough
to leave processor time for the other processes.
"""

from __future__ import annotations

import asyncio
import functools
import zlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson

from bench.attackers import Attacker

_JSON = "Content-Type: application/json"
_NUMBERS = b"[" + b",".join([b"1"] * 10_000) + b"]"
"""20 KB in which every event is invalid."""
_SMALL_RECEIVE_BYTES = 4096
_CHUNKS = b"1\r\n \r\n" * 10_000
_SLOW_BODY_BYTES = 4_000_000
_NEARLY_ALL = b" " * (_SLOW_BODY_BYTES - 100)


class Attack(NamedTuple):
    act: Callable[[Attacker], Coroutine[Any, Any, None]]
    rate: float
    """Requests (or parts, or connections) a second, over all attackers of a process."""


# Filters.


def _nested(terms: int, depth: int) -> str:
    """Return a filter of nested macros over the event and its `meta`, around comparisons of whole
    events."""
    text = " && ".join(["event == event"] * terms)
    for level in range(depth):
        text = f"event{'.meta' if level % 2 else ''}.all(a{level}, {text})"
    return text


def _fitting(terms: int, depth: int) -> str:
    """Return the longest such filter that fits the limit on characters."""
    while len(text := _nested(terms, depth)) > 2_000:
        terms -= 1
    return text


_CLASS = "".join(chr(0x400 + 2 * n) for n in range(400))
COSTLY = (
    # As costly as the gateway accepts.
    " && ".join(["event == event"] * 14),
    "event.comment.matches('x*x*x*x*x*x*x*x*y')",
    "event.comment.matches('[a-z]{30}')",
    " || ".join(["string(event.comment) + event.comment == event.comment"] * 6),
    "event.all(a, a != 'b' && a != 'c' && a != 'd' && a != 'e' && a != 'f' && size(a) > 0)",
    "event.all(a, !(a in ['1','2','3','4','5','6','7','8']))",
    " && ".join(["event.meta == event.meta"] * 14),
    " || ".join(["timestamp(event.meta.dt).getHours('Europe/Berlin') > 99"] * 25),
    " || ".join(["event.comment.contains('xxxxxxxxxxxxxxxxxxxxxy')"] * 30),
    "event.meta.all(a, a.contains('y') || size(a) > 0) && event.all(a, a.contains('y'))",
    # Too costly: a gateway that accepts these is stopped by them.
    _fitting(110, 3),
    _fitting(110, 2),
    _fitting(110, 1),
    "event.all(a, event.all(b, a != b || size(a) > 0))",
    " && ".join(["event == event"] * 110),
    f"event.comment.matches('[{_CLASS}]{{55}}')",
    "event.comment.matches('([a-z]{1,20}[0-9]?){1,20}y')",
    "event.exists(a, event[a] == event)",
)
REFUSED = (
    "(" * 200 + "event.bot" + ")" * 200,
    " + ".join(["1"] * 400) + " == 1",
    "event.comment.matches('" + "(a{1000}){1000}" * 20 + "')",
    "[" + ",".join(["1"] * 900) + "].map(a, a) == event",
    "event." + "a." * 900 + "b == 1",
    "!" * 2_000 + "event.bot",
    " && ".join(["event.x == '\\u0041'"] * 90) + " &&",
    "event.all(a, " * 60 + "true" + ")" * 60,
)


def _filtered(attacker: Attacker, filters: tuple[str, ...], rest: str = "") -> list[str]:
    """Return targets with these filters, made different for each address."""
    start = f"/v2/stream/{attacker.plan.stream}?filter=%28"
    ends = [f"%29%26%26has%28event.no{attacker.number}n{n}%29{rest}" for n in range(60)]
    return [f"{start}{_quoted(text)}{end}" for end in ends for text in filters]


@functools.cache
def _quoted(text: str) -> str:
    return quote(text, safe="")


async def costly_filters(attacker: Attacker) -> None:
    await attacker.reading(_filtered(attacker, COSTLY))


async def costly_filters_from_earliest(attacker: Attacker) -> None:
    await attacker.reading(_filtered(attacker, COSTLY, "&since=earliest"))


async def refused_filters(attacker: Attacker) -> None:
    await _request(attacker, _filtered(attacker, REFUSED))


async def _request(attacker: Attacker, targets: Sequence[str]) -> None:
    """Request all targets, over ten connections at a time."""

    async def act(number: int) -> None:
        async with attacker.connection() as connection:
            for target in targets[number::10]:
                await attacker.pace.turn()
                attacker.count(await connection.ask(f"GET {target}"))

    await attacker.at_once(10, act)


async def many_filters(attacker: Attacker) -> None:
    texts = tuple(f"event.wiki == 'w{n}' || event.title.contains('t{n}')" for n in range(60))
    await attacker.reading(_filtered(attacker, texts, "&fields=title,meta.dt&sample=0.5"))


async def filters_that_match_nothing(attacker: Attacker) -> None:
    texts = ("event.wiki == 'none'", "event.comment.contains('none')", "!has(event.comment)")
    await attacker.reading(_filtered(attacker, texts, "&since=earliest"))


async def explanations(attacker: Attacker) -> None:
    stream = attacker.plan.stream
    targets = [
        target.replace(f"/v2/stream/{stream}?", f"/v2/explain?streams={stream}&", 1)
        for target in _filtered(attacker, COSTLY)
    ]
    await _request(attacker, targets)


# Posts.


def _event(attacker: Attacker, **fields: Any) -> dict[str, Any]:
    return {"$schema": "/test/event/1.0.0", "meta": {"stream": attacker.plan.posted}, **fields}


async def small_posts(attacker: Attacker) -> None:
    body = orjson.dumps(_event(attacker, test="a"))
    await attacker.asking("POST /v1/events", _JSON, body=body, connections=20)


async def batches_of_posts(attacker: Attacker) -> None:
    """Post as many valid events as one request may have."""
    body = orjson.dumps([_event(attacker, test="a")] * 10_000)
    await attacker.asking("POST /v1/events", _JSON, body=body, connections=4)


async def posts_of_numbers(attacker: Attacker) -> None:
    await attacker.asking("POST /v1/events", _JSON, body=_NUMBERS, connections=100)


async def posts_of_wrong_values(attacker: Attacker) -> None:
    """Post events with 60,000 invalid values each."""
    bodies = (
        orjson.dumps(_event(attacker, test_map={f"k{n}": 1 for n in range(60_000)})),
        orjson.dumps(_event(attacker, test=[1] * 60_000, test_map=[1] * 60_000)),
        orjson.dumps([_event(attacker, test=1)] * 10_000),
    )

    async def act(number: int) -> None:
        async with attacker.connection() as connection:
            while True:
                await attacker.pace.turn()
                body = bodies[number % len(bodies)]
                attacker.count(await connection.ask("POST /v1/events", _JSON, body=body))

    await attacker.at_once(3, act)


@functools.cache
def _packed() -> bytes:
    """Return a small body that decompresses to more than the limit."""
    packing = zlib.compressobj(wbits=31)
    return packing.compress(b" " * 16_000_000) + packing.flush()


async def packed_posts(attacker: Attacker) -> None:
    headers = (_JSON, "Content-Encoding: gzip")
    await attacker.asking("POST /v1/events", *headers, body=_packed(), connections=10)


async def unread_answers(attacker: Attacker) -> None:
    """On each connection, send posts and page requests with long answers, and read nothing."""

    async def act(number: int) -> None:
        async with attacker.connection(_SMALL_RECEIVE_BYTES) as connection:
            for _ in range(8):
                await attacker.pace.turn()
                if number % 2:
                    connection.send("POST /v1/events", _JSON, body=_NUMBERS)
                else:
                    connection.send("GET /?spec")
            async with asyncio.timeout(20):
                await connection.writer.drain()
                await connection.writer.wait_closed()

    await attacker.at_once(60, act)


async def unread_pages(attacker: Attacker) -> None:
    """On each connection, request something with a long answer, and read nothing."""
    topic, stream = attacker.plan.topic, attacker.plan.stream
    marks = [{"topic": topic, "partition": n, "offset": 1, "timestamp": 1} for n in range(900)]
    long = quote(orjson.dumps(marks).decode(), safe="")[:60_000]
    targets = (
        f"/v2/cursor?id={quote(orjson.dumps(marks[:600]).decode(), safe='[]{}:,')}",
        f"/v2/stream/{stream}?last-event-id={long}",
        f"/v2/stream/{stream}?since={'%22' * 20_000}",
        "/?spec",
    )

    async def act(number: int) -> None:
        async with attacker.connection(_SMALL_RECEIVE_BYTES) as connection:
            for _ in targets:
                await attacker.pace.turn()
                connection.send(f"GET {targets[number % len(targets)]}")
            async with asyncio.timeout(20):
                await connection.writer.drain()
                await connection.writer.wait_closed()

    await attacker.at_once(900 // len(attacker.step.addresses), act)


async def large_heads(attacker: Attacker) -> None:
    """Send incomplete heads of the maximum size on as many connections as possible."""
    stream = attacker.plan.stream
    line = f"GET /v2/stream/{stream} HTTP/1.1\r\nHost: abuse\r\nLast-Event-ID: "
    head = line.encode() + b" " * 250_000

    async def act(_: int) -> None:
        async with attacker.connection() as connection:
            await attacker.pace.turn()
            connection.write(head)
            await connection.writer.drain()
            await connection.swallow()

    await attacker.at_once(900 // len(attacker.step.addresses), act)


async def self_tests(attacker: Attacker) -> None:
    """Run as many self-tests at once as there may be connections; each lasts two seconds."""

    async def act(_: int) -> None:
        async with attacker.connection() as connection:
            await attacker.pace.turn()
            connection.send("GET /v2/selftest")
            attacker.count((await connection.head())[0])
            await connection.swallow()

    await attacker.at_once(1_500 // len(attacker.step.addresses), act)


async def slow_bodies(attacker: Attacker) -> None:
    """Send bodies almost completely and then byte by byte, and others that hardly begin."""

    async def act(number: int) -> None:
        await attacker.pace.turn()
        async with attacker.connection() as connection:
            length = f"Content-Length: {_SLOW_BODY_BYTES}"
            connection.send("POST /v1/events", _JSON, length)
            connection.write(_NEARLY_ALL if number < 10 else b" ")
            answer = asyncio.create_task(connection.head())
            try:
                while not answer.done():
                    connection.write(b" ")
                    await asyncio.sleep(0.5)
                attacker.count((await answer)[0])
            finally:
                answer.cancel()

    await attacker.at_once(40, act)


def _nested_texts(depth: int, text: str) -> Any:
    return {"a": _nested_texts(depth - 1, text)} if depth else text


_LARGE: tuple[dict[str, Any], ...] = (
    {"extra": _nested_texts(50, "x" * 900_000)},
    {"extra": [[]] * 9_000},
    {"extra": {f"{n}": [2**63] for n in range(4_500)}, "text": "\u0000 " * 100_000},
    {"test_map": {f"k{n}": "wiki, " * 15 for n in range(9_000)}},
)
"""The contents of events of up to 1 MB, in addition to required fields."""
_LOOKING = (
    " && ".join(f"size(event.extra{'.a' * depth}) > 0" for depth in range(26)),
    "event.text.contains('no') || 'no' in event.extra || event.test_map.no == ''",
    "event.extra.exists(x, x == 1)",
    "event.extra != event.test_map",
    "event.text.matches('^ *[a-z]{9}')",
)


async def large_events(attacker: Attacker) -> None:
    """Post events as large as they may be, and follow them with different filters and fields."""
    followed, posted = attacker.plan.stream, attacker.plan.posted
    bodies = [orjson.dumps(_event(attacker, **fields)) for fields in _LARGE]
    targets = [
        f"/v2/stream/{posted}?fields={name},no{attacker.number}{rest}"
        for name in ("extra", "test_map", "text")
        for rest in ("", "&compress=gzip")
    ]
    targets += [
        target.replace(followed, posted, 1)
        for rest in ("&compress=gzip", "&since=earliest")
        for target in _filtered(attacker, _LOOKING, rest)[: len(_LOOKING)]
    ]

    async def post(_: int) -> None:
        async with attacker.connection() as connection:
            for body in bodies:
                await attacker.pace.turn()
                attacker.count(await connection.ask("POST /v1/events", _JSON, body=body))

    async with asyncio.TaskGroup() as group:
        group.create_task(attacker.reading(targets, connections=9))
        group.create_task(attacker.at_once(2, post))


# Connections.


async def idle_connections(attacker: Attacker) -> None:
    """Open more connections than the gateway accepts, and keep them idle after one request."""

    async def act(number: int) -> None:
        await attacker.pace.turn()
        async with attacker.connection() as connection:
            if number % 2:
                attacker.count(await connection.ask("GET /healthz"))
            await connection.swallow()

    await attacker.at_once(1_500 // len(attacker.step.addresses), act)


async def tiny_chunks_of_a_get(attacker: Attacker) -> None:
    await _tiny_chunks(attacker, f"GET /v2/stream/{attacker.plan.stream}")


async def tiny_chunks_of_a_page(attacker: Attacker) -> None:
    await _tiny_chunks(attacker, "GET /healthz")


async def tiny_chunks_of_a_post(attacker: Attacker) -> None:
    await _tiny_chunks(attacker, "POST /v1/events")


async def _tiny_chunks(attacker: Attacker, line: str) -> None:
    """Send bodies in chunks of one byte, as fast as they are accepted."""

    async def act(_: int) -> None:
        async with attacker.connection() as connection:
            connection.send(line, _JSON, "Transfer-Encoding: chunked")
            while not connection.reader.at_eof():
                await attacker.pace.turn()
                connection.write(_CHUNKS)
                await connection.writer.drain()

    await attacker.at_once(3, act)


async def many_requests(attacker: Attacker) -> None:
    """Pipeline requests for pages."""
    targets = ("/?spec", "/v2/streams", "/v1/stream-configs", "/v1/schemas", "/nowhere", "/")

    async def act(_: int) -> None:
        async with attacker.connection() as connection:
            while True:
                await attacker.pace.turn()
                for target in targets:
                    connection.send(f"GET {target}")
                for _ in targets:
                    status, head = await connection.head()
                    attacker.count(status)
                    length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
                    await connection.reader.readexactly(int(length or b"0"))

    await attacker.at_once(10, act)


# Reading.


async def history(attacker: Attacker) -> None:
    path = f"/v2/stream/{attacker.plan.stream}"
    targets = [
        f"{path}?since=earliest",
        f"{path}?since=earliest&fields=title",
        f"{path}?since=earliest&sample=0.001",
        f"{path}?since=earliest&compress=gzip",
    ]
    await attacker.reading(targets)


async def compressed(attacker: Attacker) -> None:
    """Follow live streams that cannot share their compression."""
    path = f"/v2/stream/{attacker.plan.stream}?compress=zstd"
    targets = [f"{path}&sample=0.9{attacker.number}{n}" for n in range(1, 60)]
    await attacker.reading(targets, "Accept-Encoding: zstd")


async def cursors(attacker: Attacker) -> None:
    """Send ids as long as a head may be, in the URL and in the header."""
    topic, path = attacker.plan.topic, f"/v2/stream/{attacker.plan.stream}"
    marks = [{"topic": topic, "partition": n, "offset": 1, "timestamp": 1} for n in range(900)]
    long = orjson.dumps(marks).decode()
    longest = orjson.dumps([*marks, *(f"t{n}" for n in range(16_000))]).decode()
    deep = "[" * 60_000
    lines = [
        (f"GET /v2/cursor?id={quote(long, safe='')[:60_000]}",),
        (f"GET /v2/cursor?id={quote(orjson.dumps(marks[:400]).decode(), safe='')}",),
        (f"GET {path}", f"Last-Event-ID: {long}"),
        (f"GET {path}", f"Last-Event-ID: {longest}"),
        (f"GET {path}", f"Last-Event-ID: {deep}"),
        (f"GET {path}?last-event-id=v1.{'A' * 60_000}",),
    ]

    async def act(number: int) -> None:
        async with attacker.connection() as connection:
            while True:
                for line in lines[number % len(lines) :]:
                    await attacker.pace.turn()
                    attacker.count(await connection.ask(*line))

    await attacker.at_once(12, act)


async def tickets(attacker: Attacker) -> None:
    """Request tickets with valid tokens, invalid ones, and ones of the maximum length."""
    tokens = (*attacker.plan.tokens, "a.b.c", "e30." * 2_000, attacker.plan.tokens[0][:-4] + "AAAA")

    async def act(number: int) -> None:
        async with attacker.connection() as connection:
            while True:
                await attacker.pace.turn()
                authorization = f"Authorization: Bearer {tokens[number % len(tokens)]}"
                attacker.count(await connection.ask("POST /v2/ticket", authorization, body=b""))

    await attacker.at_once(12, act)


ATTACKS = {
    "filters, costly": Attack(costly_filters, 100),
    "filters, costly, from earliest": Attack(costly_filters_from_earliest, 100),
    "filters, refused": Attack(refused_filters, 200),
    "filters, many": Attack(many_filters, 200),
    "filters, matching nothing": Attack(filters_that_match_nothing, 100),
    "explain": Attack(explanations, 100),
    "small posts": Attack(small_posts, 2000),
    "batches": Attack(batches_of_posts, 20),
    "invalid posts, [1,1,...]": Attack(posts_of_numbers, 400),
    "invalid posts, 60,000 values": Attack(posts_of_wrong_values, 20),
    "packed posts": Attack(packed_posts, 100),
    "unread answers": Attack(unread_answers, 2000),
    "large events": Attack(large_events, 100),
    "unread pages": Attack(unread_pages, 1000),
    "large heads": Attack(large_heads, 500),
    "self tests": Attack(self_tests, 1000),
    "slow bodies": Attack(slow_bodies, 100),
    "idle connections": Attack(idle_connections, 1000),
    "tiny chunks of a GET": Attack(tiny_chunks_of_a_get, 200),
    "tiny chunks of a page": Attack(tiny_chunks_of_a_page, 200),
    "tiny chunks of a POST": Attack(tiny_chunks_of_a_post, 200),
    "many requests": Attack(many_requests, 200),
    "history": Attack(history, 100),
    "compressed": Attack(compressed, 100),
    "large cursors": Attack(cursors, 200),
    "tickets": Attack(tickets, 1000),
}
