"""Restores an embedded log from a backup.

Events that followed the backup are lost, and new events get their offsets. A gap marker at the end
of each partition makes the loss visible: a client that had read lost events continues there because
of the time in its id, and every other reader reads the marker where events are missing.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import EventStreamsError, LogError
from eventstreams.log.sqlite.file import LogFile, translated
from eventstreams.log.sqlite.limits import SqliteLimits
from eventstreams.log.sqlite.transaction import Transaction
from eventstreams.model.event import Partition
from eventstreams.model.gap_marker import restored_record

_SUFFIXES = ("", "-wal", "-shm")


def restore(backup: Path, directory: Path, settings: SqliteSettings) -> list[Partition]:
    """Put a copy of a backup, with its gap markers, into a directory without a log.

    The log appears there complete or not at all. Return its partitions. Raises EventStreamsError
    if the directory has a log, and if the backup is not a log or cannot be copied.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        place = LogFile(directory, settings).path
        files = [Path(f"{place}{suffix}") for suffix in _SUFFIXES]
        if present := [file.name for file in files if file.exists()]:
            raise EventStreamsError(
                f"{directory} has a log already ({', '.join(present)}); stop every process that "
                "uses it, and move its files away first"
            )
        with tempfile.TemporaryDirectory(prefix=".restoring-", dir=directory) as folder:
            copy = LogFile(Path(folder), settings)
            _copy(backup, copy.path)
            try:
                partitions = _mark(copy, settings)
            except LogError as error:
                why = str(error).replace(str(copy.path), str(backup))
                raise EventStreamsError(why) from error
            _sync(copy.path)
            copy.path.rename(place)
        _sync(directory)
    except OSError as error:
        why = f"{error.filename or directory}: {error.strerror or error}"
        raise EventStreamsError(why) from error
    return partitions


def _copy(backup: Path, path: Path) -> None:
    """Copy a backup. Raises OSError, EventStreamsError."""
    if not shutil.copyfile(backup, path).stat().st_size:  # SQLite would make a new log of it
        raise EventStreamsError(f"{backup} is empty")
    with suppress(FileNotFoundError):  # present if the files of a killed gateway were copied
        shutil.copyfile(f"{backup}-wal", f"{path}-wal")


def _mark(file: LogFile, settings: SqliteSettings) -> list[Partition]:
    """Append a gap marker to each partition, and return the partitions. Raises LogError."""
    file.open()
    with closing(file):
        transaction = Transaction(file.connection, settings, SqliteLimits())
        try:
            with file.transaction():
                transaction.reload()
                partitions = transaction.partitions
                transaction.append([restored_record(*partition) for partition in partitions])
                transaction.flush()
        except sqlite3.Error as error:
            raise translated(error, file.path, appending=True) or error from error
    return partitions


def _sync(path: Path) -> None:
    """Make a file, or the names in a directory, durable."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
