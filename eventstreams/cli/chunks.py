"""Bytes of a file or a pipe, read on a thread of their own.

The thread is a daemon, because a read of a terminal may never return; it reads without Python's
buffers, whose locks must be free when the interpreter ends.
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
    """The file, or standard input for `-`, and its size in bytes where it has one.

    Raises click.UsageError where there is no such file.
    """
    if name == "-":
        return _standard_input(), None
    path = Path(name)
    if path.is_dir():
        raise click.UsageError(f"{name} is a directory; a file of JSON lines is needed")
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
    except (OSError, io.UnsupportedOperation):  # something in its place that is not a file
        return stream


class Chunks:
    """Iterates over what `file` holds. Raises OSError where reading fails."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | OSError | None] = asyncio.Queue()
        self._room = threading.Semaphore(_READ_AHEAD)
        self.stopped = False

    def stop(self) -> None:
        """Ends the iteration early, without reading further."""
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
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants it
                self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
            if not isinstance(item, bytes):
                return
