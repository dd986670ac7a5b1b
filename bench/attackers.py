"""The tools of the attackers in `abuse`: connections from their addresses, and HTTP over them.

Every attacker is bounded: it makes requests at the rate of its plan, on a fixed number of
connections, until its process is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import msgspec

SENT = "sent"
"""The key under which requests and parts of them are counted, beside the statuses of answers."""
_PAUSE_S = 0.05
_READ_BYTES = 1 << 18


class Plan(msgspec.Struct, frozen=True):
    """The input of an attacking process."""

    port: int
    stream: str
    """A public stream with a long history."""
    topic: str
    """The topic of that stream."""
    posted: str
    """A stream that accepts posted events of /test/event."""
    tokens: tuple[str, ...] = ()
    """Valid tokens."""


class Step(msgspec.Struct, frozen=True):
    """An attack and its duration."""

    attack: str
    addresses: tuple[str, ...]
    """The addresses of the attackers, one each."""
    seconds: float
    proxied: bool = False
    """Whether all attackers connect from 127.0.0.1 and name their addresses in X-Client-IP, like a
    proxy. Otherwise they connect from their own addresses."""


class Pace:
    """Limits the attackers of the process to `rate` actions a second in total."""

    def __init__(self, rate: float) -> None:
        self._step_s = 1 / rate
        self._due_s = time.monotonic()

    async def turn(self) -> None:
        now = time.monotonic()
        self._due_s = max(self._due_s, now - 0.1) + self._step_s
        if self._due_s > now:
            await asyncio.sleep(self._due_s - now)


class Connection:
    """One connection of an attacker."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        extra: bytes,
        sent: Callable[[], None],
    ) -> None:
        """Wrap a connection. `sent` is called for each part of a request."""
        self.reader = reader
        self.writer = writer
        self._extra = extra
        """Headers that every request has."""
        self._sent = sent

    def send(self, line: str, *headers: str, body: bytes | None = None) -> None:
        """Send a request. With a `body`, its length is added as a header."""
        lines = [f"{line} HTTP/1.1", "Host: abuse", *headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n" + self._extra + b"\r\n"
        self.write(head + (body or b""))

    def write(self, data: bytes) -> None:
        """Send bytes. Raises ConnectionError if the connection is closed."""
        if self.writer.is_closing():
            raise ConnectionResetError("closed by the gateway")
        self.writer.write(data)
        self._sent()

    async def head(self) -> tuple[int, bytes]:
        """Return the status and the head of the next answer."""
        await self.writer.drain()
        head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), head.lower()

    async def ask(self, line: str, *headers: str, body: bytes | None = None) -> int:
        """Send a request and read its answer, which must state a length. Returns the status."""
        self.send(line, *headers, body=body)
        status, head = await self.head()
        _, found, rest = head.partition(b"content-length:")
        if found:
            await self.reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
        elif status not in (204, 304):
            raise ConnectionError(f"{status} without a length")
        if b"connection: close" in head:
            raise Closed(status)
        return status

    async def swallow(self) -> None:
        """Read to the end of the connection."""
        while await self.reader.read(_READ_BYTES):
            pass


class Closed(ConnectionError):
    """The gateway has answered and closes the connection."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Attacker:
    """An attacker at one address."""

    def __init__(
        self, plan: Plan, step: Step, number: int, *, counted: Counter[str], pace: Pace
    ) -> None:
        """Set the address by its `number`. `counted` and `pace` are shared by all attackers."""
        self.plan = plan
        self.step = step
        self.number = number
        self.pace = pace
        self._address = step.addresses[number]
        self._counted = counted

    def count(self, what: object) -> None:
        self._counted[str(what)] += 1

    @contextlib.asynccontextmanager
    async def connection(self, receive_bytes: int | None = None) -> AsyncGenerator[Connection]:
        """Open a connection. `receive_bytes` is the size of its receive buffer."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        extra = b""
        if self.step.proxied:
            extra = f"X-Client-IP: {self._address}\r\n".encode()
        else:
            sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            sock.bind((self._address, 0))
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.plan.port))
        except BaseException:
            sock.close()
            raise
        limit = _READ_BYTES if receive_bytes is None else receive_bytes
        reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
        try:
            yield Connection(reader, writer, extra, lambda: self.count(SENT))
        finally:
            writer.transport.abort()

    async def at_once(self, count: int, act: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        """Run `act` repeatedly in `count` concurrent tasks. It receives the number of its task."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._again(number, act))

    async def _again(self, number: int, act: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await act(number)
            except Closed as closed:
                self.count(closed.status)
            except (OSError, EOFError, asyncio.LimitOverrunError):
                self.count("failed")
            await asyncio.sleep(_PAUSE_S)

    async def asking(
        self, line: str, *headers: str, body: bytes | None = None, connections: int = 10
    ) -> None:
        """Make one request repeatedly, on several persistent connections."""

        async def act(_: int) -> None:
            async with self.connection() as connection:
                while True:
                    await self.pace.turn()
                    self.count(await connection.ask(line, *headers, body=body))

        await self.at_once(connections, act)

    async def reading(self, targets: list[str], *headers: str, connections: int = 10) -> None:
        """Open a stream on each connection and read it. The targets are used in turn."""
        taken = 0

        async def act(_: int) -> None:
            nonlocal taken
            target = targets[taken % len(targets)]
            taken += 1
            await self.pace.turn()
            async with self.connection() as connection:
                connection.send(f"GET {target}", "Accept-Encoding: identity", *headers)
                status, _head = await connection.head()
                self.count(status)
                if status == 200:
                    await connection.swallow()

        await self.at_once(connections, act)
