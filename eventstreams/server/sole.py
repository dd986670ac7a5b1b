"""Keeps two gateways from using one embedded log by mistake.

A second gateway would work, but with settings of its own: it would produce synthetic events, send
canary events and relay again, and apply its retention to the records of the first. Programs that
only read the log, and those that append to it on purpose (`import`, `relay`), take no lock.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from eventstreams.config.settings import Settings
from eventstreams.errors import LogUnavailable

_PARTS = ("gateway", "intake")
"""The parts that a process can have in the use of a log. `serve` has both, without `--only`."""
_PID_BYTES_MAX = 20


@contextmanager
def sole_user(settings: Settings) -> Generator[None]:
    """Lock the embedded log of a gateway for the length of the block.

    A gateway and an intake that are separate processes may share a log. Raises LogUnavailable if
    another process has the same part.
    """
    with ExitStack() as stack:
        if settings.log.backend == "sqlite" and not _only_reads(settings):
            for part in _PARTS:
                if settings.only in (None, part):
                    stack.enter_context(_locked(Path(settings.log.data_dir), part))
        yield


def _only_reads(settings: Settings) -> bool:
    """Return whether this is a gateway that changes nothing in its log."""
    sqlite = settings.log.sqlite
    return (
        settings.only == "gateway"
        and not settings.relays
        and settings.demo.stream is None
        and sqlite.retention_age_s is None
        and sqlite.retention_bytes is None
    )


@contextmanager
def _locked(directory: Path, part: str) -> Generator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / f"{part}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:  # opening the log there fails too, with a message
        yield
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(lock, _PID_BYTES_MAX, 0).decode("ascii", "replace") or "unknown"
            raise LogUnavailable(
                f"another {part} (process {owner}) uses the embedded log in {directory.resolve()}; "
                "stop it, or choose another directory with log.data_dir or --data-dir"
            ) from error
        with suppress(OSError):  # the disk is full
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)
