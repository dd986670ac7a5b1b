"""Any bytes on a connection are interpreted safely."""

from __future__ import annotations

import asyncio

import pytest

from tests.hostile.raw import PATIENCE_S, answers, exchange
from tests.hostile.requests import EVERY, GET, LAST, MARKER, MARKER_PATH, Case
from tests.support.client import IncompleteResponse, connected
from tests.support.gateway import ask
from tests.support.intake import TEST
from tests.support.target import Target

pytestmark = pytest.mark.anyio

STREAM = f"GET /v2/stream/{TEST} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
POST = b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[n : n + size] for n in range(0, len(data), size)]


async def test_ambiguous_requests_end_the_connection(
    everything: Target,
) -> None:
    wrong: list[str] = []
    for name, case in EVERY:
        for whole in (True, False):
            wrong += await _wrong(everything, name, case, whole=whole)
    assert not wrong
    assert f"GET {MARKER_PATH}" not in everything.requests
    assert not [line for line in everything.requests if "evil" in line]
    await everything.is_unharmed()


async def _wrong(on: Target, name: str, case: Case, *, whole: bool) -> list[str]:
    """Return what is wrong with the responses. Unless `whole`, the marker's bytes come later."""
    parts = [case.data] if whole else [case.data[: -len(MARKER)], case.data[-len(MARKER) :]]
    data = await exchange(on.port, *parts)
    statuses = tuple(a.status for a in answers(data, head=case.data.startswith(b"HEAD")))
    return [] if statuses == case.statuses else [f"{name}: {statuses}, not {case.statuses}"]


async def test_packet_boundaries_make_no_difference(everything: Target) -> None:
    for name, case in EVERY:
        if len(case.data) < 500:
            data = await exchange(everything.port, *pieces(case.data, 1))
            found = answers(data, head=case.data.startswith(b"HEAD"))
            statuses = tuple(a.status for a in found)
            if statuses != case.statuses:
                # The response may be complete before the body has arrived; it is then the last.
                assert (name, statuses) == ("fine: a body of a GET", (200,))
    assert f"GET {MARKER_PATH}" not in everything.requests
    await everything.is_unharmed()


async def test_errors_are_not_written_into_responses(everything: Target) -> None:
    async with everything.served.stream(TEST) as stream:
        await stream.opened()
        stream.client.writer.write(b"\0\0\0\r\n\r\n")
        with pytest.raises(IncompleteResponse):
            await stream.rest()
        assert b"HTTP/" not in b"".join(stream.chunks)
    await everything.is_unharmed()


async def test_garbage_after_a_request_does_not_affect_its_response(everything: Target) -> None:
    for rest in (b"\0\0\0", b"get / HTTP/1.1\r\n\r\n", b"X" * 300_000):
        data = await exchange(everything.port, GET + rest)
        assert [answer.status for answer in answers(data)] in ([], [200]), rest[:10]
    await everything.is_unharmed()


async def test_pipelined_requests_are_ordered_and_limited(
    everything: Target,
) -> None:
    paths = [f"/v1/schemas/sent/ahead/{n}" for n in range(2000)]
    sent = b"".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in paths)
    found = answers(await exchange(everything.port, sent))
    assert 0 < len(found) <= 20
    for path, answer in zip(paths, found, strict=False):
        assert path.removeprefix("/v1/schemas").encode() in answer.body
    assert found[-1].get(b"connection") == b"close"
    assert len(everything.requests) <= 20
    await everything.is_unharmed()


async def test_requests_after_a_stream_are_never_answered_in_it(
    everything: Target,
) -> None:
    async with connected(everything.port) as client:
        client.writer.write(STREAM + MARKER * 500)
        head = await client.head()
        assert head.status == 200
        await everything.produce({"n": 1})
        chunks = [await client.chunk(), await client.chunk()]
        assert b"HTTP/" not in b"".join(chunk or b"" for chunk in chunks)
    assert f"GET {MARKER_PATH}" not in everything.requests
    await everything.is_unharmed()


async def test_early_responses_arrive_completely(
    everything: Target,
) -> None:
    head = POST + b"Content-Length: 99999999\r\n\r\n"
    data = await exchange(everything.port, head, *[b"x" * 10_000] * 10)
    [answer] = answers(data)
    assert answer.status == 413
    assert answer.get(b"connection") == b"close"
    assert b"bytes" in answer.body
    await everything.is_unharmed()


async def test_trailers_are_no_headers(everything: Target) -> None:
    body = b'{"$schema":"/test/event/1.0.0","meta":{"stream":"' + TEST.encode() + b'"},"test":"x"}'
    chunks = b"%x\r\n%b\r\n0\r\nContent-Type: text/evil\r\nContent-Encoding: gzip\r\n\r\n"
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    data = await exchange(everything.port, head + chunks % (len(body), body) + LAST)
    assert [answer.status for answer in answers(data)] == [201, 200]
    await everything.is_unharmed()


async def test_endless_input_is_not_stored(everything: Target) -> None:
    chunk = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n"
    endless = {
        "trailers": (chunk + b"0\r\n", b"X: y\r\n" * 1000),
        "a trailer": (chunk + b"0\r\nX: ", b"y" * 10_000),
        "an extension": (chunk + b"2;a=", b"y" * 10_000),
        "a head": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ", b"y" * 10_000),
        "line ends": (GET, b"\r\n" * 5_000),
    }
    for name, (start, piece) in endless.items():
        found = answers(await exchange(everything.port, start, *[piece] * 100))
        assert [a.status for a in found] in ([431], [200, 431], [200], [400]), name
    await everything.is_unharmed()


async def test_line_ends_do_not_keep_a_connection_open(everything: Target) -> None:
    everything.served.server.config.timeout_keep_alive = 1
    async with connected(everything.port) as client:
        assert (await ask(client, "GET", "/healthz")).status == 200
        async with asyncio.timeout(PATIENCE_S):
            client.writer.write(b"\r\n")
            assert await client.some(1) == b"", "the connection ended"


async def test_refused_garbage_gets_the_common_headers(
    everything: Target,
) -> None:
    [bad] = answers(await exchange(everything.port, b"nonsense\r\n\r\n"))
    [good] = answers(await exchange(everything.port, LAST))
    own = {b"content-type", b"content-length", b"connection", b"date"}
    common = [header for header in good.headers if header[0] not in own]
    assert [header for header in bad.headers if header[0] not in own] == common
