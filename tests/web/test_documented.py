"""The gateway gives exactly the responses that the OpenAPI document describes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest

from eventstreams.config.settings import AccessSettings, LimitSettings
from eventstreams.filters import cel
from tests.support.gateway import Served, Site, stream_of
from tests.support.intake import TEST, Place, event, place
from tests.support.issuer import Pair, key_set
from tests.support.legacy_schemas import LEGACY_STREAMS, LISTED, write_legacy_schemas
from tests.support.schema_folders import put

pytestmark = pytest.mark.anyio

PAIR = Pair("EdDSA", "key")
STREAM, EXPLAIN, TICKET = "/v2/stream/{streams}", "/v2/explain", "/v2/ticket"
SELFTEST = "/v2/selftest"
SCHEMA, CONFIGS = "/v1/schemas/{title}/{version}", "/v1/stream-configs/{streams}"
EVENTS, BEACON = "/v1/events", "/beacon/event"
JSON = {"Content-Type": "application/json"}
BOTH = {STREAM: "/v2/stream/{}?", EXPLAIN: "/v2/explain?streams={}&"}
"""Paths with the same refusals, and the requests for streams."""
ELSEWHERE = {
    ("post", EVENTS, 408): "tests/intake/test_overload.py::test_a_missing_body_times_out",
    ("post", EVENTS, 429): "tests/intake/test_bounded.py::"
    "test_concurrent_bodies_of_a_client_are_limited",
    ("post", EVENTS, 500): "tests/intake/test_router.py::test_a_stream_must_be_declared",
    ("post", EVENTS, 503): "tests/intake/test_overload.py::"
    "test_without_memory_requests_get_503_during_their_body",
    **{
        (method, BEACON, status): "tests/legacy/test_beacon.py::"
        "test_without_memory_in_the_intake_beacons_get_503"
        for method in ("get", "post")
        for status in (429, 503)
    },
}
"""Responses that need a full intake, with the tests that produce them."""


class Sent(NamedTuple):
    status: int
    """The expected status."""
    path: str
    """The path as it is in the document."""
    target: str
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    body: bytes | None = None

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


class Document:
    """Compares the documented responses with those that occurred."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.seen = set[tuple[str, str, int]]()
        """Method, path and status."""

    @property
    def named(self) -> set[tuple[str, str, int]]:
        """Paths of single streams have the common responses, which another test compares."""
        return {
            (method, path, int(status))
            for path, operations in self.spec["paths"].items()
            if path == STREAM or not path.startswith("/v2/stream/")
            for method, operation in operations.items()
            for status in operation["responses"]
        }

    def check(self, sent: Sent, status: int, kind: str | None, body: bytes) -> None:
        assert status == sent.status, (sent, status, body)
        method = sent.method.lower()
        responses = self.spec["paths"][sent.path][method]["responses"]
        assert str(status) in responses, sent
        kinds = responses[str(status)].get("content", {})
        if kind is not None:
            assert kind.partition(";")[0] in kinds, (sent, kind)
        else:
            assert "*/*" in kinds or not body, sent
        self.seen.add((method, sent.path, status))


async def ask(here: Place, document: Document, sent: Sent) -> httpx.Response:
    async with asyncio.timeout(60):
        answer = await here.http.request(
            sent.method, sent.target, headers=sent.headers, content=sent.body
        )
    kind = answer.headers.get("content-type")
    document.check(sent, answer.status_code, kind, answer.content)
    return answer


async def ask_served(gateway: Served, document: Document, sent: Sent) -> None:
    answer = await gateway.ask(sent.method, sent.target, sent.headers)
    document.check(sent, answer.status, answer.head.get("content-type"), answer.body)


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {PAIR.token(**claims)}"}


def of_streams(path: str, begin: str) -> Iterator[Sent]:
    """Refusals that streams and /v2/explain have in common."""
    one, closed = begin.format(TEST), begin.format("closed")
    yield Sent(200, path, one + "since=earliest&limit=1")
    yield Sent(400, path, begin.format("nope"))
    yield Sent(400, path, one + "since=x")
    yield Sent(400, path, one + "limit=0")
    yield Sent(400, path, one + "filter=1")
    yield Sent(400, path, one + "last-event-id=x")
    yield Sent(401, path, closed)
    yield Sent(401, path, closed, {"Authorization": "Bearer x"})
    yield Sent(403, path, closed, bearer(scope="x"))
    yield Sent(404, path, one, {"Last-Event-ID": json.dumps(["no-such-topic"])})


