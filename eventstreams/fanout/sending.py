"""A send of ASGI that has suspended, carried to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from eventstreams.fanout.connection import Connection
from eventstreams.fanout.ending import End, Reason


async def carry(
    sending: Coroutine[Any, Any, None],
    waiting_for: Any,
    connection: Connection | None,
    stall_timeout_s: float,
) -> End | None:
    """As long as the client takes bytes at all; None where they are sent. Closing is the caller's.

    `waiting_for` is what the coroutine has yielded.
    """
    while True:
        unsent = connection.unsent() if connection else 0
        if waiting_for is None:  # a bare yield: the server only gave the loop a turn
            await asyncio.sleep(0)
            done = {waiting_for}
        else:
            done, _ = await asyncio.wait({waiting_for}, timeout=stall_timeout_s)
        if not done:
            if connection and connection.unsent() < unsent:
                continue  # slow, but moving
            return End(Reason.STALLED)
        try:
            waiting_for = sending.send(None)
        except StopIteration:
            return None
        except Exception as error:
            return End(Reason.DISCONNECTED, error)
