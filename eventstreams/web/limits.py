"""What one client, and all together, may take up. A lease is a context manager: returned once."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Generator, Mapping
from typing import Self

from eventstreams.errors import (
    GatewayFull,
    MissingClientAddress,
    TooManyConnections,
    TooManyConnects,
)
from eventstreams.fanout.selector import Selector
from eventstreams.ledger.book import RATE, Rate
from eventstreams.ledger.ledger import Ledger
from eventstreams.settings import LimitSettings
from eventstreams.web.address import site_of

_ALL = "*"
_RETRY_AFTER_S = (5, 30)
"""They must not all come back at once."""
_QUANTUM_BYTES = 1 << 20
"""What is paid for at once, so that others are asked seldom."""


class Allowance:
    """How much of what is past a client may be sent yet."""

    __slots__ = ("_key", "_ledger", "_paid", "_per_minute")

    def __init__(self, ledger: Ledger, key: str, per_minute: int) -> None:
        self._ledger = ledger
        self._key = key
        self._per_minute = per_minute
        self._paid = 0

    async def wait_s(self) -> float:
        """0.0 where the next bytes may go; else for how long not."""
        quantum = min(_QUANTUM_BYTES, self._per_minute // 16 + 1)
        while self._paid <= 0:
            wait_s = await self._ledger.spend(self._key, quantum, self._per_minute)
            if wait_s > 0:
                return wait_s
            self._paid += quantum
        return 0.0

    def used(self, size: int) -> None:
        self._paid -= size


class Lease:
    """Of one stream; given back when the block ends."""

    __slots__ = ("_keys", "_ledger", "allowance")

    def __init__(
        self, ledger: Ledger, keys: Mapping[str, int], allowance: Allowance | None
    ) -> None:
        self._ledger = ledger
        self._keys: Mapping[str, int] = keys
        self.allowance = allowance

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        keys, self._keys = self._keys, {}
        if keys:
            self._ledger.give(keys)


class Limits:
    def __init__(self, settings: LimitSettings, ledger: Ledger) -> None:
        self._ledger = ledger
        self._all = settings.streams_max
        self._per_client = settings.client_ip_connections
        self._connects = settings.client_ip_connects_per_minute
        self._catch_up = settings.client_ip_catch_up_bytes_per_minute
        self._filters_max = settings.filters_max
        self._filters: Counter[Selector] = Counter()

    async def lease(self, address: str | None) -> Lease:
        """For one stream of the client at `address`; None where the proxy in front does not say.

        Raises MissingClientAddress, TooManyConnections, TooManyConnects, GatewayFull.
        """
        keys: dict[str, int] = {} if self._all is None else {_ALL: self._all}
        site = rate = allowance = None
        if not (self._per_client is None and self._connects is None and self._catch_up is None):
            if not address:
                raise MissingClientAddress("X-Client-IP is required where connections are limited")
            site = site_of(address)
            if self._per_client is not None:
                keys[site] = self._per_client
            if self._connects is not None:
                rate = Rate(site, self._connects)
            if self._catch_up is not None:
                allowance = Allowance(self._ledger, site, self._catch_up)
        if keys or rate:
            self._grant(await self._ledger.take(keys, rate))
        return Lease(self._ledger, keys, allowance)

    def _grant(self, refused: str) -> None:
        retry_after_s = random.randint(*_RETRY_AFTER_S)  # noqa: S311
        if refused == RATE:
            raise TooManyConnects(
                f"Your client IP may open {self._connects} streams a minute", retry_after_s
            )
        if refused == _ALL:
            raise GatewayFull("As many streams are open as there may be", retry_after_s)
        if refused:
            raise TooManyConnections(
                f"Your client IP has {self._per_client} streams open, as many as it may",
                retry_after_s,
            )

    @contextlib.contextmanager
    def filtering(self, selector: Selector | None) -> Generator[None]:
        """One stream that wants this. Raises GatewayFull where it would be one filter too many."""
        if selector is None:
            yield
            return
        if selector not in self._filters and len(self._filters) >= self._filters_max:
            raise GatewayFull(
                f"There are {self._filters_max} different filters in use, as many as there may be",
                random.randint(*_RETRY_AFTER_S),  # noqa: S311
            )
        self._filters[selector] += 1
        try:
            yield
        finally:
            self._filters[selector] -= 1
            if not self._filters[selector]:
                del self._filters[selector]
