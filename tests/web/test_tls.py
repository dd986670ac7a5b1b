"""TLS connections: handshakes, clients, limits and certificates."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx
import pytest

from eventstreams.config.settings import HttpSettings, LimitSettings
from eventstreams.errors import ConfigError
from eventstreams.server import acceptor
from eventstreams.server.tls import Certificate
from eventstreams.turns import Turns
from tests.support.certificates import Files, certificate
from tests.support.client import Client
from tests.support.gateway import SSE, Served, Site, ask
from tests.support.programs import lines_with, running
from tests.support.tls import connected, curl, replace_by, streaming
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return certificate(tmp_path)


def url(gateway: Served) -> str:
    return f"https://127.0.0.1:{gateway.port}/v2/stream/s"


# Handshakes and clients.


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(("h2", "http/1.1"), "http/1.1"), (("http/1.1",), "http/1.1"), ((), None)],
)
async def test_tls_clients_get_http_1(
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
            assert await program.wait() == 0, "a proper end"
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


async def test_a_tls_client_that_does_not_read_is_disconnected(
    embedded: Site, files: Files
) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, *[{"pad": "x" * 100_000}] * 100)
    async with (
        embedded.gateway({"s": [topic]}, http=files.http(), stall_timeout_s=1.0) as gateway,
        connected(gateway.port, files, receive_buffer=4096) as client,
    ):
        assert (await ask(client, "GET", "/healthz")).status == 200
        [connection] = gateway.server.server_state.connections
        await client.send("GET", "/v2/stream/s?since=0")
        await client.head()
        client.pause()
        most = 0
        while gateway.count("streams_ended_total", reason="stalled") == 0:
            most = max(most, connection.transport.get_write_buffer_size())
            await asyncio.sleep(0.01)
        assert 0 < most < 400_000, "a batch and what may wait besides"


async def test_beyond_the_connection_limit_tls_clients_get_503(
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
                assert await beyond.some(1) == b"", "the connection ended without a reset"


SILENT_OR_WRONG = [
    b"",
    b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # an incomplete ClientHello
    b"\xff" * 1000,
]


@pytest.mark.parametrize("said", SILENT_OR_WRONG)
async def test_connections_without_tls_are_closed(
    embedded: Site, files: Files, said: bytes
) -> None:
    impatient = {"head_s": 0.5}
    async with embedded.gateway({"s": ["t"]}, http=files.http(), connections=impatient) as gateway:
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

        async def is_served() -> bool:
            try:
                async with connected(gateway.port, files) as client:
                    return (await ask(client, "GET", "/healthz")).status == 200
            except (asyncio.IncompleteReadError, OSError):  # this client was too slow as well
                return False

        await until(is_served)


async def test_a_handshake_takes_a_turn_and_is_charged(
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
        turns.charge("another", 1.0)  # so that the handshake must wait
        async with connected(gateway.port, files) as client:
            assert (await ask(client, "GET", "/healthz")).status == 200
    assert ("127.0.0.1", acceptor._HANDSHAKE_S) in charges


async def test_silent_tls_connections_are_closed_to_make_room(embedded: Site, files: Files) -> None:
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
                    assert await first.read(1) == b"", "the oldest one is closed"
                assert not any(other.at_eof() for other in others)
                assert len(gateway.server.server_state.connections) == 3


async def silent(gateway: Served, stack: AsyncExitStack) -> asyncio.StreamReader:
    """Open a connection that sends nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    stack.callback(abort, writer)
    return reader


def abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def test_a_drain_ends_connections_during_their_handshake(
    embedded: Site, files: Files
) -> None:
    async with embedded.gateway({"s": ["t"]}, http=files.http(), drain_s=600.0) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        async with asyncio.timeout(PATIENCE_S):
            while not gateway.server.server_state.connections:
                await asyncio.sleep(0)
            await gateway.server.drain()
        writer.transport.abort()


async def test_a_drain_ends_tls_streams_completely(embedded: Site, files: Files) -> None:
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


