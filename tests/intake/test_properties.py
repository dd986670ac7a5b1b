"""Every posted event is in the log or reported as rejected, and no input causes an internal error.

Another JSON parser reads the posted body; the result is compared with the log and the response.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.model.event import Event, Partition
from tests.support.client import Answer, Client, connected
from tests.support.intake import ERRORS, STREAMS, TEST, Place, event, place
from tests.support.strategies import documents, texts

pytestmark = pytest.mark.anyio

MOST = {"body_bytes_max": 30_000, "event_bytes_max": 6_000, "events_max": 12, "depth_max": 24}
TOPICS = [n for n in STREAMS if n[0] != "/" and n != "test.prefixed"]
TOPICS += ["test.regex.a", "eqiad.test.prefixed"]
USER_AGENT, REQUEST_ID, CLIENT_IP = "properties", "r-1", "192.0.2.1"
EXPONENT_FROM = 1e21
EXACT, BEYOND_A_DOUBLE = 2**53, 2**1024 - 2**970
HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
DIGITS_MAX = 4000  # Python's own parser takes a few more


EVENT, HTTP, LEGACY = "/test/event/1.0.0", "/test/http/1.0.0", "/analytics/legacy/thing/1.0.0"
HOMES = {
    EVENT: [TEST, "test.regex.a", "test.prefixed", "test.keyed"],
    HTTP: ["test.http"],
    "/test/numbers/1.0.0": ["test.numbers"],
    "/test/draft4/1.0.0": ["test.draft4"],
    LEGACY: ["eventlogging_Legacy"],
}
FILLED = {
    "meta.id": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    **dict.fromkeys(("meta.dt", "dt"), r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
    "meta.request_id": REQUEST_ID,
    "test": "default value",
    "http.client_ip": CLIENT_IP,
    "http.request_headers.user-agent": USER_AGENT,
}
homes = st.sampled_from([(uri, stream) for uri, names in HOMES.items() for stream in names])
uris = documents | st.sampled_from(
    [
        *(*HOMES, "/error/2.1.0", "/test/event/1.0.1", "/test/event/latest", "", "//"),
        *("/../event/1.0.0", "file:///etc/passwd", "http://127.0.0.1:1/test/event/1.0.0"),
        "/a" * 300 + "/1.0.0",
    ]
)
streams = documents | st.sampled_from(
    [*TOPICS, "nowhere", "", "test.regex.", "test.regex.b/c", "test.regex.\n", "../up", "é"]
).filter(lambda name: name != ERRORS)
numbers = st.integers().map(str) | st.sampled_from(
    [
        *("0", "-0", "1E5", "0.1", "1e22", "1e400", "-1e999", "1e-400", "9007199254740993"),
        *("12345678901234567890", "9" * 400, "-" + "9" * 309, "1" * DIGITS_MAX, "1" * 5000),
    ]
)
days = ["2020-02-29", "2021-02-29", "2021-19-39", "0000-01-01", "0001-01-01", "9999-12-31"]
times = st.tuples(st.sampled_from(days), st.sampled_from(["", "T0", "T00:00:00.5Z"])).map("".join)
A_NUMBER, SOMETHING_DEEP = "the place of a number", "the place of something deep"
values = st.none() | st.booleans() | texts | st.just(A_NUMBER) | st.just(SOMETHING_DEEP) | documents
names = texts | st.sampled_from(["test", "test_map", "http", "count"])


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """Valid events, and events with one or two errors."""
    uri, stream = draw(homes)
    meta: dict[str, Any] = {"stream": stream, "id": str(draw(st.uuids()))}
    event: dict[str, Any] = {"$schema": uri, "meta": meta}
    if uri == EVENT:
        event["test_map"] = {"page": "7", **draw(st.dictionaries(texts, texts, max_size=2))}
        event["test"] = draw(texts)
    elif "numbers" in uri:
        event["any"], event["number"] = draw(values), A_NUMBER
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        match draw(st.integers(0, 8)):
            case 0:
                event["$schema"] = draw(uris)
            case 1:
                meta["stream"] = draw(streams)
            case 2:
                event["meta"] = draw(documents)
            case 3:
                event.pop(draw(st.sampled_from(list(event))))
            case 4:
                meta["dt"] = draw(times)
            case 5:
                event["dt"] = draw(times | values)
            case 6:
                meta.pop("id", None)
            case 7:
                event[draw(names)] = draw(values)
            case _:
                event["long"] = "x" * draw(st.integers(4_000, 8_000))
    return event


@st.composite
def elements(draw: st.DrawFn) -> bytes:
    """The JSON of an event: with or without escapes, with duplicate keys or long numbers."""
    escaped = draw(st.booleans())
    text = json.dumps(draw(events() | events() | events() | documents), ensure_ascii=escaped)
    text = text.replace(f'"{A_NUMBER}"', draw(numbers))
    depth = draw(st.integers(0, 200))
    text = text.replace(f'"{SOMETHING_DEEP}"', '[{"a":' * depth + "[]" + "}]" * depth)
    if text.endswith('"}') and draw(st.integers(0, 9)) == 0:
        text = text[:-1] + ', "test": "again"}'
    return text.encode("utf-8", "surrogatepass")


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    some = draw(st.lists(elements(), min_size=1, max_size=5))
    for _ in range(draw(st.integers(0, 2))):
        some.insert(draw(st.integers(0, len(some))), draw(st.sampled_from(some)))
    comma = draw(st.sampled_from([b",", b" ,\n", b",\t\r "]))
    body = comma.join(some * draw(st.sampled_from([1, 1, 3])))
    body = body if draw(st.integers(0, len(some) * 2)) == 0 else b"[" + body + b"]"
    at = draw(st.integers(0, len(body)))
    match draw(st.integers(0, 20)):
        case 0:
            return body[:at]
        case 1:
            noise = st.binary(max_size=3) | st.sampled_from([b"\xff", b"\0", b"\\", b'"'])
            return body[:at] + draw(noise) + body[at + draw(st.integers(0, 1)) :]
        case 2:
            return draw(st.sampled_from([b"\xef\xbb\xbf", b" \n", b"\0"])) + body + b" "
        case _:
            return body


anything = st.binary(max_size=60) | documents.map(lambda d: json.dumps(d).encode())
anything |= st.integers(1, 20_000).map(lambda n: b"[" * n)


class Request(NamedTuple):
    body: bytes
    coding: str
    query: str
    chunked: bool

    def bytes(self) -> bytes:
        sent = gzip.compress(self.body) if self.coding else self.body
        sent = sent[:-1] if self.coding == "cut" else sent
        lines = [
            *(f"POST /v1/events{self.query} HTTP/1.1", "host: h", "content-type: text/plain"),
            *(f"user-agent: {USER_AGENT}", f"x-request-id: {REQUEST_ID}"),
            f"x-client-ip: {CLIENT_IP}",
        ]
        lines += ["content-encoding: gzip"] if self.coding else []
        if self.chunked:
            sent = (b"%x\r\n%b\r\n" % (len(sent), sent) if sent else b"") + b"0\r\n\r\n"
        length = "transfer-encoding: chunked" if self.chunked else f"content-length: {len(sent)}"
        return "\r\n".join([*lines, length, "", ""]).encode() + sent


HASTY = {"strict": {"?hasty=true"}, "eventgate": {"?hasty=true", "?hasty=0"}}
queries = st.sampled_from(["", "", "", "?hasty=true", "?hasty=0", "?hasty="])
codings = st.sampled_from([*[""] * 5, *["gzip"] * 4, "cut"])


def whole(digits: str) -> Any:
    return int(digits) if len(digits) <= DIGITS_MAX else Decimal(digits)


def read(text: str) -> Any:
    return json.loads(text, parse_int=whole, parse_constant=UUID)  # which refuses NaN


def posted(request: Request, mode: str) -> list[Any]:
    """Parse a body. Raises ValueError or RecursionError if it is invalid as a whole."""
    text = request.body.decode(errors="strict" if mode == "strict" else "replace")
    document = read(text.removeprefix("\ufeff"))
    if not isinstance(document, dict | list) or request.coding == "cut":
        raise ValueError
    events = document if isinstance(document, list) else [document]
    if len(events) > MOST["events_max"] or len(request.body) > MOST["body_bytes_max"]:
        raise ValueError
    return events


def rounded(value: Any) -> Any:
    """Round a number as JavaScript does."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, int | Decimal) and abs(value) >= EXACT:
        return float(value) if abs(value) < BEYOND_A_DOUBLE else None
    return value


