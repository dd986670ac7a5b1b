"""Samples the memory of a process over time."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Generator

from bench.machine import memory_kib, socket_kib

_EVERY_S = 0.25


class Samples:
    """Samples of memory. `kib` holds (seconds since the start, memory of the process, of all
    sockets)."""

    def __init__(self, began_s: float) -> None:
        """Set `began_s`, the start by the system's clock."""
        self._began_s = began_s
        self.kib: list[tuple[float, int, int]] = []

    def peak_kib(self, since_s: float = 0.0, until_s: float = math.inf) -> int:
        """Return the maximum between two times of the system's clock; 0 if the process had
        ended."""
        kib = (kib for at, kib, _ in self.kib if since_s <= self._began_s + at <= until_s)
        return max(kib, default=0)

    def socket_peak_kib(self) -> int:
        return max(kib for _, _, kib in self.kib)


@contextlib.contextmanager
def sampled(pid: int) -> Generator[Samples]:
    samples, done, began = Samples(time.time()), threading.Event(), time.monotonic()

    def sample() -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            while not done.is_set():
                samples.kib.append((time.monotonic() - began, memory_kib(pid), socket_kib()))
                done.wait(_EVERY_S)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
