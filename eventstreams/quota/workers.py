"""Shares limits between the worker processes of one host.

The parent process keeps the counters and answers its workers over a socket pair, one JSON message
per line. It also passes questions of one worker on to the others. When a worker dies, its socket
closes, and its leases are released.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from eventstreams.errors import QuotaUnavailable
from eventstreams.quota.counters import QuotaCounters, QuotaRequest, Rate, Usage

_log = logging.getLogger(__name__)

_RECEIVE_BYTES = 256 * 1024
_SEND_S = 1.0
"""How long the parent waits for a worker to receive an answer before it closes the connection."""


class QuotaServer:
    """The parent's end of the connection to one worker.

    The parent has no event loop; it calls `answer` whenever `line` is readable.
    """

    def __init__(
        self, counters: QuotaCounters, holder: str, servers: Callable[[], Iterable[QuotaServer]]
    ) -> None:
        """Open a socket pair. After the fork, the parent closes `far`, and the worker `line`.

        `servers` returns the servers of all workers.
        """
        self.line, self.far = socket.socketpair()
        self.line.settimeout(_SEND_S)
        self.holder = holder
        self._counters = counters
        self._servers = servers
        self._rest: list[bytes] = []

    def answer(self) -> bool:
        """Answer the messages received. Returns False if the worker has closed the connection."""
        try:
            data = self.line.recv(_RECEIVE_BYTES)
        except OSError:
            return False
        for line in _lines(self._rest, data):
            number, what, *rest = json.loads(line)
            self.send([number, self._do(number, what, rest)])
        return bool(data)

    def close(self) -> None:
        self._counters.forget(self.holder)
        self.line.close()
        self.far.close()

    def send(self, message: list[Any]) -> bool:
        """Send a message to the worker. Returns False, and closes the connection, on failure."""
        try:
            self.line.sendall(json.dumps(message).encode() + b"\n")
        except OSError:  # part of a line may have been sent, so nothing may follow it
            with contextlib.suppress(OSError):
                self.line.shutdown(socket.SHUT_RDWR)
            return False
        return True

    def _do(self, number: int, what: str, rest: list[Any]) -> Any:
        match what:
            case "ask_others":
                others = [server for server in self._servers() if server is not self]
                sender = [self.holder, number]
                return sum(server.send([None, "question", sender, rest[0]]) for server in others)
            case "reply":
                (holder, question), reply = rest
                for server in self._servers():
                    if server.holder == holder:
                        server.send([None, "reply", question, reply])
                return None
            case _:
                return self._look_up(what, rest, time.monotonic())

    def _look_up(self, what: str, rest: list[Any], now: float) -> Any:
        match what:
            case "take":
                claims, rate = rest
                rate = None if rate is None else Rate(*rate)
                requests = [QuotaRequest(*claim) for claim in claims]
                return self._counters.take(self.holder, requests, rate, now)
            case "settle":
                return self._counters.settle(self.holder, rest[0])
            case "spend":
                return self._counters.spend(rest[0], rest[1], rest[2], now)
            case "usage":
                return self._counters.usage(rest[0], now)
            case "put":
                return self._counters.put(rest[0], base64.b64decode(rest[1]), rest[2], now)
            case _:
                value = self._counters.pop(rest[0], now)
                return None if value is None else base64.b64encode(value).decode()


def _lines(rest: list[bytes], data: bytes) -> list[bytes]:
    """Return the lines that `data` completes. The incomplete last line is kept in `rest`."""
    *lines, last = data.split(b"\n")
    if lines:
        lines[0] = b"".join([*rest, lines[0]])
        rest.clear()
    rest.append(last)
    return lines


class QuotaClient:
    """The worker's end of the connection to the parent."""

    def __init__(self, line: socket.socket, timeout_s: float) -> None:
        self._line = line
        self._timeout_s = timeout_s
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._replies: dict[int, asyncio.Queue[Any]] = {}
        """The replies of other workers to each question that waits for them."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._rest: list[bytes] = []
        self._lost = False
        self._sending = asyncio.Lock()
        self.answer_with: Callable[[Any], Awaitable[Any]] | None = None
        """Answers the questions of other workers."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when the parent has closed the connection."""
        line.setblocking(False)
        asyncio.get_running_loop().add_reader(line, self._read)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if not self._lost:
            asyncio.get_running_loop().remove_reader(self._line)
        self._lost = True
        self._line.close()

    async def ask(self, *asked: Any) -> Any:
        """Send a request to the parent and return its answer. Raises QuotaUnavailable."""
        return await self._ask(next(self._numbers), asked)

    async def ask_others(self, question: Any) -> tuple[list[Any], int]:
        """Return the answers of the other workers, and how many did not answer in time.

        Raises QuotaUnavailable.
        """
        number = next(self._numbers)
        replies = self._replies[number] = asyncio.Queue()
        answers: list[Any] = []
        try:
            asked: int = await self._ask(number, ("ask_others", question))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    while len(answers) < asked:
                        answers.append(await replies.get())
        finally:
            del self._replies[number]
        return answers, asked - len(answers)

    async def _ask(self, number: int, asked: Sequence[Any]) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._lost:
                    raise QuotaUnavailable("the parent process has ended")
                data = json.dumps([number, *asked]).encode() + b"\n"
                async with self._sending:
                    await asyncio.get_running_loop().sock_sendall(self._line, data)
                return await answer
        except (OSError, TimeoutError) as error:
            raise QuotaUnavailable("the parent process does not respond") from error
        finally:
            del self._waiting[number]

    def _read(self) -> None:
        try:
            data = self._line.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost = True
            asyncio.get_running_loop().remove_reader(self._line)
            self.on_lost()
        for line in _lines(self._rest, data):
            number, *rest = json.loads(line)
            if number is None:
                self._on_message(*rest)
            elif (answer := self._waiting.get(number)) is not None and not answer.done():
                answer.set_result(rest[0])

    def _on_message(self, what: str, number: Any, payload: Any) -> None:
        if what == "question":
            task = asyncio.create_task(self._answer(number, payload))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif number in self._replies:
            self._replies[number].put_nowait(payload)

    async def _answer(self, sender: Any, question: Any) -> None:
        if self.answer_with is None:
            return
        try:
            answer = await self.answer_with(question)
            await self.ask("reply", sender, answer)
        except QuotaUnavailable as error:
            _log.warning("could not answer a request from another worker: %s", error)


class WorkerQuota:
    """The shared counters in the parent process."""

    renew_s: float | None = None

    def __init__(self, line: QuotaClient) -> None:
        self._line = line

    async def take(self, claims: Sequence[QuotaRequest], rate: Rate | None) -> str:
        return str(await self._line.ask("take", claims, rate))

    async def settle(self, counts: Mapping[str, int]) -> None:
        await self._line.ask("settle", counts)

    async def spend(self, key: str, amount: int, per_minute: int) -> float:
        return float(await self._line.ask("spend", key, amount, per_minute))

    async def usage(self, key: str) -> Usage:
        return Usage(*await self._line.ask("usage", key))

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._line.ask("put", key, base64.b64encode(value).decode(), ttl_s)

    async def pop(self, key: str) -> bytes | None:
        value = await self._line.ask("pop", key)
        return None if value is None else base64.b64decode(value)

    async def renew(self, counts: Mapping[str, int]) -> None:
        pass

    async def aclose(self) -> None:
        pass  # closing the QuotaClient releases the leases
