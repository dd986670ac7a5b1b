"""Processes on many hosts that share through Redis.

What a process holds is one hash, `held:PROCESS`, that expires unless it is renewed: a host that is
cut off or dies gives back what it held. A Redis that has lost its memory is told everything again.

The address may lead to another server at any time (a failover), and the server's clock may be set.
A connection that was answered with an error is therefore closed, and the command is sent once more
on a new one. Rates keep what is owed beside the time at which that was so: a clock that was set
back adds nothing to it, and one that was set forward clears at most a minute's worth.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any
from uuid import uuid4

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import RedisError, ResponseError

from eventstreams.errors import LedgerUnavailable
from eventstreams.ledger.book import Claim, Rate

_LIVES_MS = 30_000
_CONNECTIONS_MAX = 64
_RATE = """
local function wait(key, amount, per_minute)
  local t = redis.call('TIME')
  local now = t[1] * 1000 + t[2] / 1000
  local owed, at = string.match(redis.call('GET', key) or '', '^(%S+) (%S+)$')
  owed, at = math.min(tonumber(owed) or 0, 60000), tonumber(at) or now
  owed = math.max(0, owed - math.max(0, now - at))
  local cost = 60000 * math.min(amount, per_minute) / per_minute
  local over = owed + cost - 60000
  local granted = over <= 0.001
  if granted then owed = owed + cost end
  if granted or at > now then
    redis.call('SET', key, string.format('%.3f %.3f', owed, now), 'PX', math.ceil(owed) + 1000)
  end
  if granted then return 0 end
  return over
end
"""
_TAKE = (
    _RATE
    + """
local prefix, me, life = ARGV[1], ARGV[2], tonumber(ARGV[3])
if tonumber(ARGV[5]) > 0 and
    wait(prefix .. 'connects:' .. ARGV[4], 1, tonumber(ARGV[5])) > 0 then
  return 'rate'
end
local holders = redis.call('SMEMBERS', prefix .. 'holders')
for _, holder in ipairs(holders) do
  local left = redis.call('PTTL', prefix .. 'held:' .. holder)
  if left == -2 then
    redis.call('SREM', prefix .. 'holders', holder)
  elseif left > life then -- the clock was set back: it would hold for as much longer
    redis.call('PEXPIRE', prefix .. 'held:' .. holder, life)
  end
end
for i = 6, #ARGV, 3 do
  local sum = tonumber(ARGV[i + 1])
  for _, holder in ipairs(holders) do
    if holder ~= me then
      local count = redis.call('HGET', prefix .. 'held:' .. holder, ARGV[i])
      if count then sum = sum + tonumber(count) end
    end
  end
  if sum > tonumber(ARGV[i + 2]) then return ARGV[i] end
end
for i = 6, #ARGV, 3 do redis.call('HSET', prefix .. 'held:' .. me, ARGV[i], ARGV[i + 1]) end
redis.call('SADD', prefix .. 'holders', me)
redis.call('PEXPIRE', prefix .. 'held:' .. me, life)
return ''
"""
)
_SPEND = (
    _RATE
    + "return tostring(wait(ARGV[1] .. 'bytes:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])))"
)
_FAILURES: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError, RuntimeError)
"""RuntimeError: what uvloop raises where a connection was closed between two of its writes."""


class RedisShared:
    renew_s: float | None = _LIVES_MS / 3000

    def __init__(self, *, url: str, password: str | None, prefix: str, timeout_s: float) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            password=password,
            socket_connect_timeout=timeout_s,
            socket_timeout=timeout_s,
            max_connections=_CONNECTIONS_MAX,
            timeout=timeout_s,  # for a free one
            retry=Retry(NoBackoff(), 1),
            retry_on_error=[ResponseError],
            driver_info=DriverInfo(
                lib_version=redis.__version__
            ),  # else each connection reads it from disk
        )
        self._redis: Any = Redis.from_pool(pool)
        self._in_order = asyncio.Lock()
        """Counts are absolute: what was counted later must not be told first."""
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._me = uuid4().hex
        self._take: Any = self._redis.register_script(_TAKE)
        self._spend: Any = self._redis.register_script(_SPEND)

    async def _ask(self, asking: Coroutine[Any, Any, Any], *, in_order: bool = False) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s), contextlib.AsyncExitStack() as turn:
                turn.callback(asking.close)
                if in_order:
                    await turn.enter_async_context(self._in_order)
                answer = await asking
        except _FAILURES as error:
            _be_cancelled()
            # What it says may hold what it was told, keys and addresses.
            raise LedgerUnavailable(f"Redis: {type(error).__name__}") from error
        _be_cancelled()
        return answer

    async def take(self, claims: Sequence[Claim], rate: Rate | None) -> str:
        key, per_minute = rate or ("", 0)
        flat = [field for claim in claims for field in claim]
        arguments = [self._prefix, self._me, _LIVES_MS, key, per_minute, *flat]
        answer: bytes = await self._ask(self._take(args=arguments), in_order=True)
        return answer.decode()

    async def settle(self, counts: Mapping[str, int]) -> None:
        name = f"{self._prefix}held:{self._me}"
        kept = {key: count for key, count in counts.items() if count}
        gone = [key for key, count in counts.items() if not count]
        pipe = self._redis.pipeline()
        if kept:
            pipe.hset(name, mapping=kept)
        if gone:
            pipe.hdel(name, *gone)
        pipe.sadd(f"{self._prefix}holders", self._me)
        pipe.pexpire(name, _LIVES_MS)
        await self._ask(pipe.execute(), in_order=True)

    async def spend(self, key: str, amount: int, per_minute: int) -> float:
        arguments = [self._prefix, key, amount, per_minute]
        return float(await self._ask(self._spend(args=arguments))) / 1000

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._ask(self._redis.set(f"{self._prefix}note:{key}", value, px=int(ttl_s * 1000)))

    async def pop(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask(self._redis.getdel(f"{self._prefix}note:{key}"))
        return value

    async def renew(self, counts: Mapping[str, int]) -> None:
        name = f"{self._prefix}held:{self._me}"
        pipe = self._redis.pipeline()  # in one step
        pipe.delete(name)
        if counts:
            pipe.hset(name, mapping=dict(counts))
            pipe.sadd(f"{self._prefix}holders", self._me)
            pipe.pexpire(name, _LIVES_MS)
        await self._ask(pipe.execute(), in_order=True)

    async def aclose(self) -> None:
        try:
            await self._ask(self._redis.delete(f"{self._prefix}held:{self._me}"))
        finally:
            await self._ask(self._redis.aclose())


def _be_cancelled() -> None:
    """The library may take a cancellation for an error of its own, or lose it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
