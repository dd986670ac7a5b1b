"""Line ends, NUL and markup in every field that reaches a frame, a header, a page or a log line.

What comes is decoded by our own reader, by a second parser written from the standard, and shown by
a real browser: exactly the frames that were meant, and text that stays text.
"""

from __future__ import annotations

import asyncio
import html
import json
import tempfile
from typing import Any
from urllib.parse import quote

import pytest

from eventstreams.model.sse_reader import SseReader
from tests.hostile.raw import Answer, answers, exchange
from tests.hostile.sent import EXPLAIN, STREAM, get, head
from tests.hostile.target import ADMIN_KEY, Target
from tests.intake.place import TEST
from tests.programs import BROWSER, running
from tests.web.client import PATIENCE_S
from tests.wire import Frame

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
    """As the standard reads a stream: LF, CR and CRLF end a line, NUL in an id voids it."""
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
    """As our reader reads it after a client has split the text with `str.splitlines`, which takes
    many more characters for line ends."""
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
    """The events of a stream from the start, the same for every decoder."""
    asks = query(since="earliest", limit=str(count), max_seconds="5", **parameters)
    answer = await asked(on, get(STREAM + b"?" + asks, *lines))
    assert answer.status == 200, answer.body
    found = spec_frames(answer.body)
    assert careless_frames(answer.body) == found
    assert b"\r" not in answer.body
    return found


async def test_no_event_makes_more_frames_than_one(everything: Target) -> None:
    await everything.produce(*EVENTS)
    for parameters in ({}, {"fields": "n,test"}, {"filter": "event.n >= 0"}):
        frames = await read(everything, len(EVENTS), **parameters)
        assert [frame.event for frame in frames] == ["message"] * len(EVENTS)
        assert [json.loads(frame.data)["test"] for frame in frames] == TRICKS
        for frame in frames:
            assert frame.id
            assert "evil" not in frame.id


async def test_no_event_makes_more_lines_than_one(everything: Target) -> None:
    await everything.produce(*EVENTS)
    asks = query(since="earliest", limit=str(len(EVENTS)), max_seconds="5")
    answer = await asked(everything, get(STREAM + b"?" + asks, b"Accept: application/json"))
    lines = [line for line in answer.body.split(b"\n") if line]
    assert [json.loads(line)["test"] for line in lines] == TRICKS
    assert len(answer.body.decode().splitlines()) == len(TRICKS) + 1


@pytest.mark.parametrize("trick", TRICKS)
async def test_what_a_request_says_comes_back_as_text_alone(everything: Target, trick: str) -> None:
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


async def test_who_a_client_says_it_is_stands_as_text_where_operators_look(
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


async def test_a_page_that_is_not_there_holds_no_markup_of_its_address(
    everything: Target,
) -> None:
    for path in (b"/<img src=x>", b"/%3Cimg%20src=x%3E", b"/%22%3E%3Cscript%3E", b"/'onload='x"):
        answer = await asked(everything, get(path.replace(b" ", b"+")))
        assert answer.status == 404
        page = answer.body.decode().partition("<pre>")[2].partition("</pre>")[0]
        assert not set("<>\"'") & set(page)


@pytest.mark.parametrize("trick", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "\x7f"])
async def test_an_id_of_a_client_gets_into_no_line_of_ours(everything: Target, trick: str) -> None:
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
    await everything.followed()  # both answers name the end that the gateway knows
    mark = quote(json.dumps([{"topic": TEST, "partition": 0, "offset": 99}]), safe="")
    asked_for = STREAM + f"?lastEventId={mark}&max_seconds=0.01".encode()
    answer = await asked(everything, get(asked_for))
    gap, *others = spec_frames(answer.body)
    assert gap.event == "gap"
    assert all(frame.event == "message" for frame in others)
    assert careless_frames(answer.body) == [gap, *others]
    answer = await asked(everything, get(asked_for, b"Accept: application/json"))
    assert json.loads(answer.get(b"x-eventstreams-gap") or b"") == json.loads(gap.data)


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
async def test_no_head_grows_with_what_the_client_sends(everything: Target, path: bytes) -> None:
    """A proxy answers 502 in the place of a long head."""
    sent = get(
        path % (b"a%3d" * 10_000), b"Accept: application/json", b"X-Request-Id: " + b"b" * 9000
    )
    data = await exchange(everything.port, sent)
    assert len(data.partition(b"\r\n\r\n")[0]) < 2048


async def close_when_it_has(on: Target, count: int) -> None:
    """The one stream there is, as an operator does it: a page does not come back soon."""
    key = b"Authorization: Bearer " + ADMIN_KEY.encode()
    while True:
        answer = await asked(on, get(b"/v2/admin/clients", key))
        [client] = json.loads(answer.body)["clients"]
        if client["events"] >= count:
            path = f"/v2/admin/clients/{client['id']}".encode()
            assert (await asked(on, get(path, key, method=b"DELETE"))).status == 204
            return


async def test_in_the_page_of_live_events_markup_is_text(everything: Target) -> None:
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

    page = f"http://127.0.0.1:{everything.port}/v2/ui/#?streams={TEST}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        once_idle = "--virtual-time-budget=2000", "--dump-dom"
        command = *BROWSER, f"--user-data-dir={profile}", *once_idle, page
        async with asyncio.timeout(PATIENCE_S), running(*command) as browser:
            await everything.served.until("clients", 1)
            await everything.produce(*events)
            await close_when_it_has(everything, len(events))  # else the browser is never idle
            assert browser.stdout is not None
            shown = (await browser.stdout.read()).decode()
    assert "<title>evil" not in shown
    listed = shown.partition('id="events"')[2]
    assert listed.count("<li>") >= len(events)
    assert not [tag for tag in ("<img", "<svg", "<script") if tag in listed.partition("</ol>")[0]]
    text = html.unescape(listed)
    assert all(json.dumps(attack)[1:-1] in text for attack in attacks)
