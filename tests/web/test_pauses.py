"""A deadline ends no client whose bytes wait in a socket because the process was paused."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eventstreams.config.settings import HttpSettings, IntakeSettings, LogSettings, Settings
from eventstreams.deadlines import LOOK_S, Deadline, timeout_at
from eventstreams.errors import BodyTimeout
from eventstreams.intake.admission import Admission
from eventstreams.model.catalogue import Catalogue
from eventstreams.turns import Turns
from eventstreams.web.bodies import Bodies
from tests.support.certificates import certificate
from tests.support.gateway import run_gateway, stream_of
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0
HEAD = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock a test can stop, move, or move on whenever nothing is left to do.

    After a pause, it runs its timers before it looks at its sockets, as other event loops do.
    """

    def __init__(self) -> None:
        self.stopped_s: float | None = None
        self.skips = self.timers_first = False
        super().__init__(_Selector(self))

    def time(self) -> float:
        return super().time() if self.stopped_s is None else self.stopped_s

    def stop_clock(self, *, skips: bool = False) -> None:
        self.stopped_s, self.skips = self.time(), skips

    def pause(self, seconds: float = HOUR_S) -> None:
        self.move(seconds)
        self.timers_first = True

    def move(self, seconds: float) -> None:
        self.stopped_s = self.time() + seconds


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if self._loop.timers_first:
            self._loop.timers_first = False
            return []
        if not (self._loop.skips and timeout):
            return super().select(timeout)
        found = super().select(0)
        if not found:
            self._loop.move(timeout)
        return found


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": Loop}


def running() -> Loop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    return loop


class Sender:
    """Sends a body through a socket, in parts."""

    def __init__(self) -> None:
        self.client, self._server = socket.socketpair()
        self._server.setblocking(False)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.close()

    async def receive(self) -> Any:
        body = await asyncio.get_running_loop().sock_recv(self._server, 100)
        return {"type": "http.request", "body": body, "more_body": not body.endswith(b"]")}

    async def body(self, **settings: float) -> bytes:
        admission = Admission(bytes_max=10**7, client_bytes_max=10**7, client_bodies_max=1)
        scope = {"headers": [(b"content-type", b"application/json")]}
        bodies = Bodies(IntakeSettings(**settings), Turns())  # type: ignore[arg-type]
        with admission.lease("192.0.2.1") as lease:
            return await bodies.read(scope, self.receive, lease, "192.0.2.1")


async def steps(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("pauses", [1, 3])
async def test_a_body_that_waits_in_the_socket_after_pauses_is_read(pauses: int) -> None:
    running().stop_clock()
    with Sender() as sender:
        reading = asyncio.create_task(sender.body())
        for part in [b"["] + [b" "] * (pauses - 1) + [b"]"]:
            await steps()
            sender.client.send(part)
            running().pause()
        await steps()
        assert (await reading).startswith(b"[")


async def test_a_body_of_which_no_more_arrives_is_refused() -> None:
    running().stop_clock(skips=True)
    began_s = running().time()
    with Sender() as sender:
        sender.client.send(b"[")
        with pytest.raises(BodyTimeout, match="fewer than 4096 bytes a second"):
            await sender.body()
    assert running().time() - began_s == pytest.approx(3 + LOOK_S, abs=0.01)


async def test_a_body_that_trickles_gains_no_time() -> None:
    running().stop_clock(skips=True)
    began_s = running().time()
    with Sender() as sender:

        async def trickle() -> None:
            while True:
                sender.client.send(b" ")
                await asyncio.sleep(0.1)

        trickling = asyncio.create_task(trickle())
        with pytest.raises(BodyTimeout, match="in time"):
            await sender.body(body_timeout_s=5, body_bytes_per_s_min=1)
        trickling.cancel()
    assert running().time() - began_s == pytest.approx(5 + LOOK_S, abs=0.2)


async def test_a_deadline_moves_only_to_later_times_and_can_be_cancelled() -> None:
    running().stop_clock(skips=True)
    began_s = running().time()
    ended: list[float] = []
    moved = Deadline(began_s + 1, lambda: ended.append(running().time() - began_s))
    moved.move(began_s + 5)
    moved.move(began_s + 2)
    Deadline(began_s + 1, lambda: ended.append(0)).cancel()
    await asyncio.sleep(20)
    assert ended == [pytest.approx(5 + LOOK_S)]


async def test_a_block_within_its_time_is_not_cancelled() -> None:
    running().stop_clock(skips=True)
    async with timeout_at(running().time() + 1):
        await asyncio.sleep(0.5)
    await asyncio.sleep(2)
    with pytest.raises(TimeoutError):
        async with timeout_at(running().time() + 1):
            await asyncio.sleep(2)


# Connections of a gateway.


class Peer:
    """A client whose socket blocks: what it sends has arrived when `send` returns."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    async def received(self) -> bytes:
        return await asyncio.to_thread(self.socket.recv, 10_000)

    async def status(self) -> bytes:
        """Receive a whole response; return its version and status."""
        answer = b""
        while not answer.endswith(b"}"):
            more = await self.received()
            assert more, "the connection was closed"
            answer += more
        return answer[:12]


@asynccontextmanager
async def gateway(http: HttpSettings | None = None) -> AsyncGenerator[Any]:
    settings = Settings(http=http or HttpSettings(), log=LogSettings(backend="memory"))
    async with run_gateway(settings, Catalogue({"s": stream_of("s", ["t"])})) as served:
        yield served


@pytest.mark.parametrize("size", [0, 5])
async def test_a_head_that_waits_in_the_socket_after_a_pause_is_answered(size: int) -> None:
    async with gateway() as served:
        with Peer(served.port) as peer:
            peer.send(HEAD[:size])
            await until(lambda: any(c.begun == bool(size) for c in connections(served)))
            running().stop_clock()
            peer.send(HEAD[size:])
            running().pause()
            assert await peer.status() == b"HTTP/1.1 200"


async def test_a_request_on_an_idle_connection_is_answered_after_a_pause() -> None:
    async with gateway() as served:
        with Peer(served.port) as peer:
            peer.send(HEAD)
            assert await peer.status() == b"HTTP/1.1 200"
            await until(lambda: any(c.timeout_keep_alive_task for c in connections(served)))
            running().stop_clock()
            peer.send(HEAD)
            running().pause()
            assert await peer.status() == b"HTTP/1.1 200"


async def test_a_handshake_goes_on_after_a_pause(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    context = files.client("http/1.1")
    async with gateway(files.http()) as served:
        with Peer(served.port) as peer:
            await until(lambda: bool(connections(served)))
            await steps(20)
            running().stop_clock()
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            peer.send(outgoing.read())
            running().pause()
            done = answered = False
            while not answered:
                received = await peer.received()
                assert received, "the connection was closed"
                incoming.write(received)
                with contextlib.suppress(ssl.SSLWantReadError):
                    if not done:
                        tls.do_handshake()
                        done = True
                        tls.write(HEAD)
                    answered = tls.read(12) == b"HTTP/1.1 200"
                peer.send(outgoing.read())


def connections(served: Any) -> list[Any]:
    return list(served.server.server_state.connections)
