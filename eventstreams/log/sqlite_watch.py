"""Whether the files that the embedded log has open are still the ones at their paths.

SQLite keeps writing to a file that was deleted, moved away or replaced, and reports success; the
records are gone when the process ends. Here each file's device and inode are compared with those at
its path, and its size with the size it had. That costs four calls of stat.
"""

from __future__ import annotations

import os
from pathlib import Path

from eventstreams.errors import LogFilesLost

_SUFFIXES = ("", "-wal", "-shm", "-lock")


class FileWatch:
    """`start` once all files are open and there; then `check`. For one thread at a time.

    The database never shrinks. The write-ahead log shrinks only when a process that uses this
    log truncates it; who does so, or sees that another process may have, calls `expect_short_wal`.
    """

    def __init__(self, database: Path) -> None:
        self._paths = [f"{database}{suffix}" for suffix in _SUFFIXES]
        self._identities: list[tuple[int, int]] = []
        self._sizes = [0, 0]
        """Of the database and of its write-ahead log, in bytes: each has had at least so many."""

    def start(self) -> None:
        """Raises LogFilesLost where a file is missing."""
        try:
            found = [os.stat(path) for path in self._paths]
        except OSError as error:
            raise LogFilesLost(_why(error)) from error
        self._identities = [(each.st_dev, each.st_ino) for each in found]
        self._sizes = [each.st_size for each in found[:2]]

    def expect_short_wal(self) -> None:
        """The write-ahead log may have been truncated as it should be."""
        self._sizes[1] = 0

    def check(self, *, is_writer: bool) -> None:
        """Raises LogFilesLost where a file is not the one that is open, or has been cut short.

        `is_writer`: no other process can write meanwhile. Only then does the size of the
        write-ahead log say anything.
        """
        for number, path in enumerate(self._paths):
            try:
                found = os.stat(path)
            except OSError as error:
                raise LogFilesLost(_why(error)) from error
            if (found.st_dev, found.st_ino) != self._identities[number]:
                raise LogFilesLost(f"{path} was replaced by another file while it was in use")
            if number == 0 or (number == 1 and is_writer):
                if found.st_size < self._sizes[number]:
                    raise LogFilesLost(
                        f"{path} was cut from {self._sizes[number]} to {found.st_size} bytes by"
                        " another program while it was in use"
                    )
                self._sizes[number] = found.st_size


def _why(error: OSError) -> str:
    path = error.filename
    if isinstance(error, FileNotFoundError):
        return f"{path} was deleted or moved away while it was in use"
    return f"{path} was in use and can't be found any more: {error.strerror or error}"
