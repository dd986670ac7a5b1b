"""Exempts long-lived objects from garbage collection, and returns free memory to the system.

Python's garbage collector examines every object from time to time, and the event loop waits
meanwhile: 70 ms with only the program itself loaded. Objects that exist when a process begins to
serve are therefore exempted, and so are those of streams that stay open.

The C library keeps freed memory for later use and never returns it by itself: tens of MiB after
hundreds of slow clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import resource
import time
from collections.abc import Callable, Generator, Mapping

_log = logging.getLogger(__name__)

_ADDRESS_SPACE_BYTES_MIN = 1 << 30
"""The process reserves about 600 MB if nothing limits it."""
_FULL = 2
"""The generation of a collection that examines all objects but the exempt ones."""
_FULL_EVERY = 2
"""The number of collections of the next younger generation before a full one. A full one examines
the objects added since the last one: about 14,000 objects, which take 10 ms."""
_EXAMINE_EVERY_S = 3600.0
_LOOK_EVERY_S = 2.0
_WORTH_IT = 50
"""How many streams must have ended since the last time memory was returned."""


@contextlib.contextmanager
def kept_objects(clock: Callable[[], float] = time.monotonic) -> Generator[None]:
    """Exempt all existing objects from garbage collection, and later those that survive one.

    A full collection comes whenever the objects of open streams have increased by a quarter, and
    takes 50 ms for 1,000 streams if it examines all of them. Exempt objects are freed as usual when
    nothing refers to them. Only those that refer to each other in a cycle would stay, so
    everything is examined again once an hour.
    """
    examined_s = clock()

    def collecting(phase: str, info: Mapping[str, int]) -> None:
        nonlocal examined_s
        if info["generation"] < _FULL:
            return
        if phase == "stop":
            gc.freeze()
        elif clock() - examined_s >= _EXAMINE_EVERY_S:
            examined_s = clock()
            gc.unfreeze()

    thresholds = gc.get_threshold()
    gc.set_threshold(*thresholds[:2], _FULL_EVERY)
    gc.callbacks.append(collecting)
    try:
        gc.collect()
        yield
    finally:
        gc.callbacks.remove(collecting)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def give_back(
    ended: Callable[[], int],
    trim: Callable[[], None] | None = None,
    *,
    every_s: float = _LOOK_EVERY_S,
) -> None:
    """Return free memory to the system after many streams have ended, until cancelled.

    `ended` returns how many streams have ended so far, and is called every `every_s`. Nothing is
    done while that number still grows. `trim` returns the memory.
    """
    trim = trim or _trim()
    if trim is None:
        return
    before = done = ended()
    while True:
        await asyncio.sleep(every_s)
        now = ended()
        if now == before and now - done >= _WORTH_IT:
            await asyncio.to_thread(trim)
            done = now
        before = now


def _trim() -> Callable[[], None] | None:
    """Return glibc's `malloc_trim`, or None with another C library, which does not need it."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return lambda: trim(0)


def check_address_space() -> None:
    """Log a warning if a limit on address space (`ulimit -v`) may end the process in the middle.

    When an allocation fails, orjson ends with a segmentation fault, and jsonschema-rs aborts;
    neither raises MemoryError.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < _ADDRESS_SPACE_BYTES_MIN:
        _log.warning(
            "the limit on address space (ulimit -v) may end the process; limit its memory instead",
            extra={"limit_bytes": soft, "needed_bytes": _ADDRESS_SPACE_BYTES_MIN},
        )
