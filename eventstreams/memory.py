"""Gives memory back to the system once many clients have left.

The C library keeps what is freed in case it is needed again: tens of MiB after hundreds of slow
clients, and for ever.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

_LOOK_EVERY_S = 2.0
_WORTH_IT = 50
"""Streams that have ended since it was last done."""


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
