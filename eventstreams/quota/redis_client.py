"""Sends commands to Redis, each of which ends in time or raises an error of ours.

The address may lead to another server at any time (a failover). After an error response, the
connection is therefore closed and the command is sent once more on a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import RedisError, ResponseError

from eventstreams.errors import QuotaUnavailable

_FAILURES: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError, RuntimeError)
"""uvloop raises RuntimeError if a connection is closed between two of its writes."""


class RedisClient:
    """Up to `connections_max` connections to one server."""

    def __init__(
        self, *, url: str, password: str | None, timeout_s: float, connections_max: int
    ) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            password=password,
            socket_connect_timeout=timeout_s,
            socket_timeout=timeout_s,
            max_connections=connections_max,
            timeout=timeout_s,  # the longest wait for a free connection
            retry=Retry(NoBackoff(), 1),
            retry_on_error=[ResponseError],
            # Without a version, each connection reads it from disk.
            driver_info=DriverInfo(lib_version=redis.__version__),
        )
        self.commands: Any = Redis.from_pool(pool)
        """The client of the library, whose coroutines `ask` awaits."""
        self._timeout_s = timeout_s

    async def ask(
        self, asking: Coroutine[Any, Any, Any], *, in_turn: asyncio.Lock | None = None
    ) -> Any:
        """Return the answer to a command, which is sent while `in_turn` is held.

        Raises QuotaUnavailable if that takes longer than `timeout_s`, or fails.
        """
        try:
            async with asyncio.timeout(self._timeout_s), contextlib.AsyncExitStack() as turn:
                turn.callback(asking.close)
                if in_turn is not None:
                    await turn.enter_async_context(in_turn)
                answer = await asking
        except _FAILURES as error:
            _be_cancelled()
            # The text of the error may contain keys and addresses.
            raise QuotaUnavailable(f"Redis: {type(error).__name__}") from error
        _be_cancelled()
        return answer

    async def aclose(self) -> None:
        """Close the connections. Raises QuotaUnavailable."""
        await self.ask(self.commands.aclose())


def _be_cancelled() -> None:
    """Raise CancelledError if it is due; redis-py may turn it into its own error, or drop it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
