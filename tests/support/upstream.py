"""Servers for `tail` to connect to: one that sends what a test sets, and a real gateway."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 60  # much longer than needed; only a failing test waits that long

OK = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"connection: close\r\n\r\n:ok\n\n"
)
QUICK = b"retry: 1\n\n"
"""Makes a client reconnect at once."""


class Request(NamedTuple):
    target: str
    headers: dict[str, str]


def frame(data: str, event_id: str, event: str = "message") -> bytes:
    return f"event: {event}\ndata: {data}\nid: {event_id}\n\n".encode()


def refusal(status: str, body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status}\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


class Upstream:
    """A server that gives the n-th answer to the n-th connection. The last one stays open."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.requests: queue.Queue[Request] = queue.Queue()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for number, answer in enumerate(self._answers):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            connection.settimeout(PATIENCE_S)
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            self.requests.put(_request(head))
            try:
                connection.sendall(answer)
            except OSError:
                return
            if number + 1 < len(self._answers):
                connection.close()

    def send(self, more: bytes) -> None:
        """Send more on the open connection, after its answer."""
        self._open[-1].sendall(more)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()
        self._thread.join()


@contextmanager
def upstream(*answers: bytes) -> Iterator[Upstream]:
    server = Upstream(answers)
    try:
        yield server
    finally:
        server.close()


class Gateway(NamedTuple):
    url: str
    data: Path


@contextmanager
def gateway(data: Path, *options: str) -> Iterator[Gateway]:
    """Run `eventstreams serve` in a separate process."""
    command = [sys.executable, "-m", "eventstreams", "serve", "--port", "0", "--data-dir", data]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if url := json.loads(line).get("url"):
                break
        else:
            raise AssertionError("the gateway ended before it listened")
        drained = threading.Thread(target=process.stderr.read)
        drained.start()
        try:
            yield Gateway(url, data)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
            drained.join()


class TailProcess:
    """Runs `eventstreams tail` in a separate process."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "eventstreams", "tail", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_without_proxies()
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout, self.stderr = self.process.stdout, self.process.stderr

    def end(self, number: signal.Signals | None = None) -> tuple[bytes, str]:
        """Send the signal, if any; return the rest of both outputs once the process has ended."""
        if number is not None:
            self.process.send_signal(number)
        with self.process:
            return self.stdout.read(), self.stderr.read().decode()

    @property
    def code(self) -> int | None:
        return self.process.returncode


def _without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


def _request(head: bytes) -> Request:
    first, *lines = head.decode().split("\r\n\r\n")[0].split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Request(first.split(" ")[1], {name.lower(): value for name, value in headers.items()})