def of_all() -> Iterator[Sent]:
    for path, begin in BOTH.items():
        yield from of_streams(path, begin)
    end = {"left": 0, "id": [{"topic": TEST, "partition": 0, "offset": 1}]}
    lost = [{"topic": TEST, "partition": 0, "offset": 99}]
    stream = f"/v2/stream/{TEST}"
    yield Sent(200, STREAM, f"{stream}?since=earliest&limit=1", {"Accept": "application/json"})
    yield Sent(204, STREAM, stream, {"Last-Event-ID": json.dumps(end)})
    yield Sent(410, STREAM, f"{stream}?gap=fail", {"Last-Event-ID": json.dumps(lost)})
    yield Sent(404, STREAM, "/v2/stream/a/b")
    yield Sent(400, EXPLAIN, "/v2/explain")
    yield Sent(200, "/v2/streams", "/v2/streams")
    yield Sent(200, "/v2/streams/activity", "/v2/streams/activity")
    yield Sent(200, "/v2/cursor", "/v2/cursor?id=%5B%22t%22%5D")
    yield Sent(400, "/v2/cursor", "/v2/cursor")
    yield Sent(400, "/v2/cursor", "/v2/cursor?id=x")
    yield Sent(200, "/v2/limits", "/v2/limits")
    yield Sent(400, "/v2/limits", "/v2/limits?client=x")
    yield Sent(200, SELFTEST, SELFTEST)
    yield Sent(200, "/v1/stream-configs", "/v1/stream-configs")
    yield Sent(400, "/v1/stream-configs", "/v1/stream-configs?constraints=x")
    yield Sent(200, CONFIGS, f"/v1/stream-configs/{TEST}")
    yield Sent(400, CONFIGS, f"/v1/stream-configs/{TEST}?constraints=x")
    yield Sent(404, CONFIGS, "/v1/stream-configs/a/b")
    yield Sent(200, "/v1/schemas", "/v1/schemas")
    one = "/v1/schemas/test/event/1.0.0"
    yield Sent(200, SCHEMA, one)
    yield Sent(200, SCHEMA, one, {"Accept": "application/yaml"})
    yield Sent(404, SCHEMA, "/v1/schemas/no/such/1.0.0")
    yield Sent(404, SCHEMA, "/v1/schemas/a%0Ab/1.0.0")
    yield Sent(422, SCHEMA, "/v1/schemas/broken/1.0.0")
    yield Sent(422, SCHEMA, "/v1/schemas/recursive/1.0.0")


def of_posts() -> Iterator[Sent]:
    good, bad = json.dumps(event()).encode(), json.dumps(event(7)).encode()
    yield Sent(201, EVENTS, EVENTS, JSON, good)
    yield Sent(202, EVENTS, f"{EVENTS}?hasty=true", JSON, good)
    yield Sent(207, EVENTS, EVENTS, JSON, b"[%b,%b]" % (good, bad))
    yield Sent(400, EVENTS, EVENTS, JSON, bad)
    yield Sent(400, EVENTS, EVENTS, JSON, b"{")
    yield Sent(400, EVENTS, EVENTS, JSON, b"[]")
    yield Sent(400, EVENTS, f"{EVENTS}?hasty=x", JSON, good)
    yield Sent(413, EVENTS, EVENTS, JSON, b"[" + b" " * 3000 + b"]")
    yield Sent(415, EVENTS, EVENTS, {"Content-Type": "text/xml"}, b"<a/>")
    yield Sent(201, TICKET, TICKET, bearer(), b"")
    yield Sent(400, TICKET, TICKET, {**bearer(), "authorization": "Bearer a"}, b"")
    yield Sent(401, TICKET, TICKET, {}, b"")


