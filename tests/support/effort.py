"""How much work a function does, in seconds of a quiet machine, whatever else this one does now.

Other programs slow a thread down even in its own processor time: they share caches, memory and the
units of a core. So each measurement is divided by that of a fixed piece of work beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_TEXT = b"0123456789abcdef" * 2**14
_LOOKS = bytes(range(255, -1, -1))
_YARDSTICK_S = 0.0012
"""What the fixed piece of work took on a quiet core of the machine that the bounds come from."""


def _yardstick_s() -> float:
    """Measure the fixed piece of work: half of it computes, half of it moves memory."""
    began_s = time.thread_time()
    total = 0
    for n in range(10_000):
        total += n * n
    for _ in range(4):
        _TEXT.translate(_LOOKS)
    return time.thread_time() - began_s


def slowness() -> float:
    """Return how many times slower this thread is now than on a quiet machine; at least 1."""
    return max(1.0, _yardstick_s() / _YARDSTICK_S)


def least_quiet_s(work: Callable[[], object], *, tries: int = 5, enough_s: float = 0.0) -> float:
    """Return the least of several measurements of the processor time of `work`, each in seconds of
    a quiet machine. Stop at the first that is at most `enough_s`."""
    least_s = float("inf")
    for _ in range(tries):
        before = slowness()
        work()  # the fixed piece of work has emptied the caches
        began_s = time.thread_time()
        work()
        taken_s = time.thread_time() - began_s
        least_s = min(least_s, taken_s / max(before, slowness()))
        if least_s <= enough_s:
            break
    return least_s
