"""Accept, methods and CORS on stream routes."""

from __future__ import annotations

import json

import pytest

from eventstreams.config.settings import HttpSettings, LimitSettings
from tests.support.client import connected
from tests.support.gateway import Headers, Site, ask

pytestmark = pytest.mark.anyio

SSE_TYPE = "text/event-stream; charset=utf-8"
JSON_TYPE = "application/json; charset=utf-8"
NDJSON_TYPE = "application/x-ndjson; charset=utf-8"
JSONL_TYPE = "application/jsonl; charset=utf-8"
ACCEPTS: list[tuple[str | None, str]] = [
    (None, SSE_TYPE),
    ("", SSE_TYPE),
    ("*/*", SSE_TYPE),
    ("text/event-stream", SSE_TYPE),
    ("Application/JSON", SSE_TYPE),
    ("text/html, application/json", SSE_TYPE),
    ("text/event-stream, application/x-ndjson", SSE_TYPE),
    ("application/x-ndjson2", SSE_TYPE),
    ("image/png;q=0.1", SSE_TYPE),
    ("application/json", JSON_TYPE),
    ("application/json;q=0.1, text/event-stream", JSON_TYPE),
    ("application/jsonlines", JSON_TYPE),
    ("application/json, */*", JSON_TYPE),
    ("application/x-ndjson", NDJSON_TYPE),
    ("application/x-ndjson;q=0.1, text/event-stream", NDJSON_TYPE),
    ("application/jsonl", JSONL_TYPE),
    ("application/jsonl , */*;q=0.5", JSONL_TYPE),
]


async def test_the_beginning_of_accept_chooses_the_format(site: Site) -> None:
    async with site.gateway({"s": [await site.topic()]}) as gateway:
        for accept, expected in ACCEPTS:
            headers = {} if accept is None else {"Accept": accept}
            async with connected(gateway.port) as client:
                await client.send("GET", "/v2/stream/s", headers)
                head = await client.head()
                assert (head.status, head.get("content-type")) == (200, expected), accept
                assert head.get("cache-control") == "no-store, no-transform"
                assert await client.chunk() == (b":ok\n\n" if expected == SSE_TYPE else b"\n")


async def test_ndjson_is_an_empty_line_and_one_document_per_line(site: Site) -> None:
    topic = await site.topic()
    await site.produce(topic, {"n": 1}, None, {"n": 2})
    json_headers = {"Accept": "application/json"}
    async with (
        site.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", json_headers, since="0") as stream,
    ):
        assert await stream.chunk() == b"\n"
        lines = await stream.lines(2)
    assert [json.loads(line)["n"] for line in lines] == [1, 2]
    assert b"".join(stream.chunks) == b"\n" + b"".join(line + b"\n" for line in lines)


async def test_head_has_the_headers_of_get_and_no_body(site: Site) -> None:
    topic = await site.topic()
    limits = LimitSettings(client_ip_connections=1)
    ip = {"X-Client-IP": "192.0.2.1"}
    async with (
        site.gateway({"s": [topic]}, limits=limits) as gateway,
        connected(gateway.port) as client,
    ):
        for _ in range(3):  # the lease is returned each time
            answer = await ask(client, "HEAD", "/v2/stream/s?since=0", ip)
            assert answer.status == 200
            assert answer.head.get("content-type") == SSE_TYPE
            assert answer.head.get("access-control-allow-origin") == "*"
        assert (await ask(client, "HEAD", "/v2/stream/nope", ip)).status == 400
        assert (await ask(client, "HEAD", "/v2/stream/s")).status == 400
        assert (await ask(client, "HEAD", "/v2/stream/s?since=x", ip)).status == 400
        bad = {**ip, "Last-Event-ID": '["x"]'}
        assert (await ask(client, "HEAD", "/v2/stream/s", bad)).status == 404
        async with gateway.stream("s", ip):
            pass


ALLOWED = "accept, x-requested-with, content-type, last-event-id, cache-control, authorization"


async def test_options_allows_the_headers_of_fetch_clients(embedded: Site) -> None:
    limits = LimitSettings(client_ip_connections=1)
    preflight = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "cache-control,last-event-id,authorization",
    }
    async with embedded.gateway({"s": [await embedded.topic()]}, limits=limits) as gateway:
        for path in ("s", "nope"):
            answer = await gateway.ask("OPTIONS", f"/v2/stream/{path}", preflight)
            assert answer.status == 200
            assert answer.body == b"GET,HEAD"
            assert answer.head.get("allow") == "GET,HEAD"
            assert answer.head.get("access-control-allow-origin") == "*"
            assert answer.head.get("access-control-allow-headers") == ALLOWED
            assert "GET" in (answer.head.get("access-control-allow-methods") or "")
        elsewhere = await gateway.ask("OPTIONS", "/v2/streams", preflight)
        assert (elsewhere.status, elsewhere.head.get("access-control-allow-headers")) == (
            200,
            ALLOWED,
        )


