"""Memory of a process over time, beside what is measured."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator

from bench.machine import memory_kib, socket_kib

_EVERY_S = 0.25


class Samples:
    """`kib` are (seconds since the start, memory of the process, of all sockets)."""

    def __init__(self) -> None:
        self.kib: list[tuple[float, int, int]] = []

    def peak_kib(self) -> int:
        return max(kib for _, kib, _ in self.kib)

    def socket_peak_kib(self) -> int:
        return max(kib for _, _, kib in self.kib)


@contextlib.contextmanager
def sampled(pid: int) -> Generator[Samples]:
    samples, done, began = Samples(), threading.Event(), time.monotonic()

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
