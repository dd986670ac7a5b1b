"""Requests in many small parts are parsed in turns, and their number is limited."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventstreams.server import http1
from eventstreams.turns import Turns
from tests.hostile.raw import Answer, answers, exchange
from tests.hostile.sent import STREAM
from tests.support.certificates import certificate
from tests.support.client import Client, connected
from tests.support.gateway import ask
from tests.support.intake import TEST, event, place
from tests.support.target import Target, target
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

POST = b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
TINY = b"1\r\n \r\n"


async def the_answer(on: Target, *sent: bytes) -> Answer:
    [answer] = answers(await exchange(on.port, *sent))
    return answer


def problem(answer: Answer) -> tuple[int, str]:
    """Return the detail of an error, which is JSON with a reason."""
    document = json.loads(answer.body)
    assert document["status"] == answer.status
    assert document["detail"]
    return answer.status, document["type"]


# Bodies.


async def test_a_posted_body_in_one_byte_chunks_is_refused_with_the_reason(
    everything: Target,
) -> None:
    answer = await the_answer(everything, POST + CHUNKED + TINY * 1500)
    assert problem(answer) == (413, "unwanted_body")
    assert "larger chunks" in json.loads(answer.body)["detail"]
    await everything.is_unharmed()


async def test_a_body_in_many_normal_chunks_is_accepted(everything: Target) -> None:
    body = json.dumps([event(f"{n}") for n in range(1200)]).encode()
    sent = [body[at : at + 100] for at in range(0, len(body), 100)]
    assert len(sent) > http1._CHUNKS_MAX
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in sent)
    last = b"0\r\n\r\n"
    async with connected(everything.port) as client:
        client.writer.write(POST + CHUNKED + chunks + last)
        head = await client.head()
        assert head.status in (201, 413), "413: the limit of events in a request"
        assert b"unwanted_body" not in await client.body(head)
    await everything.is_unharmed()


async def test_tiny_chunks_after_a_get_end_its_stream(everything: Target) -> None:
    head = b"GET " + STREAM + b" HTTP/1.1\r\nHost: a\r\n" + CHUNKED
    async with connected(everything.port) as client, asyncio.timeout(PATIENCE_S):
        client.writer.write(head)
        assert (await client.head()).status == 200
        client.writer.write(TINY * 1500)
        await client.rest()
    await everything.is_unharmed()


async def test_unwanted_bodies_are_discarded_and_limited(everything: Target) -> None:
    head = b"GET " + STREAM + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"
    async with connected(everything.port) as client, asyncio.timeout(PATIENCE_S):
        client.writer.write(head)
        assert (await client.head()).status == 200
        client.writer.write(b"x" * 200_000)
        while [c.body_bytes for c in connections(everything)] != [200_000]:
            await asyncio.sleep(0)
        assert [len(c.cycle.body) for c in connections(everything)] == [0]
        client.writer.write(b"x" * 200_000)
        await client.rest()
    await everything.is_unharmed()


def connections(on: Target) -> list[http1.HttpConnection]:
    found = list(on.served.server.server_state.connections)
    return [each for each in found if isinstance(each, http1.HttpConnection)]


# Heads.


async def test_too_many_headers_get_431(everything: Target) -> None:
    most = http1._HEADERS_MAX - 1  # and Host
    async with connected(everything.port) as client:
        client.writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * most + b"\r\n")
        assert (await client.head()).status == 200
    sent = b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 50_000 + b"\r\n"
    assert problem(await the_answer(everything, sent)) == (431, "head_too_large")
    await everything.is_unharmed()


async def test_too_many_trailers_end_the_request(everything: Target) -> None:
    sent = POST + CHUNKED + b"2\r\n{}\r\n0\r\n" + b"a:\r\n" * 10_000 + b"\r\n"
    assert problem(await the_answer(everything, sent)) == (431, "head_too_large")
    await everything.is_unharmed()


@pytest.mark.parametrize(("length", "status"), [(65_535, 200), (65_536, 414), (200_000, 414)])
async def test_a_url_beyond_64_kib_gets_414_with_the_reason(
    everything: Target, length: int, status: int
) -> None:
    url = b"/healthz?".ljust(length, b"x")
    sent = b"GET " + url + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = await the_answer(everything, sent)
    assert answer.status == status
    if status == 414:
        assert problem(answer) == (414, "uri_too_long")
        assert "65535 bytes" in json.loads(answer.body)["detail"]
    await everything.is_unharmed()


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "exactly one Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "exactly one Host"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "transfer coding"),
        (b"\x16\x03\x01\r\n\r\n", "not an HTTP"),
    ],
)
async def test_an_invalid_request_gets_the_reason(
    everything: Target, sent: bytes, detail: str
) -> None:
    answer = await the_answer(everything, sent)
    assert problem(answer) == (400, "bad_request")
    assert detail in json.loads(answer.body)["detail"]


# Turns.


TINY_TURNS = {"piece_s": 0.0}
"""Every piece after the first of a read waits for a turn."""


@pytest.fixture
async def in_turns(tmp_path: Path) -> AsyncIterator[Target]:
    """Run a gateway with TINY_TURNS."""
    async with target(tmp_path, connections=TINY_TURNS) as it:
        yield it


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of all pieces that are parsed."""
    sizes: list[int] = []
    parse = http1.HttpConnection._parse_piece

    def noted(self: http1.HttpConnection, data: memoryview) -> None:
        sizes.append(len(data))
        parse(self, data)

    monkeypatch.setattr(http1.HttpConnection, "_parse_piece", noted)
    return sizes


