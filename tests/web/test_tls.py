"""Connections over TLS: handshakes, clients of other projects, limits, and certificates."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from eventstreams.errors import ConfigError
from eventstreams.server import acceptor
from eventstreams.server.tls import Certificate
from eventstreams.settings import HttpSettings, LimitSettings
from tests.programs import running
from tests.web.certificates import Files, certificate
from tests.web.client import PATIENCE_S, Client, Stream
from tests.web.gateway import SSE, Served, Site, ask
from tests.web.test_decoders import lines_with

pytestmark = pytest.mark.anyio


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return certificate(tmp_path)


@asynccontextmanager
async def connected(
    port: int, files: Files, *, receive_buffer: int | None = None
) -> AsyncIterator[Client]:
    """HTTP/1.1 over TLS."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(
        sock=sock, limit=2**24, ssl=files.client("http/1.1"), server_hostname="127.0.0.1"
    )
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def streaming(
    port: int,
    files: Files,
    query: str = "",
    *,
    name: str = "s",
    receive_buffer: int | None = None,
) -> AsyncIterator[Stream]:
    async with connected(port, files, receive_buffer=receive_buffer) as client:
        await client.send("GET", f"/v2/stream/{name}{query}", SSE)
        stream = Stream(client, await client.head())
        assert stream.head.status == 200
        yield stream


def url(gateway: Served) -> str:
    return f"https://127.0.0.1:{gateway.port}/v2/stream/s"


def curl(files: Files, *arguments: str) -> tuple[str, ...]:
    return ("curl", "-sN", "--cacert", files.certificate, *arguments)


# Handshakes and clients.


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(("h2", "http/1.1"), "http/1.1"), (("http/1.1",), "http/1.1"), ((), None)],
)
async def test_tls_clients_get_http_1_whatever_they_offer(
    embedded: Site, files: Files, offered: tuple[str, ...], agreed: str | None
) -> None:
    async with embedded.gateway({"s": ["t"]}, http=files.http()) as gateway:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", gateway.port, ssl=files.client(*offered)
        )
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == agreed
        answer = await ask(Client(reader, writer), "GET", "/healthz")
        assert answer.status == 200
        writer.transport.abort()


async def test_curl_streams_and_resumes(embedded: Site, files: Files) -> None:
    topic = await embedded.topic()
    async with embedded.gateway({"s": [topic]}, http=files.http()) as gateway:
        speaks = "-w", "\nspoke %{http_version}\n"
        async with running(*curl(files, *speaks, url(gateway))) as program:
            async with asyncio.timeout(PATIENCE_S):
                while not gateway.parts.hub.subscriptions:
                    await asyncio.sleep(0)
            for n in range(3):
                await embedded.produce(topic, {"n": n})
                [data] = await lines_with(program, "data: ", 1)
                assert json.loads(data)["n"] == n
                [last] = await lines_with(program, "id: ", 1)
            await gateway.parts.hub.drain(0)
            await lines_with(program, "retry: ", 1)
            assert await lines_with(program, "spoke ", 1) == ["1.1"]
            assert await program.wait() == 0, "a clean end"
        gateway.parts.hub.draining = False
        await embedded.produce(topic, {"n": 3})
        resumes = "-H", f"Last-Event-ID: {last}"
        async with running(*curl(files, *speaks, *resumes, url(gateway))) as program:
            [data] = await lines_with(program, "data: ", 1)
            assert json.loads(data)["n"] == 3


async def test_httpx_streams(embedded: Site, files: Files) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, {"n": 1})
    trusting = files.client("http/1.1")
    async with (
        embedded.gateway({"s": [topic]}, http=files.http()) as gateway,
        httpx.AsyncClient(verify=trusting, timeout=PATIENCE_S) as client,
        client.stream("GET", url(gateway) + "?since=0", headers=SSE) as answer,
    ):
        assert answer.http_version == "HTTP/1.1"
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                assert json.loads(line.removeprefix("data: "))["n"] == 1
                break


# Slow, refused, plain, silent.


