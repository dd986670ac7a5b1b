"""What the process does about memory: objects that stay are left alone, free memory is given back.

Python's garbage collector now and then looks at every object, and the event loop waits meanwhile:
70 ms where nothing but the program itself is loaded. So what is there when a process begins to
serve is exempted.

The C library keeps what is freed in case it is needed again: tens of MiB after hundreds of slow
clients, and for ever.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import resource
from collections.abc import Callable

_log = logging.getLogger(__name__)

_ADDRESS_SPACE_BYTES_MIN = 1 << 30
"""The process reserves about 600 MB where nothing limits it."""
_LOOK_EVERY_S = 2.0
_WORTH_IT = 50
"""Streams that have ended since it was last done."""


def keep_objects() -> None:
    """Exempt all objects that there are now from garbage collection, for as long as the process
    lives."""
    gc.collect()
    gc.freeze()


async def give_back(ended: Callable[[], int], trim: Callable[[], None] | None = None) -> None:
    """Runs until cancelled. `ended` counts streams; nothing is done while more of them end."""
    trim = trim or _trim()
    if trim is None:
        return
    before = done = ended()
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        now = ended()
        if now == before and now - done >= _WORTH_IT:
            await asyncio.to_thread(trim)
            done = now
        before = now


def _trim() -> Callable[[], None] | None:
    """glibc's; other C libraries have none, or no need."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return lambda: trim(0)


def check_address_space() -> None:
    """Log a warning where a limit on address space (`ulimit -v`) may end the process in the middle.

    When an allocation fails, orjson ends with a segmentation fault, and jsonschema-rs aborts;
    neither raises MemoryError.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < _ADDRESS_SPACE_BYTES_MIN:
        _log.warning(
            "the limit on address space (ulimit -v) may end the process; limit its memory instead",
            extra={"limit_bytes": soft, "needed_bytes": _ADDRESS_SPACE_BYTES_MIN},
        )