def unfractioned(value: Any) -> Any:
    """Return whole numbers as integers, as they are written."""
    if isinstance(value, dict):
        return {key: unfractioned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [unfractioned(item) for item in value]
    if isinstance(value, float | Decimal):
        number = float(value)
        is_whole = number.is_integer() and abs(number) < EXPONENT_FROM
        return int(Decimal(repr(number))) if is_whole else value
    return value


def added(before: Any, after: Any, path: str = "") -> set[str]:
    """Return the fields that only the second has; all others must be equal and in order."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        equal = json.dumps(before, default=str) == json.dumps(after, default=str)
        return set() if equal else {f"{path} is another"}
    if [key for key in after if key in before] != list(before):
        return {f"{path} has other keys"}
    found: set[str] = set()
    for key, value in after.items():
        if key in before:
            found |= added(before[key], value, f"{path}{key}.")
        elif isinstance(value, dict):
            found |= added({}, value, f"{path}{key}.")
        else:
            found.add(path + key)
    return found


@dataclass
class Trial:
    """A server, a connection, and the offset up to which its log was examined."""

    here: Place
    mode: str
    client: Client
    nexts: dict[Partition, int]

    async def post(self, request: Request) -> Answer:
        self.client.writer.write(request.bytes())
        head = await self.client.head()
        assert head.get("connection") != "close"
        return Answer(head, await self.client.body(head))

    async def growth(self) -> dict[str, list[Event]]:
        """Return the records added since the last call, after all promised work is done."""
        intake: Any = self.here.parts.intake
        await intake.promises.kept()
        assert intake.admission.bytes == 0
        found: dict[str, list[Event]] = {}
        for (partition,) in (await self.here.log.partitions(TOPICS)).values():
            slice_ = await self.here.log.read(partition, self.nexts[partition], 2**30)
            self.nexts[partition] = slice_.next
            found[partition.topic] = list(slice_.events)
        return found

    def account(self, answer: Answer, events: list[Any], grown: dict[str, list[Event]]) -> None:
        """Check that each event is either in the log or in the response, and nothing else is."""
        hasty, reported = answer.status == 202, {"invalid": [], "error": []}
        assert bool(answer.body) == (answer.status in (207, 400, 500))
        reported |= read(answer.body.decode() or "{}")
        assert not (self.mode == "strict" and reported["error"])
        left = {name: deque(each["event"] for each in reported[name]) for name in reported}
        errors = grown.pop(ERRORS, [])
        kept = {
            topic: deque(read((record.value or b"").decode()) for record in records)
            for topic, records in grown.items()
        }
        refused = 0
        for one in events:
            homes = [n for n, at in (left | kept).items() if at and self.is_from(one, at[0])]
            if homes:
                shown = (left | kept)[homes[0]].popleft()
                if homes[0] in kept:
                    due = {EVENT: "test", HTTP: "http", LEGACY: "dt"}.get(shown["$schema"], "meta")
                    assert due in shown
                    assert {"id", "dt", "request_id"} <= shown["meta"].keys()
                    continue
            else:
                assert hasty, f"neither in the log nor in the answer: {one}"
            refused += 1
        assert not any((left | kept).values()), "more events than were posted"
        if self.mode == "strict":
            assert len(errors) == refused
            named = {element["index"]: element["event"] for element in reported["invalid"]}
            assert len(named) == len(reported["invalid"])
            assert not any(added(events[index], shown) for index, shown in named.items())
        if answer.status == 207:
            assert 0 < refused < len(events)
            assert answer.head.reason.startswith(f"{len(events) - refused} out of {len(events)} ")
        elif not hasty:
            assert refused == (0 if answer.status == 201 else len(events))

    def is_from(self, event: Any, shown: Any) -> bool:
        """Return whether it is that event, with fields filled in."""
        both = map(rounded, (event, shown)) if self.mode == "eventgate" else (event, shown)
        more = added(*map(unfractioned, both))
        return more <= FILLED.keys() and all(
            re.fullmatch(FILLED[path], str(reduce(getitem, path.split("."), shown)))
            for path in more
        )


@pytest.fixture(params=["strict", "eventgate"])
async def trial(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Trial]:
    mode = request.param
    async with (
        place(tmp_path, compatibility=mode, error_events_per_s=10**9, **MOST) as here,
        connected(here.served.port) as client,
    ):
        yield Trial(here, mode, client, {Partition(topic, 0): 0 for topic in TOPICS})


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    request=st.builds(
        Request, bodies() | bodies() | bodies() | anything, codings, queries, st.booleans()
    )
)
async def test_every_posted_event_is_stored_or_reported(
    trial: Trial, caplog: pytest.LogCaptureFixture, request: Request
) -> None:
    await trial.growth()  # discards the rest of a failed example
    caplog.clear()
    answer = await trial.post(request)
    grown = await trial.growth()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    if answer.body.startswith(b'{"status"'):
        assert answer.status in ({400, 413} if trial.mode == "strict" else {500})
        assert not any(grown.values())
        if not HALF_A_PAIR.search(request.body):
            with pytest.raises((ValueError, RecursionError)):
                posted(request, trial.mode)
    elif answer.status == 400 and not answer.body:
        assert "empty" in answer.head.reason
        assert not any(grown.values())
    else:
        assert answer.status in {201, 202, 207, 400, 500}
        assert answer.status != 500 or trial.mode == "eventgate"
        assert (answer.status == 202) == (request.query in HASTY[trial.mode])
        trial.account(answer, posted(request, trial.mode), grown)


async def test_an_unpaired_surrogate_affects_no_other_event(trial: Trial) -> None:
    await trial.here.post([event(text) for text in ("before", "cut \ud83d", "after")])
    assert {"before", "after"} <= {each["test"] for each in await trial.here.documents()}
