"""Reads the bytes of a file or a pipe on a separate thread.

The thread is a daemon, because reading from a terminal may never return. It bypasses Python's
buffers, whose locks must be free when the interpreter exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Protocol

import click

_CHUNK_BYTES = 1 << 20
_READ_AHEAD = 2  # chunks


class Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


def open_input(name: str) -> tuple[IO[bytes], int | None]:
    """Open a file, or standard input for `-`. Returns it with its size in bytes, or None if
    unknown.

    Raises click.UsageError if there is no such file.
    """
    if name == "-":
        return _standard_input(), None
    path = Path(name)
    if path.is_dir():
        raise click.UsageError(f"{name} is a directory, not a file")
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise click.UsageError(f"{name}: {error.strerror or error}") from error
    status = os.fstat(file.fileno())
    return file, status.st_size if stat.S_ISREG(status.st_mode) else None


def _standard_input() -> IO[bytes]:
    if sys.__stdin__ is None:
        raise click.UsageError("standard input is closed")
    stream = sys.stdin.buffer
    try:
        return os.fdopen(os.dup(stream.fileno()), "rb", buffering=0)
    except (OSError, io.UnsupportedOperation):  # a replacement that is not a real file
        return stream


class Chunks:
    """Iterates over the contents of `file`. Raises OSError if reading fails."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | OSError | None] = asyncio.Queue()
        self._room = threading.Semaphore(_READ_AHEAD)
        self.stopped = False

    def stop(self) -> None:
        """End the iteration early, without reading further."""
        self.stopped = True
        self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        threading.Thread(target=self._read, name="read-input", daemon=True).start()
        while not self.stopped:
            item = await self._queue.get()
            if isinstance(item, OSError):
                raise item
            if item is None or self.stopped:
                return
            self._room.release()
            yield item

    def _read(self) -> None:
        item: bytes | OSError | None
        while True:
            self._room.acquire()
            try:
                item = self._file.read(_CHUNK_BYTES) or None
            except OSError as error:
                item = error
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no one waits
                self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
            if not isinstance(item, bytes):
                return