async def test_every_documented_answer_is_given_and_no_other(
    tmp_path: Path, embedded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys.json").write_bytes(key_set(PAIR))
    closed = {"schema_title": "test/event", "topics": ["closed"], "scope": "read:closed"}
    catalogue = {
        TEST: {"schema_title": "test/event"},
        "eventstreams.error": {"schema_title": "error"},
        "closed": closed,
    }
    access = AccessSettings(jwks_file=str(tmp_path / "keys.json"))
    async with place(tmp_path, streams=catalogue, access=access, body_bytes_max=2000) as here:
        document = Document((await here.http.get("/?spec")).json())
        put(tmp_path, "schemas/broken/1.0.0.yaml", "{a: [")
        loop = {"title": "recursive", "properties": {"a": {"$ref": "#"}}}
        put(tmp_path, "schemas/recursive/1.0.0.yaml", loop)
        for sent in (*of_posts(), *of_all()):
            await ask(here, document, sent)
        found = Sent(304, SCHEMA, "/v1/schemas/test/event/1.0.0")
        etag = (await here.http.get(found.target)).headers["etag"]
        await ask(here, document, found._replace(headers={"If-None-Match": etag}))
        for method in ("GET", "POST"):
            body = None if method == "GET" else b""
            await ask(here, document, Sent(404, BEACON, f"{BEACON}?%7B%7D", {}, body))
        monkeypatch.setitem(sys.modules, "cel_expr_python.cel", None)
        for path, begin in BOTH.items():
            _forget_filters()
            target = f"{begin.format(TEST)}max_seconds=1&filter={quote('event.n == 1', safe='')}"
            await ask(here, document, Sent(501, path, target))
    monkeypatch.undo()
    _forget_filters()
    await _with_legacy(tmp_path, document)
    await _with_keys(tmp_path, document)
    await _out_of_reach(embedded, document)
    named = document.named - {(method, path, 500) for method, path in _NO_TOPIC}
    assert named - document.seen == ELSEWHERE.keys()


_NO_TOPIC = {("get", STREAM), ("get", EXPLAIN)}


async def _with_legacy(folder: Path, document: Document) -> None:
    write_legacy_schemas(folder)
    async with place(folder, streams=LEGACY_STREAMS, legacy=LISTED) as here:
        for body in (None, b""):
            await ask(here, document, Sent(204, BEACON, f"{BEACON}?%7B%7D", {}, body))


async def _with_keys(folder: Path, document: Document) -> None:
    keys = folder / "producers.yaml"
    keys.write_text(f"one: {{keys_sha256: ['{'0' * 64}'], streams: ['*']}}\n")
    async with place(folder, access=AccessSettings(producer_keys=str(keys))) as here:
        await ask(here, document, Sent(401, EVENTS, EVENTS, JSON, b"{}"))


async def _out_of_reach(site: Site, document: Document) -> None:
    """Settings with limits, and keys that cannot be loaded."""
    access = AccessSettings(jwks_url="https://127.0.0.1:9/keys.json")
    closed = stream_of("s", [await site.topic()])._replace(scope="read:closed")
    async with site.gateway({"s": closed}, access=access) as gateway:
        for path, target, body in _COUNTED:
            await ask_served(gateway, document, Sent(503, path, target, bearer(), body))
    limits = LimitSettings(client_ip_connects_per_minute=1)
    async with site.gateway({"s": [await site.topic()]}, limits=limits) as gateway:
        await ask_served(gateway, document, Sent(400, SELFTEST, SELFTEST))
        for path, target, body in (*_COUNTED, (SELFTEST, SELFTEST, None)):
            address = {"X-Client-IP": f"192.0.2.{len(path)}"}
            sent = Sent(429, path, target, address, body)
            await gateway.ask(sent.method, target, address)
            await ask_served(gateway, document, sent)
    limits = LimitSettings(streams_max=1)
    async with (
        site.gateway({"s": [await site.topic()]}, limits=limits) as gateway,
        gateway.stream("s"),
    ):
        await ask_served(gateway, document, Sent(503, SELFTEST, SELFTEST))


_COUNTED = (
    *((path, f"{begin.format('s')}max_seconds=1", None) for path, begin in BOTH.items()),
    (TICKET, TICKET, b""),
)


@pytest.mark.kafka
async def test_streams_without_any_topic_get_500(kafka_site: Site) -> None:
    async with kafka_site.gateway({"missing": ["no-such-topic"]}) as gateway:
        document = Document((await gateway.get("/?spec")).json())
        for path, begin in BOTH.items():
            await ask_served(gateway, document, Sent(500, path, begin.format("missing")))
    assert {(method, path) for method, path, _ in document.seen} == _NO_TOPIC


async def test_each_stream_path_documents_the_common_answers(embedded: Site) -> None:
    async with embedded.gateway({"s": ["t"], "other": ["t"]}) as gateway:
        paths = (await gateway.get("/?spec")).json()["paths"]
    for name in ("s", "other"):
        own = paths[f"/v2/stream/{name}"]["get"]["responses"]
        assert own.keys() == paths[STREAM]["get"]["responses"].keys()


def test_documented_answers_tested_elsewhere_exist() -> None:
    root = Path(__file__).parents[2]
    for where in ELSEWHERE.values():
        file, _, name = where.partition("::")
        assert f"def {name}(" in (root / file).read_text(), where


def _forget_filters() -> None:
    for cache in (cel._environment, cel._compiled):
        cache.cache_clear()
