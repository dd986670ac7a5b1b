"""What one client, and all together, may take up. A lease is a context manager: returned once."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from typing import Self

from eventstreams.access.policy import Policy
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
_RETRY_AFTER_S = 10
_QUANTUM_BYTES = 1 << 20
"""What is paid for at once, so that others are asked seldom."""


class Allowance:
    """How much of what is past a client may be sent, or have looked at, yet."""

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
        """Record that so many bytes were sent, or looked at and not sent."""
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
    def __init__(self, policy: Callable[[], Policy], ledger: Ledger) -> None:
        self._policy = policy
        self._ledger = ledger
        self._filters: Counter[str] = Counter()
        """By canonical text."""

    async def lease(self, address: str | None) -> Lease:
        """For one stream of the client at `address`; None where the proxy in front does not say.

        Raises MissingClientAddress, TooManyConnections, TooManyConnects, GatewayFull.
        """
        limits = self._policy().limits
        per_client = limits.client_ip_connections
        connects = limits.client_ip_connects_per_minute
        catch_up = limits.client_ip_catch_up_bytes_per_minute
        keys: dict[str, int] = {} if limits.streams_max is None else {_ALL: limits.streams_max}
        rate = allowance = None
        if not (per_client is None and connects is None and catch_up is None):
            site = _site(address)
            if per_client is not None:
                keys[site] = per_client
            if connects is not None:
                rate = Rate(site, connects)
            allowance = self.allowance(address)
        if keys or rate:
            _grant(await self._ledger.take(keys, rate), limits)
        return Lease(self._ledger, keys, allowance)

    def allowance(self, address: str | None) -> Allowance | None:
        """How much of what is past the client may look at; None where that is not limited.

        Raises MissingClientAddress.
        """
        catch_up = self._policy().limits.client_ip_catch_up_bytes_per_minute
        return None if catch_up is None else Allowance(self._ledger, _site(address), catch_up)

    async def connect(self, address: str | None) -> None:
        """For a request that costs something and is no stream: it counts as if it opened one.

        Raises MissingClientAddress, TooManyConnects.
        """
        limits = self._policy().limits
        connects = limits.client_ip_connects_per_minute
        if connects is not None:
            rate = Rate(_site(address), connects)
            _grant(await self._ledger.take({}, rate), limits)

    @contextlib.contextmanager
    def filtering(self, selector: Selector | None) -> Generator[None]:
        """A place for the filter of one stream, if it has one.

        Raises GatewayFull where it would be one filter too many.
        """
        filter_ = None if selector is None else selector.filter
        if filter_ is None:
            yield
            return
        most = self._policy().limits.filters_max
        if filter_ not in self._filters and len(self._filters) >= most:
            raise GatewayFull(
                f"There are {most} different filters in use, as many as there may be",
                _RETRY_AFTER_S,
            )
        self._filters[filter_] += 1
        try:
            yield
        finally:
            self._filters[filter_] -= 1
            if not self._filters[filter_]:
                del self._filters[filter_]


def _site(address: str | None) -> str:
    """Raises MissingClientAddress."""
    if not address:
        raise MissingClientAddress(
            "X-Client-IP is required where connections are limited: this one comes from an address "
            "that http.trusted_proxies names, and says nothing of its client"
        )
    return site_of(address)


def _grant(refused: str, limits: LimitSettings) -> None:
    """Raises what the ledger's answer stands for, if it is not that all is granted."""
    if refused == RATE:
        raise TooManyConnects(
            f"Your client IP may open {limits.client_ip_connects_per_minute} streams a minute",
            _RETRY_AFTER_S,
        )
    if refused == _ALL:
        raise GatewayFull("As many streams are open as there may be", _RETRY_AFTER_S)
    if refused:
        raise TooManyConnections(
            f"Your client IP has {limits.client_ip_connections} streams open, as many as it may",
            _RETRY_AFTER_S,
        )
