"""Child processes: started with one JSON argument, ready once they print a line of JSON.

Each further line on a child's standard input requests one on its standard output. A child ends when
its standard input is closed, so none outlives the bench, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import orjson

TOP = Path(__file__).parent.parent
BIN = TOP / "bench" / "bin"
_STOP_TIMEOUT_S = 15


class ChildFailed(Exception):
    """A process ended or did not answer when it should have."""


class Child:
    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603 - a command of the bench itself
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=TOP,
                start_new_session=True,  # Ctrl-C is for the bench, which then stops its processes
            )
        self.pid = self._process.pid
        self._read = b""

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Return the next line of the process. Raises ChildFailed."""
        assert self._process.stdout is not None
        until = time.monotonic() + timeout_s
        while b"\n" not in self._read:
            left = until - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, left))
            got = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not got:
                what = "ended" if ready else f"printed nothing for {timeout_s} s"
                raise ChildFailed(f"{self._process.args!r} {what}:\n{self._last_words()}")
            self._read += got
        line, self._read = self._read.split(b"\n", 1)
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    def ask(self, what: str, timeout_s: float = 10) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(what.encode() + b"\n")
        self._process.stdin.flush()
        return self.answer(timeout_s)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int:
        """Return the exit status. Raises ChildFailed if the process does not end in time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"{self._process.args!r} did not end in {timeout_s} s") from None

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Generator[Child]:
    child = Child(command, log)
    try:
        yield child
    finally:
        child.close()


def module(name: str, argument: dict[str, Any]) -> list[str]:
    """Return the command that runs a module of this folder."""
    return [sys.executable, "-m", f"bench.{name}", orjson.dumps(argument).decode()]


def program(name: str, options: dict[str, Any]) -> list[str]:
    """Return the command that runs one of the C programs. Options that are None are omitted."""
    command = [str(BIN / name)]
    for key, value in options.items():
        if value is not None:
            command += ["--" + key.replace("_", "-"), str(value)]
    return command


def say(document: dict[str, Any]) -> None:
    """Print an answer from a child to the bench."""
    sys.stdout.buffer.write(orjson.dumps(document) + b"\n")
    sys.stdout.buffer.flush()
