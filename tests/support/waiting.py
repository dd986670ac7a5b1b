"""Waits for conditions that become true at some time, which tests do not assert."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE_S = 60.0
"""The longest wait, which only a failing test reaches."""


async def until(
    met: Callable[[], object | Awaitable[object]],
    *,
    every_s: float = 0.005,
    patience_s: float = PATIENCE_S,
) -> None:
    """Wait until `met` returns, or its awaitable yields, a true value. Raises TimeoutError."""
    async with asyncio.timeout(patience_s):
        while True:
            found = met()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(every_s)