async def test_cors_headers_are_on_streams_pages_and_errors(site: Site) -> None:
    topic = await site.topic()
    asked: list[tuple[str, Headers]] = [
        ("/v2/stream/nope", {}),
        ("/v2/stream/s?since=x", {}),
        ("/v2/stream/s", {"Last-Event-ID": "nope"}),
        ("/v2/stream/s", {"Last-Event-ID": '["nope"]'}),
        ("/v2/stream/", {}),
        ("/nowhere", {}),
        ("/?spec", {}),
        ("/", {}),
        ("/rc", {}),
        ("/v2/ui", {}),
        ("/v2/ui/", {}),
        ("/v2/ui/nothing.js", {}),
        ("/_info", {}),
        ("/_info/home", {}),
        ("/robots.txt", {}),
        ("/healthz", {}),
        ("/readyz", {}),
    ]
    async with site.gateway({"s": [topic]}) as gateway:
        heads = [(await gateway.get(*each)).head for each in asked]
        async with gateway.stream("s") as stream:
            heads.append(stream.head)
    for head in heads:
        assert head.get("access-control-allow-origin") == "*"
        assert head.get("access-control-allow-headers") == ALLOWED
        assert "etag" in (head.get("access-control-expose-headers") or "")
        assert head.get("x-xss-protection") == "1; mode=block"
        assert head.get("x-content-type-options") == "nosniff"
        assert head.get("x-frame-options") == "SAMEORIGIN"
        policy = head.get("content-security-policy")
        assert policy
        assert policy == head.get("x-content-security-policy") == head.get("x-webkit-csp")


async def test_cors_and_csp_can_be_changed_and_disabled(embedded: Site) -> None:
    streams = {"s": [await embedded.topic()]}
    one = HttpSettings(cors="https://example.org", csp="default-src 'none'")
    async with embedded.gateway(streams, http=one) as gateway:
        head = (await gateway.get("/v2/stream/nope")).head
    assert head.get("access-control-allow-origin") == "https://example.org"
    assert head.get("content-security-policy") == "default-src 'none'"
    off = HttpSettings(cors=False, csp=False)
    async with embedded.gateway(streams, http=off) as gateway, gateway.stream("s") as stream:
        names = {name for name, _ in stream.head.headers}
    assert not any(name.startswith("access-control") or "security" in name for name in names)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_other_methods_on_a_stream_get_the_404_page(embedded: Site, method: str) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        answer = await gateway.ask(method, "/v2/stream/s")
    assert answer.status == 404
    assert answer.head.get("content-type") == "text/html; charset=utf-8"
    assert f"<pre>Cannot {method} /v2/stream/s</pre>".encode() in answer.body


async def test_stream_urls_never_redirect(embedded: Site) -> None:
    paths = ["/v2/stream", "/v2/stream/", "/v2/stream//s", "/v2/stream/s//", "/v2/stream/s/x"]
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for path in paths:
            answer = await gateway.get(path)
            assert answer.status == 404, path
            assert answer.head.get("location") is None
            assert b"<pre>Cannot GET " in answer.body
        async with gateway.opened("/v2/stream/s?") as stream:
            assert stream.head.status == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/v2/stream/s/?since=0", "/v2/explain/?streams=s", "/v2/streams/", "/_info/", "/rc/"),
        *("/_info/name/", "/robots.txt/", "/healthz/", "/v1/schemas/", "/?spec"),
        *("/v1/stream-configs/", "/v1/stream-configs/s/", "/v2/cursor/?id=%5B%22t%22%5D"),
    ],
)
async def test_a_trailing_slash_makes_no_difference(embedded: Site, path: str) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, {"n": 1})
    async with embedded.gateway({"s": [topic]}) as gateway:
        answers = []
        for target in (path, path.replace("/?", "?").removesuffix("/")):
            if target.startswith("?"):
                continue
            if "/stream/" in path:
                async with gateway.opened(target) as stream:
                    answers.append((stream.head.status, (await stream.frame()).document))
            else:
                answer = await gateway.get(target)
                answers.append((answer.status, answer.head.get("content-type")))
    assert answers[0] == answers[-1]
    assert answers[0][0] in (200, 301)


async def test_the_answer_is_never_compressed(site: Site) -> None:
    topic = await site.topic()
    headers = {"Accept-Encoding": "gzip, deflate, br, zstd"}
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s", headers) as stream:
        assert stream.head.get("content-encoding") is None
        assert await stream.chunk() == b":ok\n\n"
