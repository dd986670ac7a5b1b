"""Limits what one client, and all clients together, may use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

from eventstreams.access.policy import Policy
from eventstreams.config.settings import LimitSettings
from eventstreams.errors import (
    GatewayFull,
    MissingClientAddress,
    TooManyConnections,
    TooManyConnects,
)
from eventstreams.quota.counters import RATE, Rate
from eventstreams.quota.quota import Quota
from eventstreams.web.address import site_of

_ALL = "*"
_RETRY_AFTER_S = 10
_QUANTUM_BYTES = 1 << 20
"""How many bytes are requested from the quota at once, to keep requests to it rare."""


class Allowance:
    """How many bytes of past events may still be sent to, or examined for, one client."""

    __slots__ = ("_key", "_paid", "_per_minute", "_quota")

    def __init__(self, quota: Quota, key: str, per_minute: int) -> None:
        self._quota = quota
        self._key = key
        self._per_minute = per_minute
        self._paid = 0

    async def wait_s(self) -> float:
        """Return the wait before the next bytes in seconds; 0.0 if they may go now."""
        quantum = min(_QUANTUM_BYTES, self._per_minute // 16 + 1)
        while self._paid <= 0:
            wait_s = await self._quota.spend(self._key, quantum, self._per_minute)
            if wait_s > 0:
                return wait_s
            self._paid += quantum
        return 0.0

    def used(self, size: int) -> None:
        """Record that `size` bytes were sent, or examined and not sent."""
        self._paid -= size


class Lease:
    """The quota of one stream: a context manager that returns it, once, at the end of its block."""

    __slots__ = ("_keys", "_quota", "allowance")

    def __init__(self, quota: Quota, keys: Mapping[str, int], allowance: Allowance | None) -> None:
        self._quota = quota
        self._keys: Mapping[str, int] = keys
        self.allowance = allowance

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        keys, self._keys = self._keys, {}
        if keys:
            self._quota.give(keys)


class Limits:
    def __init__(self, policy: Callable[[], Policy], quota: Quota) -> None:
        self._policy = policy
        self._quota = quota

    async def lease(self, address: str | None) -> Lease:
        """Return a lease for one stream of the client at `address`, None if that is not known.

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
            _grant(await self._quota.take(keys, rate), limits)
        return Lease(self._quota, keys, allowance)

    def allowance(self, address: str | None) -> Allowance | None:
        """Return the client's allowance of past events, or None if that is not limited.

        Raises MissingClientAddress.
        """
        catch_up = self._policy().limits.client_ip_catch_up_bytes_per_minute
        return None if catch_up is None else Allowance(self._quota, _site(address), catch_up)

    async def usage(self, address: str | None) -> dict[str, Any]:
        """Return each limit of the client at `address`, and how much of it is in use.

        Both are None if there is no limit, because then nothing is counted. Raises
        MissingClientAddress.
        """
        limits = self._policy().limits
        connects = limits.client_ip_connects_per_minute
        catch_up = limits.client_ip_catch_up_bytes_per_minute
        used = None
        if not (limits.client_ip_connections is None and connects is None and catch_up is None):
            used = await self._quota.usage(_site(address))
        return {
            "open": _used(limits.client_ip_connections, used and used.held),
            "opened_per_minute": _used(connects, used and used.connects_s * (connects or 0) / 60),
            "history_bytes_per_minute": _used(
                catch_up, used and used.bytes_s * (catch_up or 0) / 60
            ),
        }

    async def connect(self, address: str | None) -> None:
        """Count a costly request that is not a stream as if it opened one.

        Raises MissingClientAddress, TooManyConnects.
        """
        limits = self._policy().limits
        connects = limits.client_ip_connects_per_minute
        if connects is not None:
            rate = Rate(_site(address), connects)
            _grant(await self._quota.take({}, rate), limits)


def _used(most: int | None, used: float | None) -> dict[str, int | None]:
    return {"max": most, "used": None if most is None or used is None else math.ceil(used)}


def _site(address: str | None) -> str:
    """Return the site that limits count. Raises MissingClientAddress."""
    if not address:
        raise MissingClientAddress(
            "X-Client-IP is required because connections are limited: this request comes from a "
            "proxy that http.trusted_proxies names, and does not name its client"
        )
    return site_of(address)


def _grant(refused: str, limits: LimitSettings) -> None:
    """Raise the error for the limit that was exceeded; `refused` is empty if none was."""
    if refused == RATE:
        raise TooManyConnects(
            f"Your client IP may open {limits.client_ip_connects_per_minute} streams per minute",
            _RETRY_AFTER_S,
        )
    if refused == _ALL:
        raise GatewayFull("The gateway has reached its limit of open streams", _RETRY_AFTER_S)
    if refused:
        raise TooManyConnections(
            f"Your client IP has {limits.client_ip_connections} streams open, which is the limit",
            _RETRY_AFTER_S,
        )
