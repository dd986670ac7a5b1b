"""The kinds of visitors of `soak`: they read in various ways, post, query, and send malformed
data."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import signal
import time
import uuid
from typing import Any
from urllib.parse import quote

import orjson

from bench.visits import PATIENCE_S, Place, Reader, events_of

_VISIT_S = 4.0

# Readers.


async def compressed(place: Place) -> None:
    target = f"/v2/stream/{place.plan.stream}?compress=gzip"
    reader = Reader(place, target, Accept_Encoding="gzip")
    for _ in range(3):
        await reader.visit(place.chance.uniform(0.1, _VISIT_S))
        await place.pause(1)


async def in_zstd(place: Place) -> None:
    """Read a zstd stream without decoding it."""
    target = f"/v2/stream/{place.plan.stream}?compress=zstd&since=-5s"
    async with place.reading(target, {"Accept-Encoding": "zstd"}) as answer:
        place.check(answer.headers.get("content-encoding") == "zstd", "not in zstd")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(place.chance.uniform(0.1, _VISIT_S)):
                async for _ in answer.aiter_raw():
                    pass


async def filtered(place: Place) -> None:
    """Read with a filter that few clients have used before."""
    step = place.chance.randrange(2, 40)
    filter_ = quote(f"event.seq % {step} == {place.chance.randrange(step)}")
    target = f"/v2/stream/{place.plan.stream}?since=-10s&heartbeat=checkpoint&filter={filter_}"
    reader = Reader(place, target, step=step)
    for _ in range(3):
        await reader.visit(place.chance.uniform(0.1, _VISIT_S))
        await place.pause(1)


async def with_fields(place: Place) -> None:
    target = f"/v2/stream/{place.plan.stream}?fields=seq,title,meta.dt"
    reader = Reader(place, target)
    for _ in range(2):
        await reader.visit(place.chance.uniform(0.1, _VISIT_S))


async def from_the_past(place: Place) -> None:
    since = place.chance.choice(("earliest", "-1s", "-20s", "-1h"))
    await Reader(place, f"/v2/stream/{place.plan.stream}?since={since}").visit(
        place.chance.uniform(0.1, _VISIT_S)
    )


async def bounded(place: Place) -> None:
    """Read a stream that ends by itself after the requested number of events."""
    limit = place.chance.randrange(1, 80)
    target = f"/v2/stream/{place.plan.stream}?since=-20s&limit={limit}"
    found: list[int] = []
    wrong: list[int] = []
    may_jump = True
    async with place.reading(target) as answer:
        async for event, document in events_of(answer):
            if event == "gap":  # on a busy machine it may read later than events are retained
                place.done["gap reported"] += 1
                may_jump = True
            elif event == "message":
                seq: int = document["seq"]
                if found and (seq <= found[-1] or (seq > found[-1] + 1 and not may_jump)):
                    wrong.append(seq)
                found.append(seq)
                may_jump = False
    place.check(len(found) == limit and not wrong, f"{target}: {found}")


async def in_lines(place: Place) -> None:
    """Read a stream as NDJSON."""
    target = f"/v2/stream/{place.plan.stream}?limit=20"
    async with place.reading(target, {"Accept": "application/json"}) as answer:
        found = [orjson.loads(line)["seq"] async for line in answer.aiter_lines() if line]
    is_whole = found == list(range(found[0], found[0] + 20)) if found else False
    place.check(is_whole, f"{target} in lines: {len(found)}")


# Readers with permissions.


async def with_token(place: Place) -> None:
    """Read until the token has expired, which the stream reports."""
    seconds = place.chance.uniform(4, 8)
    expires_s = time.time() + seconds
    headers = place.token(seconds=seconds)
    seen: list[tuple[str, Any]] = []
    async with place.reading(f"/v2/stream/{place.plan.closed}", headers) as answer:
        if answer.status_code == 401 and time.time() >= expires_s:
            return  # the machine was so busy that the token had expired
        place.expect(answer, 200)
        seen = [each async for each in events_of(answer)]
    errors = [document["name"] for event, document in seen if event == "error"]
    place.check(errors == ["InvalidToken"], f"at its end: {seen[-1:]}")


async def with_ticket(place: Place) -> None:
    """Read with a ticket, which is valid once."""
    got = await place.http.post("/v2/ticket", headers={**place.address(), **place.token()})
    place.expect(got, 201)
    target = f"/v2/stream/{place.plan.closed}?since=-2s&limit=5&ticket={got.json()['ticket']}"
    async with place.reading(target) as answer:
        place.expect(answer, 200)
        async for _ in events_of(answer):
            break
    place.expect(await place.get(target), 401)


async def without_access(place: Place) -> None:
    target = f"/v2/stream/{place.plan.closed}"
    place.expect(await place.get(target), 401)
    place.expect(await place.get(target, {"Authorization": "Bearer a.b.c"}), 401)
    place.expect(await place.get(target, place.token(seconds=-60)), 401)
    place.expect(await place.get(target, place.token("read:other")), 403)


# Clients that exceed the limits of one client.


async def too_many_streams(place: Place) -> None:
    mine, most = place.address(), place.plan.client_streams
    target = f"/v2/stream/{place.plan.stream}"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(most):
            place.expect(await stack.enter_async_context(place.reading(target, mine)), 200)
        place.expect(await place.get(target, mine), 429)
    async with asyncio.timeout(PATIENCE_S):  # until the leases are returned
        while (await place.http.head(target, headers=mine)).status_code != 200:
            await asyncio.sleep(0.2)


async def too_often(place: Place) -> None:
    mine, most = place.address(), place.plan.client_connects
    target = f"/v2/stream/{place.plan.stream}"
    got = [(await place.http.head(target, headers=mine)).status_code for _ in range(2 * most)]
    place.check(set(got) == {200, 429}, f"opened {len(got)} times: {set(got)}")
    place.check(got[:most] == [200] * most, "refused too soon")


# Posting clients.


class Posted(Reader):
    """Reads everything posted from now on, each event once."""

    def __init__(self, place: Place) -> None:
        since_ms = time.time_ns() // 1_000_000
        super().__init__(place, f"/v2/stream/{place.plan.posted}?since={since_ms}")

    def read(self, document: dict[str, Any]) -> None:
        due, text = self._place.due, document["test"]
        self._place.check(text in due, f"read twice, or not accepted: {text}")
        due.discard(text)


async def posting(place: Place) -> None:
    """Post events alone, in a list, and beside invalid ones. Accepted events must be read later."""
    good = [_event(place) for _ in range(place.chance.randrange(2, 12))]
    bad = [{**_event(place), "test": 7}, {"$schema": "/no/such/1.0.0"}, "no event"]
    await _post(place, 201, good[0], good[:1])
    await _post(place, 201, good[1:], good[1:])
    await _post(place, 400, bad, [])
    one = _event(place)
    await _post(place, 207, [bad[0], one, *bad], [one])


async def posting_rubbish(place: Place) -> None:
    for content in (b"", b"{", b"[" * 5000, b"\xff\xfe", b"null"):
        answer = await place.http.post("/v1/events", content=content, headers=_JSON)
        place.expect(answer, 400)
    answer = await place.http.post("/v1/events", content=b"x", headers={"Content-Type": "a/b"})
    place.expect(answer, 415)


def _event(place: Place) -> dict[str, Any]:
    text = str(uuid.UUID(int=place.chance.getrandbits(128)))
    return {"$schema": "/test/event/1.0.0", "meta": {"stream": place.plan.posted}, "test": text}


async def _post(place: Place, status: int, body: Any, taken: list[dict[str, Any]]) -> None:
    """Post a body. `taken` are the events of `body` that must be accepted."""
    place.due |= {event["test"] for event in taken}
    content = gzip.compress(orjson.dumps(body))
    headers = {**_JSON, "Content-Encoding": "gzip"}
    place.expect(await place.http.post("/v1/events", content=content, headers=headers), status)
    place.done["event posted"] += len(taken)


# Operators.


async def closing(place: Place) -> None:
    """Find a stream by its name as an operator and close it. Its client sees a proper end."""
    operator = {"Authorization": f"Bearer {place.plan.admin_key}"}
    name = str(place.chance.getrandbits(64))
    place.expect(await place.get(_CLIENTS), 401)
    target = f"/v2/stream/{place.plan.stream}"
    async with place.reading(target, {"User-Agent": name}) as answer:
        listed = await place.get(f"{_CLIENTS}?sort=bytes&limit=10000", operator)
        place.expect(listed, 200)
        ids = [each["id"] for each in listed.json()["clients"] if each["user_agent"] == name]
        place.check(len(ids) == 1, f"listed {len(ids)} times")
        for id_ in ids:
            place.expect(await place.http.delete(f"{_CLIENTS}/{id_}", headers=operator), 204)
            async for _ in events_of(answer):
                pass
            place.expect(await place.http.delete(f"{_CLIENTS}/{id_}", headers=operator), 404)


async def declaring(place: Place) -> None:
    """Declare another stream, use it and remove it. Mistakes in the catalogue change nothing."""
    before = await asyncio.to_thread(place.catalogue.read_bytes)
    document: dict[str, Any] = orjson.loads(before)
    name = f"extra.{place.chance.randrange(3)}"
    document[name] = {"topics": document[place.plan.stream]["topics"]}
    try:
        await _declare(place, orjson.dumps(document))
        await _until(place, f"/v2/stream/{name}", 200)
        await _declare(place, b"{")
        await place.pause(0.5)
        place.expect(await place.http.head(f"/v2/stream/{name}", headers=place.address()), 200)
    finally:
        await _declare(place, before)
    await _until(place, f"/v2/stream/{name}", 400)


async def _declare(place: Place, content: bytes) -> None:
    """Replace the catalogue atomically."""
    beside = place.catalogue.with_suffix(".new")
    await asyncio.to_thread(beside.write_bytes, content)
    beside.replace(place.catalogue)
    os.kill(place.plan.pid, signal.SIGHUP)


async def _until(place: Place, target: str, status: int) -> None:
    """Wait for something that happens asynchronously in the gateway."""
    async with asyncio.timeout(PATIENCE_S):
        while (await place.http.head(target, headers=place.address())).status_code != status:
            await asyncio.sleep(0.1)


async def scraping(place: Place) -> None:
    answer = await place.http.get(f"http://127.0.0.1:{place.plan.metrics_port}/metrics")
    place.expect(answer, 200)
    place.check("eventstreams_clients " in answer.text, "not in the metrics: clients")


async def looking(place: Place) -> None:
    """Request everything that is not a stream."""
    stream = place.plan.stream
    for target in (
        *(
            "/?spec",
            "/v2/ui/",
            "/healthz",
            "/readyz",
            "/v2/streams",
            "/v1/schemas",
            "/v1/stream-configs",
        ),
        f"/v2/explain?streams={stream}&since=-1s",
    ):
        place.expect(await place.get(target), 200)
    async with place.reading("/v2/selftest") as answer:
        place.check(len([1 async for _ in events_of(answer)]) == 10, "not ten of a selftest")


# Clients that send malformed requests.


async def asking_wrongly(place: Place) -> None:
    stream = f"/v2/stream/{place.plan.stream}"
    for target, status in (
        *(("/v2/stream/none", 400), ("/nowhere", 404), (f"{stream}?since=yesterday", 400)),
        *(
            (f"{stream}?filter=event.", 400),
            (f"{stream}?limit=0", 400),
            (f"{stream}?fields=,", 400),
        ),
        (f"{stream}?last-event-id=rubbish", 400),
    ):
        place.expect(await place.get(target), status)


async def sending_rubbish(place: Place) -> None:
    """Send malformed requests. The answers do not matter, if they end and others are served."""
    content = place.chance.choice(_RUBBISH)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.plan.port)
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(1):
            writer.write(content)
            await writer.drain()
            while await reader.read(1 << 16):
                pass
    writer.transport.abort()
    place.expect(await place.get("/healthz"), 200)


_JSON = {"Content-Type": "application/json"}
_CLIENTS = "/v2/admin/clients"
_POST = b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
_RUBBISH = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"GET /v2/stream/x HTTP/1.1\r\nhost: x\r\n",
    b"GET / HTTP/7.7\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 300_000 + b"\r\n\r\n",
    b"\r\n" * 1000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    _POST + b"content-length: -5\r\n\r\n",
    _POST + b"content-length: 100\r\n\r\n{",
    _POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    _POST + b"transfer-encoding: chunked\r\n\r\n5\r\n[1,2,\r\n",
)
VISITORS = {
    **dict.fromkeys((compressed, filtered, with_fields, from_the_past), 6),
    **dict.fromkeys((in_zstd, bounded, in_lines, with_token, with_ticket), 3),
    **dict.fromkeys((posting, looking, asking_wrongly, sending_rubbish, too_many_streams), 2),
    **dict.fromkeys((without_access, posting_rubbish, closing, declaring, scraping, too_often), 1),
}
"""The number of concurrent visitors of each kind."""
