"""Counts the leases that clients hold and the rates they use, without clock or I/O.

Leases are counted for each holder (a serving process), as absolute numbers: reporting a number
twice changes nothing, and when a holder dies, its leases are released together. Rates follow the
generic cell rate algorithm (GCRA), which stores one time for each key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_MINUTE_S = 60.0
_NOTES_MAX = 10_000
"""When there are more notes than this, the oldest is dropped."""
_SWEEP_EVERY = 1000

RATE = "rate"
"""The result of `take` if the rate is exceeded, rather than the limit of a key."""


class QuotaRequest(NamedTuple):
    key: str
    own: int
    """The leases of the holder, including the requested one."""
    most: int
    """The limit over all holders."""


class Rate(NamedTuple):
    key: str
    per_minute: int


class Usage(NamedTuple):
    """How much of a key's limits is in use."""

    held: int
    """The leases of all holders."""
    connects_s: float
    """After how many seconds without a connect its whole rate is available again; 60 at most."""
    bytes_s: float
    """The same for bytes."""


class QuotaCounters:
    def __init__(self) -> None:
        self._held: dict[str, dict[str, int]] = {}
        self._due: dict[str, float] = {}
        """The time, in seconds, at which each key has its full allowance again."""
        self._since_sweep = 0
        self._notes: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def take(
        self, holder: str, claims: Iterable[QuotaRequest], rate: Rate | None, now: float
    ) -> str:
        """Grant all claims, or none.

        Returns "" if they are granted, otherwise the key whose limit is reached, or RATE.
        """
        claims = list(claims)
        if rate is not None and self._wait(f"connects {rate.key}", 1, rate.per_minute, now) > 0:
            return RATE
        for claim in claims:
            others = (held for name, held in self._held.items() if name != holder)
            if claim.own + sum(held.get(claim.key, 0) for held in others) > claim.most:
                return claim.key
        self.settle(holder, {claim.key: claim.own for claim in claims})
        return ""

    def settle(self, holder: str, counts: Mapping[str, int]) -> None:
        """Record how many leases of each key the holder has now."""
        held = self._held.setdefault(holder, {})
        for key, count in counts.items():
            if count > 0:
                held[key] = count
            else:
                held.pop(key, None)

    def forget(self, holder: str) -> None:
        """Release everything that the holder holds."""
        self._held.pop(holder, None)

    def held(self, key: str) -> int:
        """Return the number of leases of a key over all holders."""
        return sum(held.get(key, 0) for held in self._held.values())

    def spend(self, key: str, amount: int, per_minute: int, now: float) -> float:
        """Spend the amount and return 0.0, or spend nothing and return the seconds to wait."""
        return self._wait(f"bytes {key}", amount, per_minute, now)

    def usage(self, key: str, now: float) -> Usage:
        """Return how much of a key's limits is in use, without using anything."""
        connects, bytes_ = (self._due.get(f"{kind} {key}", now) for kind in ("connects", "bytes"))
        return Usage(self.held(key), max(0.0, connects - now), max(0.0, bytes_ - now))

    def _wait(self, key: str, amount: int, per_minute: int, now: float) -> float:
        # An amount above the allowance of a minute is charged as that allowance.
        due = max(now, self._due.get(key, now))
        cost = _MINUTE_S * min(amount, per_minute) / per_minute
        over = due + cost - now - _MINUTE_S
        if over > 1e-9:
            return over
        self._due[key] = due + cost
        self._since_sweep += 1
        if self._since_sweep >= _SWEEP_EVERY:
            self._since_sweep = 0
            self._due = {key: due for key, due in self._due.items() if due > now}
        return 0.0

    def put(self, key: str, value: bytes, ttl_s: float, now: float) -> None:
        """Keep a note for `ttl_s` seconds, or until there are more than _NOTES_MAX newer ones."""
        self._notes[key] = (now + ttl_s, value)
        while self._notes and (
            len(self._notes) > _NOTES_MAX or next(iter(self._notes.values()))[0] <= now
        ):
            self._notes.popitem(last=False)

    def pop(self, key: str, now: float) -> bytes | None:
        """Remove a note and return it; None if there is none."""
        until, value = self._notes.pop(key, (0.0, b""))
        return value if until > now else None
