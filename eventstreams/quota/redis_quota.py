"""Shares limits between processes on several hosts through Redis.

The leases of a process are a hash, `held:PROCESS`, that expires unless it is renewed, so a host
that dies or is cut off releases its leases. Each renewal writes the whole hash, in case Redis has
lost its data.

The server's clock may be set. A rate is stored as the amount owed and the time at which it was
owed: setting the clock back does not increase the amount, and setting it forward clears at most the
allowance of a minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any
from uuid import uuid4

from eventstreams.quota.counters import QuotaRequest, Rate, Usage
from eventstreams.quota.redis_client import RedisClient

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
  elseif left > life then -- the clock was set back, which delays the expiry
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
_USAGE = """
local prefix, key = ARGV[1], ARGV[2]
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local function owed(name)
  local owed, at = string.match(redis.call('GET', prefix .. name .. key) or '', '^(%S+) (%S+)$')
  owed = math.min(tonumber(owed) or 0, 60000)
  return tostring(math.max(0, owed - math.max(0, now - (tonumber(at) or now))))
end
local held = 0
for _, holder in ipairs(redis.call('SMEMBERS', prefix .. 'holders')) do
  held = held + tonumber(redis.call('HGET', prefix .. 'held:' .. holder, key) or 0)
end
return {tostring(held), owed('connects:'), owed('bytes:')}
"""


class RedisQuota:
    """The shared counters in Redis."""

    renew_s: float | None = _LIVES_MS / 3000

    def __init__(self, *, url: str, password: str | None, prefix: str, timeout_s: float) -> None:
        self._client = RedisClient(
            url=url, password=password, timeout_s=timeout_s, connections_max=_CONNECTIONS_MAX
        )
        self._redis = self._client.commands
        self._in_order = asyncio.Lock()
        """Keeps reports in order: counts are absolute, so an older one must not arrive last."""
        self._prefix = prefix
        self._me = uuid4().hex
        self._take: Any = self._redis.register_script(_TAKE)
        self._spend: Any = self._redis.register_script(_SPEND)
        self._usage: Any = self._redis.register_script(_USAGE)

    async def _ask(self, asking: Coroutine[Any, Any, Any], *, in_order: bool = False) -> Any:
        return await self._client.ask(asking, in_turn=self._in_order if in_order else None)

    async def take(self, claims: Sequence[QuotaRequest], rate: Rate | None) -> str:
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

    async def usage(self, key: str) -> Usage:
        held, connects_ms, bytes_ms = await self._ask(self._usage(args=[self._prefix, key]))
        return Usage(int(held), float(connects_ms) / 1000, float(bytes_ms) / 1000)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._ask(self._redis.set(f"{self._prefix}note:{key}", value, px=int(ttl_s * 1000)))

    async def pop(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask(self._redis.getdel(f"{self._prefix}note:{key}"))
        return value

    async def renew(self, counts: Mapping[str, int]) -> None:
        name = f"{self._prefix}held:{self._me}"
        pipe = self._redis.pipeline()  # one transaction
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
            await self._client.aclose()