async def test_a_client_of_tls_that_does_not_read_is_stalled_and_little_is_kept_for_it(
    embedded: Site, files: Files
) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, *[{"pad": "x" * 100_000}] * 100)
    async with (
        embedded.gateway({"s": [topic]}, http=files.http(), stall_timeout_s=1.0) as gateway,
        streaming(gateway.port, files, "?since=0", receive_buffer=4096) as stream,
    ):
        await stream.opened()
        stream.client.pause()
        [connection] = gateway.server.server_state.connections
        most = 0
        while gateway.count("streams_ended_total", reason="stalled") == 0:
            most = max(most, connection.transport.get_write_buffer_size())
            await asyncio.sleep(0.01)
        assert 0 < most < 400_000, "a batch and what may wait beside it"


async def test_beyond_the_most_connections_there_is_503_over_tls(
    embedded: Site, files: Files
) -> None:
    limits = LimitSettings(connections_max=1)
    async with (
        embedded.gateway({"s": ["t"]}, http=files.http(), limits=limits) as gateway,
        connected(gateway.port, files) as there,
    ):
        await there.send("GET", "/v2/stream/s")
        assert (await there.head()).status == 200
        for _ in range(3):
            async with connected(gateway.port, files) as beyond:
                await beyond.send("GET", "/healthz")
                head = await beyond.head()
                assert head.status == 503
                assert (await beyond.body(head)).startswith(b'{"status":503,')
                assert await beyond.some(1) == b"", "an end, not a reset"


SILENT_OR_WRONG = [
    b"",
    b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a hello that does not go on
    b"\xff" * 1000,
]


@pytest.mark.parametrize("said", SILENT_OR_WRONG)
async def test_what_is_no_tls_is_closed_and_does_no_harm(
    embedded: Site, files: Files, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "HEAD_S", 0.5)
    async with embedded.gateway({"s": ["t"]}, http=files.http()) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(said)
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await reader.read(1000):
                    pass
            except ConnectionError:
                pass
            writer.transport.abort()
            while gateway.server.server_state.connections or gateway.server.server_state.tasks:
                await asyncio.sleep(0)
        async with connected(gateway.port, files) as client:
            assert (await ask(client, "GET", "/healthz")).status == 200


