"""Handles signals that arrive before the server can.

A server takes most of a second to import its libraries, and then reads files and opens its log. By
default, a SIGHUP in that time would end it, and SIGTERM and SIGINT would end it with another status
than later. Therefore this module imports nothing slow, and `catch_early` runs before anything else.
In the event loop, `during_start` handles the signals first, then `server.drain.Server`. While the
process closes its resources, the handlers of `catch_early` are in place again.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_hangups: list[int] = []
"""SIGHUPs that arrived before the server could reload."""


def catch_early() -> None:
    """End with status 0 on SIGTERM and SIGINT from now on; record a SIGHUP."""
    for number in _STOPPING:
        signal.signal(number, _end)
    signal.signal(signal.SIGHUP, _remember)


@contextlib.contextmanager
def during_start(stop: Callable[[], object]) -> Generator[None]:
    """Call `stop` on SIGTERM and SIGINT while the block runs in the event loop; record a SIGHUP.

    Handlers that are added to the loop inside the block replace these.
    """
    import asyncio  # noqa: PLC0415 - slow to import; `catch_early` comes first

    loop = asyncio.get_running_loop()
    for number in _STOPPING:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, _remember, signal.SIGHUP, None)
    try:
        yield
    finally:
        for number in (*_STOPPING, signal.SIGHUP):
            loop.remove_signal_handler(number)
        catch_early()


def take_hangup() -> bool:
    """Return whether a SIGHUP has arrived since the last call."""
    came = bool(_hangups)
    _hangups.clear()
    return came


def _end(_number: int, _frame: object) -> None:
    os._exit(0)


def _remember(number: int, _frame: object) -> None:
    _hangups.append(number)
