"""Shares state between instances on several hosts, in Redis.

Callers supply all times; Redis only expires entries.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from eventstreams.quota.redis_client import RedisClient

_CONNECTIONS_MAX = 32
_RAISE = """
local there = tonumber(redis.call('GET', KEYS[1]))
if there and there > tonumber(ARGV[1]) then return there end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return tonumber(ARGV[1])
"""


class RedisState:
    """Implements SharedState. Every call returns within `timeout_s`, or raises."""

    def __init__(self, *, url: str, password: str | None, prefix: str, timeout_s: float) -> None:
        self._client = RedisClient(
            url=url, password=password, timeout_s=timeout_s, connections_max=_CONNECTIONS_MAX
        )
        self._ask = self._client.ask
        self._redis = self._client.commands
        self._prefix = prefix
        self._raise: Any = self._redis.register_script(_RAISE)

    async def get(self, key: str, now_ms: int) -> int | None:  # noqa: ARG002 - Redis expires it
        """Return the number, or None if there is none or it has expired."""
        value = await self._ask(self._redis.get(self._prefix + key))
        return None if value is None else int(value)

    async def put(self, key: str, value: int, ttl_ms: int, now_ms: int) -> None:  # noqa: ARG002
        """Store the number for `ttl_ms`."""
        await self._ask(self._redis.set(self._prefix + key, value, px=ttl_ms))

    async def raise_to(self, key: str, value: int, ttl_ms: int, now_ms: int) -> int:  # noqa: ARG002
        """Store the larger of the stored number and this one, and return it."""
        return int(await self._ask(self._raise(keys=[self._prefix + key], args=[value, ttl_ms])))

    async def count(self, key: str, since_ms: int, now_ms: int) -> int:
        """Return how many times were recorded after `since_ms` and until now."""
        return int(await self._ask(self._redis.zcount(self._prefix + key, f"({since_ms}", now_ms)))

    async def record(self, key: str, kept_ms: int, most: int, now_ms: int) -> None:
        """Record the present time."""
        name = self._prefix + key
        pipe = self._redis.pipeline()
        pipe.zadd(name, {uuid4().hex: now_ms})
        pipe.zremrangebyscore(name, "-inf", now_ms - kept_ms)
        pipe.zremrangebyrank(name, 0, -most - 1)
        pipe.pexpire(name, kept_ms)
        await self._ask(pipe.execute())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