async def test_a_handshake_waits_for_a_turn_of_its_client_and_is_charged(
    embedded: Site, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with embedded.gateway({"s": ["t"]}, http=files.http()) as gateway:
        turns = gateway.parts.turns
        charges: list[tuple[str, float]] = []
        charge = turns.charge

        def noted(client: str, spent_s: float) -> None:
            charges.append((client, spent_s))
            charge(client, spent_s)

        monkeypatch.setattr(turns, "charge", noted)
        turns.charge("another", 1.0)  # so that the handshake has to wait
        async with connected(gateway.port, files) as client:
            assert (await ask(client, "GET", "/healthz")).status == 200
    assert ("127.0.0.1", acceptor._HANDSHAKE_S) in charges


async def test_silent_connections_give_way_to_a_client_that_asks(
    embedded: Site, files: Files
) -> None:
    limits = LimitSettings(connections_max=3)
    async with (
        embedded.gateway({"s": ["t"]}, http=files.http(), limits=limits) as gateway,
        AsyncExitStack() as stack,
    ):
        first, *others = [await silent(gateway, stack) for _ in range(3)]
        async with asyncio.timeout(PATIENCE_S):
            while len(gateway.server.server_state.connections) < 3:
                await asyncio.sleep(0)
            async with connected(gateway.port, files) as client:
                assert (await ask(client, "GET", "/healthz")).status == 200
                with suppress(ConnectionError):
                    assert await first.read(1) == b"", "the oldest one gives way"
                assert not any(other.at_eof() for other in others)
                assert len(gateway.server.server_state.connections) == 3


async def silent(gateway: Served, stack: AsyncExitStack) -> asyncio.StreamReader:
    """A connection that says nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    stack.callback(abort, writer)
    return reader


def abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def test_draining_ends_connections_that_have_not_shaken_hands(
    embedded: Site, files: Files
) -> None:
    async with embedded.gateway({"s": ["t"]}, http=files.http(), drain_s=600.0) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        async with asyncio.timeout(PATIENCE_S):
            while not gateway.server.server_state.connections:
                await asyncio.sleep(0)
            await gateway.server.drain()
        writer.transport.abort()


async def test_draining_ends_streams_of_tls_whole(embedded: Site, files: Files) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"s": [topic]}, http=files.http(), drain_s=1.0) as gateway,
        streaming(gateway.port, files) as stream,
        connected(gateway.port, files) as kept,
    ):
        await stream.opened()
        assert (await ask(kept, "GET", "/healthz")).status == 200
        draining = asyncio.create_task(gateway.server.drain())
        *_, last = await stream.rest()
        assert last.startswith(b"retry: ")
        async with asyncio.timeout(PATIENCE_S):
            await draining


# Certificates.


async def test_a_certificate_that_is_renewed_is_shown_to_those_who_come_then(
    embedded: Site, tmp_path: Path
) -> None:
    old, new = certificate(tmp_path, "old"), certificate(tmp_path, "new")
    served = certificate(tmp_path, "served")
    replace_by(served, old)
    async with embedded.gateway({"s": ["t"]}, http=served.http()) as gateway:
        async with connected(gateway.port, old) as client:
            assert (await ask(client, "GET", "/healthz")).status == 200
            replace_by(served, new)
            its = gateway.server._common.certificate
            assert its is not None
            await asyncio.to_thread(its.renew)
            async with connected(gateway.port, new) as other:
                assert (await ask(other, "GET", "/healthz")).status == 200
            assert (await ask(client, "GET", "/healthz")).status == 200
        Path(served.certificate).write_bytes(Path(old.certificate).read_bytes())
        await asyncio.to_thread(its.renew)
        async with connected(gateway.port, new) as other:
            assert (await ask(other, "GET", "/healthz")).status == 200


def replace_by(served: Files, other: Files) -> None:
    for there, here in zip(served, other, strict=True):
        Path(there).write_bytes(Path(here).read_bytes())


def test_what_is_wrong_with_certificate_or_key_is_told_with_its_setting(tmp_path: Path) -> None:
    good, other = certificate(tmp_path, "good"), certificate(tmp_path, "other")
    locked = certificate(tmp_path, "locked", password=b"open sesame")
    (tmp_path / "text").write_text("no PEM at all")
    (tmp_path / "broken").write_text("-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----")
    (tmp_path / "password").write_text("open sesame\n")
    (tmp_path / "wrong").write_text("open barley\n")
    text, nothing = str(tmp_path / "text"), str(tmp_path / "nothing")

    def told(certfile: str, keyfile: str, password_file: str | None = None) -> str:
        http = HttpSettings(
            tls_certfile=certfile, tls_keyfile=keyfile, tls_keyfile_password_file=password_file
        )
        with pytest.raises(ConfigError) as caught:
            Certificate(http)
        [problem] = caught.value.problems
        return problem

    assert told(nothing, good.key).startswith("http.tls_certfile: can't read")
    assert told(good.certificate, nothing).startswith("http.tls_keyfile: can't read")
    assert told(str(tmp_path), good.key).startswith("http.tls_certfile: can't read")
    assert told(text, good.key).startswith("http.tls_certfile: ")
    assert told(good.certificate, text).startswith("http.tls_keyfile: ")
    assert told(good.certificate, other.key).startswith("http.tls_keyfile: ")
    assert "is not the key of" in told(good.certificate, other.key)
    assert told(str(tmp_path / "broken"), good.key).startswith("http.tls_certfile: ")
    assert "http.tls_keyfile_password_file is needed" in told(*locked)
    assert told(*locked, str(tmp_path / "wrong")).startswith("http.tls_keyfile_password_file: ")
    assert told(*locked, nothing).startswith("http.tls_keyfile_password_file: can't read")
    Certificate(
        HttpSettings(
            tls_certfile=locked.certificate,
            tls_keyfile=locked.key,
            tls_keyfile_password_file=str(tmp_path / "password"),
        )
    )
