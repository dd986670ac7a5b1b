"""A small correct gateway, in which a test enables one fault.

It keeps two topics in memory, `t.one` with retention and `t.two` without, and serves the streams
`one` and `two`. Each fault is a line or two after `has` with its name.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote
from zlib import Z_SYNC_FLUSH, compressobj

import uvicorn

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Position = dict[str, int]

STREAMS = {"one": "t.one", "two": "t.two"}
OLDEST = {"t.one": 3, "t.two": 0}
T0_MS = 1_790_000_000_000
HEARTBEAT_S = 0.05
SSE = "text/event-stream; charset=utf-8"
JSON = "application/json; charset=utf-8"
_HOLDS_BACK = 4


class Event(NamedTuple):
    topic: str
    offset: int
    at_ms: int
    document: dict[str, Any]
    is_announced: bool = True
    """Whether waiting clients are woken for it."""


class Refused(Exception):
    def __init__(self, status: int, body: Any, content_type: str = JSON) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.content_type = content_type


class Request:
    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: str = scope["raw_path"].decode("latin-1")
        self.headers = {key.decode(): value.decode("latin-1") for key, value in scope["headers"]}
        # Unlike in HTML forms, an unencoded plus is a plus here.
        text = scope["query_string"].decode("latin-1").replace("+", "%2B")
        self.query = dict(parse_qsl(text, keep_blank_values=True))
        self.raw_query: str = scope["query_string"].decode("latin-1")


class Stub:
    """An ASGI application."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.log: list[Event] = []
        self.stopping = False
        self.opened = asyncio.Event()
        """Set once a stream has begun."""
        self._news = asyncio.Event()
        for n in range(OLDEST["t.one"], 9):
            self._append("t.one", {"n": n, "meta": {}}, at_ms=T0_MS + n // 2)
        for n in range(4):
            self._append("t.two", {"n": n, "meta": {}}, at_ms=T0_MS + 10 + n)

    def has(self, fault: str) -> bool:
        return fault == self.fault

    def end_of(self, topic: str) -> int:
        offsets = [event.offset for event in self.log if event.topic == topic]
        return max(offsets, default=OLDEST[topic] - 1) + 1

    def _append(self, topic: str, document: dict[str, Any], at_ms: int, place: int = 0) -> None:
        offset = self.end_of(topic)
        meta = {"stream": topic.removeprefix("t."), **document["meta"]}
        meta.update({"topic": topic, "partition": 0, "offset": offset})
        if self.has("no meta.stream"):
            del meta["stream"]
        announced = not (place and self.has("lost wake-up"))
        self.log.append(Event(topic, offset, at_ms, {**document, "meta": meta}, announced))

    async def post(self, events: list[dict[str, Any]]) -> None:
        for place, event in enumerate(events):
            self._append(f"t.{event['meta']['stream']}", event, int(time.time() * 1000), place)
        self._news.set()
        self._news = asyncio.Event()

    async def stop(self) -> None:
        self.stopping = True
        self._news.set()

    # HTTP

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        try:
            await _while_connected(self._route(request, send), receive)
        except Refused as refused:
            await self._answer(request, send, refused.status, refused.body, refused.content_type)

    async def _route(self, request: Request, send: Send) -> None:
        if request.path == "/_info":
            name = "title" if self.has("no name in /_info") else "name"
            await self._answer(request, send, 200, {name: "stub", "version": "1"})
        elif request.path == "/" and "spec" in request.query:
            names = sorted(STREAMS, reverse=self.has("unsorted names in /?spec"))
            enum = {"schema": {"items": {"enum": names}}}
            paths = {"/v2/stream/{streams}": {"get": {"parameters": [enum]}}}
            await self._answer(request, send, 200, {"paths": paths})
        elif not request.path.startswith("/v2/stream/") or request.path == "/v2/stream/":
            status = 200 if self.has("a page in place of 404") else 404
            raise Refused(status, "Cannot GET", "text/html")
        elif request.method == "OPTIONS":
            await self._answer(request, send, 200, "GET,HEAD", "text/plain")
        elif request.method not in ("GET", "HEAD"):
            raise Refused(200 if self.has("POST is taken") else 404, "Cannot POST", "text/html")
        else:
            await self._stream(request, send)

    def _cors(self, status: int) -> dict[str, str]:
        if self.has("no CORS on streams" if status == 200 else "no CORS on errors"):
            return {}
        allowed = "accept, last-event-id, cache-control, authorization"
        if self.has("no last-event-id in OPTIONS"):
            allowed = "accept"
        headers = {"access-control-allow-origin": "*"}
        return {**headers, "access-control-allow-headers": allowed}

    async def _answer(
        self, request: Request, send: Send, status: int, body: Any, content_type: str = JSON
    ) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        headers = {"content-type": content_type, **self._cors(status)}
        await _start(send, status, {**headers, "content-length": str(len(data))})
        data = b"" if request.method == "HEAD" else data
        await send({"type": "http.response.body", "body": data})

    def _problem(self, request: Request, type_: str, detail: str) -> Refused:
        body = {"status": 400, "type": type_, "title": type_, "detail": detail}
        body |= {"method": request.method, "uri": request.path}
        return Refused(400, body)

    # Requests

    def _topics(self, request: Request) -> list[str]:
        path = request.raw_path if self.has("%2C is no comma") else unquote(request.raw_path)
        names = path.removeprefix("/v2/stream/").split(",")
        unknown = [name for name in names if name not in STREAMS]
        if unknown:
            if self.has("404 for an unknown stream"):
                raise Refused(404, {"error": "not found"})
            if self.has("404 page for an unknown stream"):
                raise Refused(404, "Cannot GET", "text/html")
            raise self._problem(request, "not_found", f"Invalid streams: {','.join(unknown)}")
        return sorted({STREAMS[name] for name in names})

    def _since_ms(self, request: Request) -> int | None:
        text = request.query.get("since")
        if text is None or (text == "" and not self.has("empty since is refused")):
            return None
        if text.isdecimal():
            return 0 if self.has("milliseconds replay everything") else int(text)
        if text.endswith("GMT") and not self.has("only ISO times"):
            return T0_MS
        try:
            if "+" in request.raw_query and self.has("a raw plus is refused"):
                raise ValueError(text)
            at_ms = int(datetime.fromisoformat(text).timestamp() * 1000)
            return 10**15 if self.has("since begins at the newest") else max(0, at_ms)
        except ValueError:
            if self.has("nonsense in since is taken"):
                return None
            raise self._problem(request, "invalid_timestamp", f"since={text}") from None

    def _header(self, request: Request, topics: list[str]) -> list[dict[str, Any]] | None:
        text = request.headers.get("last-event-id")
        if text is None or (text == "" and not self.has("an empty header is refused")):
            return None
        if "since" in request.query and self.has("since wins over the header"):
            return None
        try:
            entries = _of_own_form(text) if self.has("ids are no JSON") else json.loads(text)
            if not isinstance(entries, list) or not entries:
                raise ValueError(text)
            found = [{"topic": e["topic"], "partition": e["partition"], **e} for e in entries]
            if not all("offset" in entry or "timestamp" in entry for entry in found):
                raise ValueError(text)
        except (ValueError, KeyError, TypeError):
            if self.has("a bad id is taken as none"):
                return None
            problem = {"message": text, "origin": "KafkaSSE", "name": "InvalidAssignmentError"}
            raise Refused(400, problem, "text/plain") from None
        if any(entry["topic"] not in topics for entry in found):
            name = "NotAvailable" if self.has("another name of an error") else "TopicNotAvailable"
            problem = {"message": "no", "origin": "KafkaSSE", "name": f"{name}Error"}
            raise Refused(404, {**problem, "availableTopics": topics})
        return found

    def _begin(self, request: Request) -> tuple[Position, list[str]]:
        """Return where the stream begins, and the topics whose gap must be reported."""
        if self.has("since is looked at before the streams"):
            self._since_ms(request)
        topics = self._topics(request)
        since_ms = self._since_ms(request)
        entries = self._header(request, topics)
        if entries is None:
            return {topic: self._at(topic, since_ms) for topic in topics}, []
        position: Position = {}
        gaps: list[str] = []
        for entry in entries:
            topic = entry["topic"]
            at = entry.get("offset")
            if at is None:
                late = self.has("a timestamp begins behind its event")
                at = self._at(topic, entry["timestamp"] + (1 if late else 0))
            elif at < 0 or at > self.end_of(topic):
                gaps += [topic] if at > 0 and not self.has("silence beyond the end") else []
                at = self.end_of(topic)
            elif at < OLDEST[topic]:
                gaps += [] if self.has("silence below the oldest") else [topic]
                at = OLDEST[topic]
            elif self.has("a gap at every resume"):
                gaps.append(topic)
            if "timestamp" not in entry or "offset" in entry:
                at += (self.has("resumes one too late") and 1) or 0
                at -= (self.has("resumes one too early") and 1) or 0
            position[topic] = at
        if self.has("reads what the id leaves out"):
            position |= {t: OLDEST[t] for t in topics if t not in position}
        return position, gaps

    def _at(self, topic: str, since_ms: int | None) -> int:
        later = [e.offset for e in self.log if e.topic == topic and e.at_ms >= (since_ms or 0)]
        return later[0] if since_ms is not None and later else self.end_of(topic)

    # The stream

    async def _stream(self, request: Request, send: Send) -> None:
        accept = request.headers.get("accept", "")
        is_json = accept.startswith("application/json")
        if accept.startswith("text/html") and self.has("406"):
            raise Refused(406, "Not Acceptable", "text/plain")
        if request.query.get("filter") == "((":
            raise self._problem(request, "invalid_filter", "((")
        position, gaps = self._begin(request)
        headers = {"content-type": JSON if is_json else SSE, **self._cors(200)}
        if self.has("no charset") or (not accept and self.has("no charset without Accept")):
            headers["content-type"] = headers["content-type"].partition(";")[0]
        headers["cache-control"] = "private" if self.has("may be cached") else "no-store"
        if not self.has("no Vary"):
            headers["vary"] = "Accept"
        if self.has("a length in place of chunks"):
            headers["content-length"] = str(10**12)
        packer = None
        if request.headers.get("accept-encoding") == "gzip":
            headers["content-encoding"] = "gzip"
            packer = compressobj(wbits=31)
        if request.method == "HEAD":
            if self.has("HEAD hangs"):
                await asyncio.sleep(60)
            await _start(send, 405 if self.has("HEAD is refused") else 200, headers)
            await send({"type": "http.response.body", "body": b""})
            return
        await _start(send, 200, headers)
        self.opened.set()
        client = _Client(self, request, send, position, is_json=is_json, packer=packer)
        await client.run(gaps, resumed=request.headers.get("last-event-id") is not None)

    @property
    def news(self) -> asyncio.Event:
        return self._news


class _Client:
    def __init__(
        self,
        stub: Stub,
        request: Request,
        send: Send,
        position: Position,
        *,
        is_json: bool,
        packer: Any,
    ) -> None:
        self._stub = stub
        self._has = stub.has
        self._since = "since" in request.query
        self._never = "filter" in request.query
        self._checkpoints = request.query.get("heartbeat") == "checkpoint"
        self._send = send
        self._position = position
        self._is_json = is_json
        self._packer = packer
        self._sent = 0
        self._delivered: set[str] = set()

    async def run(self, gaps: list[str], *, resumed: bool) -> None:
        await self._begin(gaps)
        ends = {topic: self._stub.end_of(topic) for topic in self._position}
        if not resumed and not self._since and self._has("begins behind its first byte"):
            await asyncio.sleep(0.3)
            self._position = {topic: self._stub.end_of(topic) for topic in self._position}
        await self._history(resumed)
        grew = [t for t, end in ends.items() if self._stub.end_of(t) > end]
        if resumed and grew and self._has("overlap at the seam"):
            self._position[grew[0]] -= 1
        if resumed and grew and self._has("a hole at the seam"):
            self._position[grew[0]] = self._stub.end_of(grew[0])
        await self._live()
        await self._end()

    async def _begin(self, gaps: list[str]) -> None:
        if self._is_json:
            await self._write(b"" if self._has("no empty line in NDJSON") else b"\n")
            return
        first = b":connected\n\n" if self._has("another first comment") else b":ok\n\n"
        if self._has("byte order mark"):
            first = b"\xef\xbb\xbf" + first
        await self._write(first)
        if gaps:
            data = json.dumps({"partitions": gaps})
            id_ = self._id(gaps[0])
            if self._has("the id of a gap leads into it"):
                id_ = json.dumps([{"topic": gaps[0], "partition": 0, "offset": 1}])
            await self._write(f"event: gap\ndata: {data}\nid: {id_}\n\n".encode())

    async def _history(self, resumed: bool) -> None:
        events = self._due()
        is_fresh = all("id" in event.document["meta"] for event in events)
        if resumed and is_fresh and self._has("skips what was posted while away"):
            self._position = {topic: self._stub.end_of(topic) for topic in self._position}
            events = []
        same = len({event.topic for event in events[:2]}) == 1
        swaps = self._has("order swapped across a cut") if resumed else self._has("order swapped")
        if len(events) > 1 and same and swaps:
            events[0], events[1] = events[1], events[0]
        for event in events:
            await asyncio.sleep(0.002)  # so that events can arrive meanwhile
            await self._deliver(event)
            self._position[event.topic] = max(self._position[event.topic], event.offset + 1)

    def _due(self) -> list[Event]:
        at = self._position
        return [e for e in self._stub.log if e.topic in at and e.offset >= at[e.topic]]

    async def _live(self) -> None:
        while not self._stub.stopping:
            news = self._stub.news
            events = self._due()
            while events and not events[-1].is_announced:
                events.pop()
            if self._has("holds events back") and not self._is_json and len(events) < _HOLDS_BACK:
                events = []
            for event in events:
                await self._deliver(event)
            if events:
                continue
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await news.wait()
            except TimeoutError:
                await self._beat()

    async def _beat(self) -> None:
        if self._checkpoints:
            await self._write(f"id: {self._id(next(iter(self._position)))}\n\n".encode())
        elif not self._is_json and not self._has("no heartbeat"):
            end = b"\n\n" if self._has("a heartbeat that ends an event") else b"\n"
            await self._write(b":" + end)

    async def _deliver(self, event: Event) -> None:
        if self._never:
            if not self._has("the filter comes before the position"):
                self._position[event.topic] = event.offset + 1
            else:
                await asyncio.sleep(HEARTBEAT_S)
                await self._beat()
            return
        self._position[event.topic] = event.offset + 1
        self._delivered.add(event.topic)
        self._sent += 1
        text = json.dumps(event.document, ensure_ascii=not self._has("raw line separators"))
        if self._is_json:
            await self._write(text.encode() + b"\n")
            return
        end = "\r\n" if self._has("CRLF") else "\n"
        frame = "".join(line + end for line in [*self._lines(event, text), ""]).encode()
        if self._has("a line torn over two chunks"):
            await self._write(frame[:20])
            await asyncio.sleep(0.01)
            frame = frame[20:]
        await self._write(frame)

    def _lines(self, event: Event, text: str) -> list[str]:
        data = f"data: {text}"
        if self._has("data of several lines"):
            data = data.replace(', "meta"', ',\ndata: "meta"')
        if self._has("no space behind the colon"):
            data = data.replace("data: ", "data:")
        if self._has("data is no JSON") and "n" in event.document:
            data = data.replace('"', "'")
        lines = ["event: message", data, f"id: {self._id(event.topic)}"]
        if self._has("no event name"):
            lines = lines[1:]
        if self._has("the id before the data"):
            lines = [lines[0], lines[2], lines[1]]
        if self._has("an event without an id") and self._sent % 2:
            lines.pop()
        if self._has("a comment within an event"):
            lines.insert(1, ":")
        if self._has("a carriage return in an id"):
            lines[-1] += "\r: "
        return lines

    def _id(self, own: str) -> str:
        entries: list[dict[str, Any]] = []
        for topic, at in self._position.items():
            entry: dict[str, Any] = {"topic": topic, "partition": 0, "offset": at}
            before = [e.at_ms for e in self._stub.log if e.topic == topic and e.offset == at - 1]
            entry["timestamp"] = before[0] if before else 0
            if topic not in self._delivered and self._has("-1 for a quiet partition"):
                entry["offset"] = -1
            if topic == own and self._has("the offset of the event itself"):
                entry["offset"] -= 1
            if topic != own and self._sent % 2 and self._has("ids that go back"):
                entry["offset"] = max(0, at - 1)
            if self._has("timestamps in place of offsets") and topic == own:
                del entry["offset"]
                entry["timestamp"] += 1
            if self._has("an id that is not ASCII"):
                entry["caf\u00e9"] = 1
            if self._has("an id that is too long"):
                entry["pad"] = "x" * 8000
            if topic == own or not self._has("only its own partition in an id"):
                entries.append(entry)
        if self._has("ids are no JSON"):
            return ";".join(f"{entry['topic']}:{entry['offset']}" for entry in entries)
        return json.dumps(entries, separators=(",", ":"), ensure_ascii=False)

    async def _end(self) -> None:
        if self._has("a stop that tears streams"):
            raise ConnectionAbortedError
        if not self._is_json and self._has("a stop within an event"):
            await self._write(b'event: message\ndata: {"n"\nretry: 1000\n')
        elif not self._is_json and not self._has("no retry at a stop"):
            end = b"\n\n" if self._has("retry as an event") else b"\n"
            await self._write(b"retry: 1000" + end)
        await self._send({"type": "http.response.body", "body": b""})

    async def _write(self, data: bytes) -> None:
        if self._packer is not None:
            data = self._packer.compress(data)
            if not self._has("gzip is not flushed"):
                data += self._packer.flush(Z_SYNC_FLUSH)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


async def _while_connected(answering: Coroutine[Any, Any, None], receive: Receive) -> None:
    async def hang_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(answering), asyncio.create_task(hang_up())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    if not tasks[0].cancelled():
        tasks[0].result()


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})


def _of_own_form(text: str) -> list[dict[str, Any]]:
    if text.startswith("["):
        return list(json.loads(text))
    pairs = [part.split(":") for part in text.split(";")]
    return [{"topic": topic, "partition": 0, "offset": int(at)} for topic, at in pairs]


class _Server(uvicorn.Server):
    def capture_signals(self) -> Any:
        """Leave signals to the test runner."""
        return nullcontext()


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """Serve an application on loopback and yield its port."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(100)
    config = uvicorn.Config(app, lifespan="off", log_level="critical", http="h11")
    server = _Server(config)
    task = asyncio.create_task(server.serve([sock]))
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task
        sock.close()
