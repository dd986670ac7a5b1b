"""Keeps the state that instances of a service share: events they have acted on, recent failures.

`SharedState` is the contract; `MemoryState` serves one process, `RedisState` (redis_state.py) all
that use the same Redis. `Deduplicator` and `Limiters` use the contract.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

from eventstreams.errors import QuotaUnavailable
from eventstreams.model.timestamp import parse_timestamp
from eventstreams.propagation.rule import Rule
from eventstreams.propagation.rule_file import Limit
from eventstreams.propagation.trigger import meta_of

_log = logging.getLogger(__name__)
T = TypeVar("T")

ENTRIES_MAX = 200_000
"""The most entries of MemoryState. The oldest are dropped first, which can repeat an event but
not lose one."""
_SKEW_MS = 1000
"""How much clocks may differ, as in change-propagation."""


class SharedState(Protocol):
    """Numbers by key, each for a limited time. All methods may raise QuotaUnavailable."""

    async def get(self, key: str, now_ms: int) -> int | None:
        """Return the number, or None if there is none or it has expired."""
        ...

    async def put(self, key: str, value: int, ttl_ms: int, now_ms: int) -> None:
        """Store the number for `ttl_ms`."""
        ...

    async def raise_to(self, key: str, value: int, ttl_ms: int, now_ms: int) -> int:
        """Store the larger of the stored number and this one, and return it, atomically."""
        ...

    async def count(self, key: str, since_ms: int, now_ms: int) -> int:
        """Return how many times were recorded after `since_ms` and until now."""
        ...

    async def record(self, key: str, kept_ms: int, most: int, now_ms: int) -> None:
        """Record the present time. Times are kept for `kept_ms`, and only the `most` newest."""
        ...

    async def aclose(self) -> None:
        """Release everything."""
        ...


class MemoryState:
    """State in memory, which is lost when the process ends."""

    def __init__(self, *, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._numbers: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Each key with its number, and the time at which it expires."""
        self._times: OrderedDict[str, deque[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._numbers) + len(self._times)

    async def get(self, key: str, now_ms: int) -> int | None:
        """Return the number, or None if there is none or it has expired."""
        found = self._numbers.get(key)
        if found is None or found[1] <= now_ms:
            self._numbers.pop(key, None)
            return None
        return found[0]

    async def put(self, key: str, value: int, ttl_ms: int, now_ms: int) -> None:
        """Store the number for `ttl_ms`."""
        self._numbers[key] = (value, now_ms + ttl_ms)
        self._numbers.move_to_end(key)
        self._trim(self._numbers)

    async def raise_to(self, key: str, value: int, ttl_ms: int, now_ms: int) -> int:
        """Store the larger of the stored number and this one, and return it."""
        there = await self.get(key, now_ms)
        if there is not None and there > value:
            return there
        await self.put(key, value, ttl_ms, now_ms)
        return value

    async def count(self, key: str, since_ms: int, now_ms: int) -> int:
        """Return how many times were recorded after `since_ms` and until now."""
        return sum(since_ms < each <= now_ms for each in self._times.get(key, ()))

    async def record(self, key: str, kept_ms: int, most: int, now_ms: int) -> None:
        """Record the present time."""
        times = self._times.setdefault(key, deque())
        self._times.move_to_end(key)
        times.append(now_ms)
        while times and (len(times) > most or times[0] <= now_ms - kept_ms):
            times.popleft()
        self._trim(self._times)

    async def aclose(self) -> None:
        """Forget everything."""
        self._numbers.clear()
        self._times.clear()

    def _trim(self, entries: OrderedDict[str, Any]) -> None:
        while len(entries) > self._entries_max:
            entries.popitem(last=False)


class Deduplicator:
    """Detects events that a rule need not act on, like the deduplicator of change-propagation.

    An event is a duplicate if one with the same `meta.id` was acted on, if one with the same `sha1`
    was acted on after this one was made, or if a newer event with the same root event was seen.
    Events are recorded after they were acted on, so a crash in between repeats an event.
    """

    def __init__(self, state: SharedState, *, service: str) -> None:
        self._state = state
        self._service = service

    async def is_duplicate(self, rule: Rule, event: Any, now_ms: int) -> str | None:
        """Return `id`, `sha1` or `root` for a duplicate, else None; also None without the state."""
        return await _or_none(self._check(rule, event, now_ms))

    async def handled(self, rule: Rule, event: Any, started_ms: int, now_ms: int) -> None:
        """Record an event that was acted on from `started_ms` on."""
        await _or_none(self._record(rule, event, started_ms, now_ms))

    async def _check(self, rule: Rule, event: Any, now_ms: int) -> str | None:
        meta, root = meta_of(event), _root_of(event)
        dt_ms, root_ms = _time(meta.get("dt")), _time(root.get("dt"))
        key = self._id_key(rule, event)
        if key and await self._state.get(key, now_ms) is not None:
            return "id"
        if key := self._sha1_key(rule, event):
            done_ms = await self._state.get(key, now_ms)
            made = [each for each in (dt_ms, root_ms) if each is not None]
            if done_ms is not None and any(done_ms - _SKEW_MS > each for each in made):
                return "sha1"
        if (key := self._root_key(rule, event)) and root_ms is not None:
            ttl_ms = int(rule.dedupe_window_s * 1000)
            if await self._state.raise_to(key, root_ms, ttl_ms, now_ms) > root_ms:
                return "root"
        return None

    async def _record(self, rule: Rule, event: Any, started_ms: int, now_ms: int) -> None:
        ttl_ms = max(1, int(rule.dedupe_window_s * 1000 / 24))
        for key in (self._id_key(rule, event), self._sha1_key(rule, event)):
            if key:
                await self._state.put(key, started_ms, ttl_ms, now_ms)

    def _id_key(self, rule: Rule, event: Any) -> str | None:
        return self._key(rule, event, "id", meta_of(event).get("id"))

    def _sha1_key(self, rule: Rule, event: Any) -> str | None:
        return self._key(rule, event, "sha1", cast("dict[str, Any]", event).get("sha1"))

    def _root_key(self, rule: Rule, event: Any) -> str | None:
        return self._key(rule, event, "root", _root_of(event).get("signature"))

    def _key(self, rule: Rule, event: Any, kind: str, value: Any) -> str | None:
        if kind not in rule.deduplicate or not isinstance(value, str) or not value:
            return None
        meta = meta_of(event)
        names = (self._service, rule.name, str(meta.get("stream")), str(meta.get("domain")))
        return ":".join(("dedupe", *names, kind, value))


class Limiters:
    """Counts failures by key, and detects keys that have failed too often within a time."""

    def __init__(
        self, state: SharedState, *, service: str, limits: Mapping[str, Sequence[Limit]]
    ) -> None:
        self._state = state
        self._service = service
        self._limits = limits

    async def exceeds(self, type_: str, key: str, now_ms: int) -> bool:
        """Return whether a limit of failures is reached; False if the state is unavailable."""
        for limit in self._limits.get(type_, ()):
            since_ms = now_ms - int(limit.interval_s * 1000)
            count = await _or_none(self._state.count(self._key(type_, key), since_ms, now_ms))
            if count is not None and count >= limit.limit:
                return True
        return False

    async def failed(self, type_: str, key: str, now_ms: int) -> None:
        """Count a failure."""
        limits = self._limits.get(type_, ())
        if limits:
            kept_ms = max(int(limit.interval_s * 1000) for limit in limits)
            most = max(limit.limit for limit in limits)
            await _or_none(self._state.record(self._key(type_, key), kept_ms, most, now_ms))

    def _key(self, type_: str, key: str) -> str:
        return f"limit:{self._service}:{type_}:{key}"


async def _or_none(asking: Awaitable[T]) -> T | None:
    """Return the result, or None if the state is unavailable."""
    try:
        return await asking
    except QuotaUnavailable as error:
        _log.warning("deduplication and limits are off for this event: %s", error)
    return None


def _root_of(event: Any) -> dict[str, Any]:
    root: Any = cast("dict[str, Any]", event).get("root_event")
    return cast("dict[str, Any]", root) if isinstance(root, dict) else {}


def _time(value: Any) -> int | None:
    return parse_timestamp(value) if isinstance(value, str) else None
