"""Line ends, NUL and markup in every field that reaches a frame, a header, a page or a log line.

Our own reader, a second parser that follows the standard, and a real browser decode the streams:
they contain exactly the intended frames, and text remains text.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from playwright.async_api import expect

from eventstreams.model.sse import SseReader
from tests.hostile.raw import Answer, answers, exchange
from tests.hostile.sent import EXPLAIN, STREAM, get, head
from tests.support.client import connected
from tests.support.intake import TEST
from tests.support.page import chromium
from tests.support.target import ADMIN_KEY, Target
from tests.support.wire import Frame

pytestmark = pytest.mark.anyio

TRICKS = [
    *("\r", "\n", "\r\n", "\n\n", "\r\r", "\0", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x7f"),
    *("\x85", "\u2028", "\u2029", "\ufeff", "\u202e", "\ud7ff"),
    "a\n\ndata: evil\n\n",
    "a\r\rdata: evil\r\r",
    "a\nevent: error\ndata: evil\nid: evil\n\n",
    "a\nid: evil\n",
    "a\nid\n",
    "a\nretry: 1\n",
    "\n:evil\n",
    "data: evil",
    "a\r\nX-Evil: 1\r\n\r\nevil",
    "</script><img src=x onerror=evil()>",
]
EVENTS = [{"n": n, "test": trick, trick: {"in": [trick]}} for n, trick in enumerate(TRICKS)]


def spec_frames(body: bytes) -> list[Frame]:
    """Parse a stream by the standard: LF, CR and CRLF end lines, and NUL makes an id invalid."""
    text = body.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found: list[Frame] = []
    event, data, last_id = "", [], None
    for line in text.split("\n"):
        if not line:
            if data:
                found.append(Frame(event or "message", "\n".join(data), last_id))
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            last_id = value
    return found


def careless_frames(body: bytes) -> list[Frame]:
    """Parse with our reader after `str.splitlines`, which splits at many more characters."""
    lines = "".join(line + "\n" for line in body.decode().splitlines())
    return [
        Frame(event.event, event.data, event.id or None)
        for event in SseReader().feed(lines.encode())
    ]


async def asked(on: Target, request: bytes) -> Answer:
    data = await exchange(on.port, request)
    [answer] = answers(data, head=request.startswith(b"HEAD"))
    assert answer.get(b"x-evil") is None
    return answer


def query(**parameters: str) -> bytes:
    return "&".join(
        f"{name}={quote(value, safe='')}" for name, value in parameters.items()
    ).encode()


async def read(on: Target, count: int, *lines: bytes, **parameters: str) -> list[Frame]:
    """Return the events of a stream from the start, which must be the same for every decoder."""
    asks = query(since="earliest", limit=str(count), **parameters)
    answer = await asked(on, get(STREAM + b"?" + asks, *lines))
    assert answer.status == 200, answer.body
    found = spec_frames(answer.body)
    assert careless_frames(answer.body) == found
    assert b"\r" not in answer.body
    return found


async def test_an_event_is_always_one_frame(everything: Target) -> None:
    await everything.produce(*EVENTS)
    for parameters in ({}, {"fields": "n,test"}, {"filter": "event.n >= 0"}):
        frames = await read(everything, len(EVENTS), **parameters)
        assert [frame.event for frame in frames] == ["message"] * len(EVENTS)
        assert [json.loads(frame.data)["test"] for frame in frames] == TRICKS
        for frame in frames:
            assert frame.id
            assert "evil" not in frame.id


async def test_an_event_is_always_one_line(everything: Target) -> None:
    await everything.produce(*EVENTS)
    asks = query(since="earliest", limit=str(len(EVENTS)))
    answer = await asked(everything, get(STREAM + b"?" + asks, b"Accept: application/json"))
    lines = [line for line in answer.body.split(b"\n") if line]
    assert [json.loads(line)["test"] for line in lines] == TRICKS
    assert len(answer.body.decode().splitlines()) == len(TRICKS) + 1


@pytest.mark.parametrize("trick", TRICKS)
async def test_request_text_is_returned_only_as_text(everything: Target, trick: str) -> None:
    everything.lines.clear()
    browser = b"Accept: text/event-stream", b"Sec-Fetch-Site: cross-site"
    marks = [
        json.dumps([{"topic": trick, "partition": 0, "offset": 0}]),
        json.dumps([{"topic": TEST, "partition": 0, "offset": trick}]),
        json.dumps(trick),
        trick,
    ]
    requests = [get(b"/v2/stream/" + quote(trick, safe="").encode())]
    requests += [
        get(STREAM + b"?" + query(**{name: trick}))
        for name in ("since", "until", "filter", "fields", "sample", "heartbeat", "gap", "compress")
        if not (name == "since" and not trick.strip())
    ]
    requests += [get(STREAM + b"?" + query(lastEventId=mark)) for mark in marks if mark.strip()]
    for request in requests:
        finite = request.replace(b" HTTP/1.1\r\n", b"&max_seconds=0.01 HTTP/1.1\r\n", 1)
        finite = finite if b"?" in finite.partition(b"\r\n")[0] else request
        for lines in ((), browser):
            sent = finite[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
            answer = await asked(everything, sent)
            if answer.status == 200:
                assert spec_frames(answer.body) == careless_frames(answer.body) == []
            elif answer.body:
                assert answer.status in (400, 404), sent
                assert len(answer.body.splitlines()) == 1
                json.loads(answer.body)
            said = answer.get(b"x-eventstreams-error") or b""
            assert said.isascii()
    await everything.is_unharmed()


async def test_a_filter_is_shown_as_text(everything: Target) -> None:
    for trick in TRICKS:
        text = f"event.test == {json.dumps(trick)}"
        answer = await asked(everything, get(EXPLAIN + query(filter=text)))
        assert answer.status in (200, 400)
        json.loads(answer.body)
        assert answer.get(b"content-type") == b"application/json; charset=utf-8"


async def test_client_names_are_text_for_operators(
    everything: Target,
) -> None:
    agents = [b"\xff\xfe", "\u2028\x85\u202e".encode(), b'"}\\r\\n{"level":"error"', b"<img src=x>"]
    for agent in agents:
        async with everything.served.stream(TEST) as stream:
            await stream.opened()
            raw = get(STREAM, b"User-Agent: " + agent)
            reader, writer = await asyncio.open_connection("127.0.0.1", everything.port)
            writer.write(raw)
            await reader.readuntil(b":ok\n\n")
            key = b"Authorization: Bearer " + ADMIN_KEY.encode()
            answer = await asked(everything, get(b"/v2/admin/clients", key))
            said = [client["user_agent"] for client in json.loads(answer.body)["clients"]]
            assert agent.decode("utf-8", "replace") in said
            assert answer.get(b"content-type") == b"application/json"
            writer.transport.abort()
    await everything.is_unharmed()


async def test_the_404_page_contains_no_markup_of_its_url(
    everything: Target,
) -> None:
    for path in (b"/<img src=x>", b"/%3Cimg%20src=x%3E", b"/%22%3E%3Cscript%3E", b"/'onload='x"):
        answer = await asked(everything, get(path.replace(b" ", b"+")))
        assert answer.status == 404
        page = answer.body.decode().partition("<pre>")[2].partition("</pre>")[0]
        assert not set("<>\"'") & set(page)


@pytest.mark.parametrize("trick", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "\x7f"])
async def test_client_ids_never_appear_in_our_lines(everything: Target, trick: str) -> None:
    await everything.produce({"n": 1})
    bounds = ["u1~", "!", "v1."]
    for prefix in ("", *bounds):
        mark = quote(prefix + json.dumps([{"topic": trick, "partition": 0, "offset": 9}]), safe="")
        for request in (head, get):
            sent = request(STREAM + f"?lastEventId={mark}&max_seconds=0.01".encode())
            answer = await asked(everything, sent)
            assert answer.status in (400, 404)


async def test_a_gap_is_one_frame_or_one_header(everything: Target) -> None:
    await everything.produce({"n": 1})
    await everything.followed()  # both responses contain the end that the gateway knows
    mark = quote(json.dumps([{"topic": TEST, "partition": 0, "offset": 99}]), safe="")
    asked_for = STREAM + f"?lastEventId={mark}".encode()
    async with connected(everything.port) as client:
        client.writer.write(get(asked_for))
        assert (await client.head()).status == 200
        body = b""
        while not spec_frames(body):
            body += await client.chunk() or b""
    gap, *others = spec_frames(body)
    assert gap.event == "gap"
    assert all(frame.event == "message" for frame in others)
    assert careless_frames(body) == [gap, *others]
    async with connected(everything.port) as client:
        client.writer.write(get(asked_for, b"Accept: application/json"))
        reported = (await client.head()).get("x-eventstreams-gap")
    assert json.loads(reported or "") == json.loads(gap.data)


@pytest.mark.parametrize(
    "path",
    [
        b"/v2/stream/%b",
        STREAM + b"?filter=%b",
        STREAM + b"?fields=%b",
        STREAM + b"?since=%b",
        STREAM + b"?lastEventId=%b",
        b"/v2/explain?stream=%b",
        b"/v2/cursor?id=%b",
        b"/v2/ui?%b",
        b"/v2/ui/%b",
        b"/_info/%b",
        b"/?spec&%b",
        b"/%b",
    ],
)
async def test_response_heads_are_bounded(everything: Target, path: bytes) -> None:
    """A proxy responds with 502 if a head is too long."""
    sent = get(
        path % (b"a%3d" * 10_000), b"Accept: application/json", b"X-Request-Id: " + b"b" * 9000
    )
    data = await exchange(everything.port, sent)
    assert len(data.partition(b"\r\n\r\n")[0]) < 2048


async def test_the_live_page_shows_markup_as_text(everything: Target) -> None:
    attacks = [
        "<img src=x onerror=\"document.title='evil'\">",
        "</script><script>document.title='evil'</script>",
        "</pre><svg onload=\"document.title='evil'\">",
        "{{constructor.constructor('document.title=1')()}}",
        "javascript:document.title='evil'",
    ]
    events: list[Any] = [
        {
            "title": text,
            "wiki": text,
            "type": text,
            text: text,
            "meta": {"dt": text, "domain": text, "id": text},
        }
        for text in attacks
    ]
    events += [{"title": {"toString": 1}, "meta": {"dt": 5, "id": [attacks[0]]}}, {"meta": None}]

    await everything.produce(*events)
    async with chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{everything.port}/v2/ui/#?streams={TEST}")
        toggles = page.locator(".canvas > .row:not([hidden]) .toggle")
        await expect(toggles).to_have_count(len(events))
        seen = ""
        for number in range(len(events), 0, -1):  # rows above an open one may leave the document
            toggle = toggles.and_(page.get_by_label(f"Event {number},"))
            await toggle.click()
            await expect(toggle).to_have_attribute("aria-expanded", "true")
            seen += await page.locator(".detail .json").inner_text()
            await toggle.click()
        assert await page.locator("main :is(img, script, iframe, [onload], [onerror])").count() == 0
        assert await page.locator("#events :is(a, svg)").count() == 0
        assert await page.title() == f"{TEST} · eventstreams"
    assert all(json.dumps(attack)[1:-1] in seen for attack in attacks)
