"""The ledger: what clients hold, over all that serve them.

Each process counts its own leases; whoever shares is told the absolute numbers, so nothing is
returned twice or never. Where those who share can't be asked, limits hold for each process alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from eventstreams.errors import LedgerUnavailable
from eventstreams.ledger.book import Book, Claim, Rate
from eventstreams.metrics import Metrics
from eventstreams.tasks import background

_log = logging.getLogger(__name__)
_AGAIN_S = 1.0
"""Those who could not be asked are not asked again for so long."""


class Shared(Protocol):
    """Where processes that share meet. All methods raise LedgerUnavailable."""

    renew_s: float | None
    """How often `renew` is to be called; None: never."""

    async def take(self, claims: Sequence[Claim], rate: Rate | None) -> str:
        """As Book.take."""
        ...

    async def settle(self, counts: Mapping[str, int]) -> None:
        """As Book.settle."""
        ...

    async def spend(self, key: str, amount: int, per_minute: int) -> float:
        """As Book.spend."""
        ...

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """As Book.put."""
        ...

    async def pop(self, key: str) -> bytes | None:
        """As Book.pop."""
        ...

    async def renew(self, counts: Mapping[str, int]) -> None:
        """Says that this process lives, and all that it holds, whatever was told before."""
        ...

    async def aclose(self) -> None:
        """Without this process, and what it held."""
        ...


class Alone:
    """One process that shares with nobody."""

    renew_s: float | None = None

    def __init__(self) -> None:
        self._book = Book()

    async def take(self, claims: Sequence[Claim], rate: Rate | None) -> str:
        return self._book.take("", claims, rate, time.monotonic())

    async def settle(self, counts: Mapping[str, int]) -> None:
        self._book.settle("", counts)

    async def spend(self, key: str, amount: int, per_minute: int) -> float:
        return self._book.spend(key, amount, per_minute, time.monotonic())

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        self._book.put(key, value, ttl_s, time.monotonic())

    async def pop(self, key: str) -> bytes | None:
        return self._book.pop(key, time.monotonic())

    async def renew(self, counts: Mapping[str, int]) -> None:
        pass

    async def aclose(self) -> None:
        pass


class Ledger:
    def __init__(self, shared: Shared, metrics: Metrics) -> None:
        self._shared = shared
        self._fallback = Alone()
        self._metrics = metrics
        self._held: Counter[str] = Counter()
        self._changed: set[str] = set()
        self._news = asyncio.Event()
        self._reachable = True
        self._not_before = 0.0
        metrics.ledger_reachable.set(1)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        try:
            async with background(self._settle(), self._renew()):
                yield
        finally:
            with contextlib.suppress(LedgerUnavailable):
                await self._shared.aclose()

    def held(self, key: str) -> int:
        """By this process."""
        return self._held[key]

    @property
    def leases(self) -> int:
        """Of all keys, by this process."""
        return self._held.total()

    async def take(self, most: Mapping[str, int], rate: Rate | None) -> str:
        """One lease of each key, at most so many over all; "", or what is exhausted: a key or
        RATE. What is granted is to be given back once."""
        for key in most:
            self._held[key] += 1
        try:
            claims = [Claim(key, self._held[key], limit) for key, limit in most.items()]
            refused = await self._take(claims, rate)
        except BaseException:
            self.give(most)
            raise
        if refused:
            self.give(most)
        return refused

    def give(self, keys: Mapping[str, int]) -> None:
        for key in keys:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
        self._changed.update(keys)
        self._news.set()

    async def _take(self, claims: Sequence[Claim], rate: Rate | None) -> str:
        if self._may_ask():
            try:
                refused = await self._shared.take(claims, rate)
            except LedgerUnavailable as error:
                self._lost(error)
            else:
                self._found()
                return refused
        return await self._fallback.take(claims, rate)

    async def spend(self, key: str, amount: int, per_minute: int) -> float:
        """0.0 where the amount is granted; else nothing is spent: s until it may be."""
        if self._may_ask():
            try:
                return await self._shared.spend(key, amount, per_minute)
            except LedgerUnavailable as error:
                self._lost(error)
        return await self._fallback.spend(key, amount, per_minute)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keeps a note for all who share. Raises LedgerUnavailable."""
        await self._shared.put(key, value, ttl_s)

    async def pop(self, key: str) -> bytes | None:
        """The note, to one of all who ask. Raises LedgerUnavailable."""
        return await self._shared.pop(key)

    def _may_ask(self) -> bool:
        return self._reachable or time.monotonic() >= self._not_before

    def _lost(self, error: LedgerUnavailable) -> None:
        if self._reachable:
            _log.warning("limits hold for this process alone: %s", error)
            self._metrics.ledger_reachable.set(0)
        self._reachable = False
        self._not_before = time.monotonic() + _AGAIN_S

    def _found(self) -> None:
        if not self._reachable:
            _log.info("limits are shared again")
            self._metrics.ledger_reachable.set(1)
            self._reachable = True
            self._changed.update(self._held)
            self._news.set()

    async def _settle(self) -> None:
        """Tells those who share what has been given back."""
        while True:
            await self._news.wait()
            self._news.clear()
            keys, self._changed = self._changed, set()
            counts = {key: self._held[key] for key in keys}
            await self._fallback.settle(counts)
            try:
                await self._shared.settle(counts)
            except LedgerUnavailable as error:
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
            except LedgerUnavailable as error:
                self._lost(error)
            else:
                self._found()
            await asyncio.sleep(self._shared.renew_s)