@pytest.mark.parametrize("tls", [False, True])
async def test_a_body_that_is_parsed_in_many_turns_arrives_whole(
    tmp_path: Path, pieces: list[int], *, tls: bool
) -> None:
    files = certificate(tmp_path) if tls else None
    http = files.http() if files else None
    texts = [f"{n} {'x' * random.randrange(20_000)}" for n in range(150)]
    body = json.dumps([event(text) for text in texts]).encode()
    async with place(tmp_path, error_stream=None, http=http, connections=TINY_TURNS) as intake:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", intake.served.port, ssl=files.client() if files else None
        )
        client = Client(reader, writer)
        for _ in range(2):  # the second request follows the first one's last piece
            writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        for _ in range(2):
            head = await client.head()
            assert head.status == 201
            await client.body(head)
        assert (await ask(client, "GET", "/healthz")).status == 200
        writer.transport.abort()
        found = [document["test"] for document in await intake.documents(TEST)]
        assert found == 2 * texts
    assert max(pieces) <= http1._PIECE_BYTES
    assert len(pieces) > 2 * len(body) / http1._PIECE_BYTES


async def test_a_head_that_waits_for_turns_is_read_completely(
    in_turns: Target, pieces: list[int]
) -> None:
    part = b"X: " + b"x" * 30_000 + b"\r\n"
    async with connected(in_turns.port) as client, asyncio.timeout(PATIENCE_S):
        client.writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
        for n in range(1, 5):
            client.writer.write(part)
            while sum(pieces) < n * len(part):
                await asyncio.sleep(0)
        client.writer.write(b"\r\n")
        assert (await client.head()).status == 200


async def test_others_are_served_while_a_read_is_parsed(
    in_turns: Target, pieces: list[int]
) -> None:
    sent = POST + b"Content-Length: 4000000\r\n\r\n" + b" " * 3_000_000
    async with connected(in_turns.port) as flood, connected(in_turns.port) as other:
        flood.writer.write(sent)
        served = 0
        async with asyncio.timeout(PATIENCE_S):
            while sum(pieces) < len(sent):
                assert (await ask(other, "GET", "/healthz")).status == 200
                served += 1
        assert served > 3
    await in_turns.is_unharmed()


@pytest.fixture
def charged(everything: Target, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the clients to which work without a turn is charged."""
    turns: Turns = everything.served.parts.turns
    clients: list[str] = []
    charge = turns.charge

    def noted(client: str, spent_s: float) -> None:
        clients.append(client)
        charge(client, spent_s)

    monkeypatch.setattr(turns, "charge", noted)
    return clients


async def test_parsing_is_charged_to_the_client(everything: Target, charged: list[str]) -> None:
    async with connected(everything.port) as client:
        client.writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 200)
        async with asyncio.timeout(PATIENCE_S):
            while not charged:
                await asyncio.sleep(0)
    assert set(charged) == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/healthz"),
        ("GET", "/v2/ui/"),
        ("GET", "/?spec"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/nowhere"),
        ("GET", "/nowhere?" + "a&" * 200),
        ("POST", "/v2/ticket"),
        ("GET", "/v2/admin/clients"),
        ("GET", "/v2/explain?streams=nowhere"),
        ("GET", "/v2/stream/nowhere"),
        ("GET", f"/v2/stream/{TEST}?limit=x"),
        ("HEAD", f"/v2/stream/{TEST}"),
        ("PUT", f"/v2/stream/{TEST}"),
        ("OPTIONS", f"/v2/stream/{TEST}"),
    ],
)
async def test_every_request_runs_in_turns_of_its_client(
    everything: Target, monkeypatch: pytest.MonkeyPatch, method: str, target: str
) -> None:
    turns: Turns = everything.served.parts.turns
    clients: list[str] = []
    run = turns.run

    async def noted(client: str, work: Any) -> Any:
        clients.append(client)
        return await run(client, work)

    monkeypatch.setattr(turns, "run", noted)
    assert (await everything.served.ask(method, target)).status
    assert clients == ["127.0.0.1"]
