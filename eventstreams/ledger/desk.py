"""The workers of one host share through their parent: it keeps the book and answers, line by line,
and passes on what one worker asks the others.

A worker that dies gives back what it held, for its line to the parent ends with it.
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

from eventstreams.errors import LedgerUnavailable
from eventstreams.ledger.book import Book, Claim, Rate

_log = logging.getLogger(__name__)

_RECEIVE_BYTES = 256 * 1024
_SEND_S = 1.0
"""A worker that takes no answer for so long does not get it; it is paused, or dying."""


class Desk:
    """The parent's side, without an event loop: called when `line` has something to read."""

    def __init__(self, book: Book, holder: str, desks: Callable[[], Iterable[Desk]]) -> None:
        """`line` is this side, `far` the worker's; whoever forks closes the other one. `desks`:
        those of all workers."""
        self.line, self.far = socket.socketpair()
        self.line.settimeout(_SEND_S)
        self.holder = holder
        self._book = book
        self._desks = desks
        self._rest: list[bytes] = []

    def answer(self) -> bool:
        """Answers what has come; False where the worker is gone."""
        try:
            data = self.line.recv(_RECEIVE_BYTES)
        except OSError:
            return False
        for line in _lines(self._rest, data):
            number, what, *rest = json.loads(line)
            self.send([number, self._do(number, what, rest)])
        return bool(data)

    def close(self) -> None:
        self._book.forget(self.holder)
        self.line.close()
        self.far.close()

    def send(self, message: list[Any]) -> bool:
        """To the worker; False where it does not take it."""
        try:
            self.line.sendall(json.dumps(message).encode() + b"\n")
        except OSError:  # perhaps in the middle of a line: it can't be used again
            with contextlib.suppress(OSError):
                self.line.shutdown(socket.SHUT_RDWR)
            return False
        return True

    def _do(self, number: int, what: str, rest: list[Any]) -> Any:
        match what:
            case "ask":
                others = [desk for desk in self._desks() if desk is not self]
                whose = [self.holder, number]
                return sum(desk.send([None, "asked", whose, rest[0]]) for desk in others)
            case "tell":
                (holder, asked), answer = rest
                for desk in self._desks():
                    if desk.holder == holder:
                        desk.send([None, "told", asked, answer])
                return None
            case _:
                return self._look_up(what, rest, time.monotonic())

    def _look_up(self, what: str, rest: list[Any], now: float) -> Any:
        match what:
            case "take":
                claims, rate = rest
                rate = None if rate is None else Rate(*rate)
                return self._book.take(self.holder, [Claim(*c) for c in claims], rate, now)
            case "settle":
                return self._book.settle(self.holder, rest[0])
            case "spend":
                return self._book.spend(rest[0], rest[1], rest[2], now)
            case "put":
                return self._book.put(rest[0], base64.b64decode(rest[1]), rest[2], now)
            case _:
                value = self._book.pop(rest[0], now)
                return None if value is None else base64.b64encode(value).decode()


def _lines(rest: list[bytes], data: bytes) -> list[bytes]:
    """The lines that are whole with `data`; what is left over is kept in `rest`."""
    *lines, last = data.split(b"\n")
    if lines:
        lines[0] = b"".join([*rest, lines[0]])
        rest.clear()
    rest.append(last)
    return lines


class Line:
    """The worker's side."""

    def __init__(self, line: socket.socket, timeout_s: float) -> None:
        self._line = line
        self._timeout_s = timeout_s
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._told: dict[int, asyncio.Queue[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._rest: list[bytes] = []
        self._lost = False
        self._sending = asyncio.Lock()
        self.answer_with: Callable[[Any], Awaitable[Any]] | None = None
        """Answers what another worker asks."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when the parent takes nothing from this line any more."""
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
        """The parent. Raises LedgerUnavailable."""
        return await self._ask(next(self._numbers), asked)

    async def ask_others(self, question: Any) -> tuple[list[Any], int]:
        """What the other workers answer, and how many of them did not in time. Raises
        LedgerUnavailable."""
        number = next(self._numbers)
        told = self._told[number] = asyncio.Queue()
        answers: list[Any] = []
        try:
            asked: int = await self._ask(number, ("ask", question))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    while len(answers) < asked:
                        answers.append(await told.get())
        finally:
            del self._told[number]
        return answers, asked - len(answers)

    async def _ask(self, number: int, asked: Sequence[Any]) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._lost:
                    raise LedgerUnavailable("the parent process is gone")
                data = json.dumps([number, *asked]).encode() + b"\n"
                async with self._sending:
                    await asyncio.get_running_loop().sock_sendall(self._line, data)
                return await answer
        except (OSError, TimeoutError) as error:
            raise LedgerUnavailable("the parent process does not answer") from error
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
                self._heard(*rest)
            elif (answer := self._waiting.get(number)) is not None and not answer.done():
                answer.set_result(rest[0])

    def _heard(self, what: str, number: Any, payload: Any) -> None:
        if what == "asked":
            task = asyncio.create_task(self._answer(number, payload))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif number in self._told:
            self._told[number].put_nowait(payload)

    async def _answer(self, whose: Any, question: Any) -> None:
        if self.answer_with is None:
            return
        try:
            answer = await self.answer_with(question)
            await self.ask("tell", whose, answer)
        except LedgerUnavailable as error:
            _log.warning("another worker's question was not answered: %s", error)


class DeskShared:
    """What is shared over a line."""

    renew_s: float | None = None

    def __init__(self, line: Line) -> None:
        self._line = line

    async def take(self, claims: Sequence[Claim], rate: Rate | None) -> str:
        return str(await self._line.ask("take", claims, rate))

    async def settle(self, counts: Mapping[str, int]) -> None:
        await self._line.ask("settle", counts)

    async def spend(self, key: str, amount: int, per_minute: int) -> float:
        return float(await self._line.ask("spend", key, amount, per_minute))

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._line.ask("put", key, base64.b64encode(value).decode(), ttl_s)

    async def pop(self, key: str) -> bytes | None:
        value = await self._line.ask("pop", key)
        return None if value is None else base64.b64decode(value)

    async def renew(self, counts: Mapping[str, int]) -> None:
        pass

    async def aclose(self) -> None:
        pass  # the line is its owner's, and what this worker held ends with it
