"""Leases, rates and notes that all processes of a gateway share.

Each process counts its own leases and reports absolute numbers to the backend, so no lease is
returned twice or forgotten. While the backend is unreachable, each process enforces the limits on
its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from eventstreams.errors import QuotaUnavailable
from eventstreams.metrics import Metrics
from eventstreams.quota.counters import QuotaCounters, QuotaRequest, Rate, Usage
from eventstreams.tasks import background

_log = logging.getLogger(__name__)
_AGAIN_S = 1.0
"""The pause before an unreachable backend is tried again."""


class QuotaBackend(Protocol):
    """The shared counters. The methods are those of QuotaCounters; all raise QuotaUnavailable."""

    renew_s: float | None
    """The interval at which `renew` must be called; None if it need not be called."""

    async def take(self, claims: Sequence[QuotaRequest], rate: Rate | None) -> str: ...

    async def settle(self, counts: Mapping[str, int]) -> None: ...

    async def spend(self, key: str, amount: int, per_minute: int) -> float: ...

    async def usage(self, key: str) -> Usage: ...

    async def put(self, key: str, value: bytes, ttl_s: float) -> None: ...

    async def pop(self, key: str) -> bytes | None: ...

    async def renew(self, counts: Mapping[str, int]) -> None:
        """Report that this process is alive, and replace its counts by these."""
        ...

    async def aclose(self) -> None:
        """Close the connection. The leases of this process are released."""
        ...


class LocalQuota:
    """Counters of this process alone."""

    renew_s: float | None = None

    def __init__(self) -> None:
        self._counters = QuotaCounters()

    async def take(self, claims: Sequence[QuotaRequest], rate: Rate | None) -> str:
        return self._counters.take("", claims, rate, time.monotonic())

    async def settle(self, counts: Mapping[str, int]) -> None:
        self._counters.settle("", counts)

    async def spend(self, key: str, amount: int, per_minute: int) -> float:
        return self._counters.spend(key, amount, per_minute, time.monotonic())

    async def usage(self, key: str) -> Usage:
        return self._counters.usage(key, time.monotonic())

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        self._counters.put(key, value, ttl_s, time.monotonic())

    async def pop(self, key: str) -> bytes | None:
        return self._counters.pop(key, time.monotonic())

    async def renew(self, counts: Mapping[str, int]) -> None:
        pass

    async def aclose(self) -> None:
        pass


class Quota:
    """The limits of one process, backed by the shared counters while they can be reached."""

    def __init__(self, shared: QuotaBackend, metrics: Metrics) -> None:
        self._shared = shared
        self._fallback = LocalQuota()
        self._metrics = metrics
        self._held: Counter[str] = Counter()
        self._changed: set[str] = set()
        self._news = asyncio.Event()
        self._reachable = True
        self._not_before = 0.0
        metrics.quota_reachable.set(1)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Report returned leases during the block; release all leases on exit."""
        try:
            async with background(self._settle(), self._renew()):
                yield
        finally:
            with contextlib.suppress(QuotaUnavailable):
                await self._shared.aclose()

    def held(self, key: str) -> int:
        """Return how many leases of a key this process holds."""
        return self._held[key]

    @property
    def leases(self) -> int:
        """The number of leases of all keys that this process holds."""
        return self._held.total()

    async def take(self, most: Mapping[str, int], rate: Rate | None) -> str:
        """Take one lease of each key, or none.

        `most` maps each key to its limit over all processes. Returns "" if the leases are granted,
        otherwise the key whose limit is reached, or RATE. Granted leases must be returned with
        `give`.
        """
        for key in most:
            self._held[key] += 1
        try:
            claims = [QuotaRequest(key, self._held[key], limit) for key, limit in most.items()]
            refused = await self._take(claims, rate)
        except BaseException:
            self.give(most)
            raise
        if refused:
            self.give(most)
        return refused

    def give(self, keys: Mapping[str, int]) -> None:
        """Return one lease of each key."""
        for key in keys:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
        self._changed.update(keys)
        self._news.set()

    async def _take(self, claims: Sequence[QuotaRequest], rate: Rate | None) -> str:
        if self._may_ask():
            try:
                refused = await self._shared.take(claims, rate)
            except QuotaUnavailable as error:
                self._lost(error)
            else:
                self._found()
                return refused
        return await self._fallback.take(claims, rate)

    async def spend(self, key: str, amount: int, per_minute: int) -> float:
        """Spend the amount and return 0.0, or spend nothing and return the seconds to wait."""
        if self._may_ask():
            try:
                return await self._shared.spend(key, amount, per_minute)
            except QuotaUnavailable as error:
                self._lost(error)
        return await self._fallback.spend(key, amount, per_minute)

    async def usage(self, key: str) -> Usage:
        """Return how much of a key's limits is in use; by this process alone if it must be."""
        if self._may_ask():
            try:
                return await self._shared.usage(key)
            except QuotaUnavailable as error:
                self._lost(error)
        return await self._fallback.usage(key)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Store a note where all processes can find it. Raises QuotaUnavailable."""
        await self._shared.put(key, value, ttl_s)

    async def pop(self, key: str) -> bytes | None:
        """Remove a note and return it; None if there is none. Raises QuotaUnavailable.

        If several processes ask, only one gets it.
        """
        return await self._shared.pop(key)

    def _may_ask(self) -> bool:
        return self._reachable or time.monotonic() >= self._not_before

    def _lost(self, error: QuotaUnavailable) -> None:
        if self._reachable:
            _log.warning(
                "the shared limits are unreachable, so this process enforces its limits alone: %s",
                error,
            )
            self._metrics.quota_reachable.set(0)
        self._reachable = False
        self._not_before = time.monotonic() + _AGAIN_S

    def _found(self) -> None:
        if not self._reachable:
            _log.info("the shared limits are reachable again")
            self._metrics.quota_reachable.set(1)
            self._reachable = True
            self._changed.update(self._held)
            self._news.set()

    async def _settle(self) -> None:
        """Report returned leases to the shared counters."""
        while True:
            await self._news.wait()
            self._news.clear()
            keys, self._changed = self._changed, set()
            counts = {key: self._held[key] for key in keys}
            await self._fallback.settle(counts)
            try:
                await self._shared.settle(counts)
            except QuotaUnavailable as error:
                self._lost(error)
                self._changed |= keys
                await asyncio.sleep(_AGAIN_S)
                self._news.set()
            else:
                self._found()

    async def _renew(self) -> None:
        if self._shared.renew_s is None:
            return
        while True:
            try:
                await self._shared.renew(self._held)
            except QuotaUnavailable as error:
                self._lost(error)
            else:
                self._found()
            await asyncio.sleep(self._shared.renew_s)