async def test_a_renewed_certificate_is_used_for_new_connections(
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


def test_errors_of_certificates_name_the_setting(tmp_path: Path) -> None:
    good, other = certificate(tmp_path, "good"), certificate(tmp_path, "other")
    locked = certificate(tmp_path, "locked", password=b"open sesame")
    (tmp_path / "text").write_text("no PEM at all")
    (tmp_path / "broken").write_text("-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----")
    (tmp_path / "password").write_text("open sesame\n")
    (tmp_path / "wrong").write_text("open barley\n")
    text, nothing = str(tmp_path / "text"), str(tmp_path / "nothing")

    def reported(certfile: str, keyfile: str, password_file: str | None = None) -> str:
        http = HttpSettings(
            tls_certfile=certfile, tls_keyfile=keyfile, tls_keyfile_password_file=password_file
        )
        with pytest.raises(ConfigError) as caught:
            Certificate(http)
        [problem] = caught.value.problems
        return problem

    assert reported(nothing, good.key).startswith("http.tls_certfile: cannot read")
    assert reported(good.certificate, nothing).startswith("http.tls_keyfile: cannot read")
    assert reported(str(tmp_path), good.key).startswith("http.tls_certfile: cannot read")
    assert reported(text, good.key).startswith("http.tls_certfile: ")
    assert reported(good.certificate, text).startswith("http.tls_keyfile: ")
    assert reported(good.certificate, other.key).startswith("http.tls_keyfile: ")
    assert "is not the key of" in reported(good.certificate, other.key)
    assert reported(str(tmp_path / "broken"), good.key).startswith("http.tls_certfile: ")
    assert "set http.tls_keyfile_password_file" in reported(*locked)
    assert reported(*locked, str(tmp_path / "wrong")).startswith("http.tls_keyfile_password_file: ")
    assert reported(*locked, nothing).startswith("http.tls_keyfile_password_file: cannot read")
    Certificate(
        HttpSettings(
            tls_certfile=locked.certificate,
            tls_keyfile=locked.key,
            tls_keyfile_password_file=str(tmp_path / "password"),
        )
    )


# Records.


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="the system has no TCP_INFO")
@pytest.mark.parametrize("is_answered", [False, True])
async def test_tiny_tls_records_are_charged_and_end_the_connection(
    embedded: Site, files: Files, monkeypatch: pytest.MonkeyPatch, *, is_answered: bool
) -> None:
    charged: list[float] = []
    charge = Turns.charge

    def noting(turns: Turns, client: str, spent_s: float) -> None:
        charged.append(spent_s)
        charge(turns, client, spent_s)

    monkeypatch.setattr(Turns, "charge", noting)
    context = files.client("http/1.1")
    async with embedded.gateway({"s": ["t"]}, http=files.http()) as gateway:

        def flood() -> None:
            with (
                socket.create_connection(("127.0.0.1", gateway.port)) as sock,
                context.wrap_socket(sock, server_hostname="127.0.0.1") as tls,
            ):
                tls.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
                if is_answered:  # the body of a GET is discarded after the response
                    tls.sendall(b"Content-Length: 900000\r\n\r\n")
                for _ in range(900_000):
                    tls.send(b"x")

        with pytest.raises(OSError, match=r"reset|pipe|EOF"):
            await asyncio.to_thread(flood)
        assert gateway.count("refused_total", code="TinyRecords") == (not is_answered)
        assert sum(charged) > 1000 * 4e-6


async def test_usual_tls_records_are_accepted(embedded: Site, files: Files) -> None:
    context = files.client("http/1.1")
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\nX-A-Header: its value\r\n\r\n"
    async with embedded.gateway({"s": ["t"]}, http=files.http()) as gateway:

        def ask() -> None:
            """Send many requests, one record each, and one with a body of large records."""
            with (
                socket.create_connection(("127.0.0.1", gateway.port)) as sock,
                context.wrap_socket(sock, server_hostname="127.0.0.1") as tls,
            ):
                for _ in range(1500):
                    tls.sendall(get)
                    while not tls.recv(4096).endswith(b'{"status":"ok"}'):
                        pass
                size = 250_000
                tls.sendall(
                    b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
                )
                tls.sendall(b"x" * size)
                assert tls.recv(4096).startswith(b"HTTP/1.1 200 ")

        await asyncio.to_thread(ask)
        assert gateway.count("refused_total", code="TinyRecords") == 0
