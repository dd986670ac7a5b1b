"""What clients hold and have used up, counted; pure, the clock is the caller's.

Leases are kept by holder (a process that serves), as absolute counts: telling one twice changes
nothing, and a holder that dies takes its own with it. Rates are GCRA: one time per key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_MINUTE_S = 60.0
_NOTES_MAX = 10_000
_SWEEP_EVERY = 1000

RATE = "rate"
"""The answer where not a claim was refused, but how often they come."""


class Claim(NamedTuple):
    key: str
    own: int
    """How many the holder has, the one that is asked for included."""
    most: int
    """Over all holders."""


class Rate(NamedTuple):
    key: str
    per_minute: int


class Book:
    def __init__(self) -> None:
        self._held: dict[str, dict[str, int]] = {}
        self._due: dict[str, float] = {}
        """When what a key has used is made up for, in s."""
        self._since_sweep = 0
        self._notes: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def take(self, holder: str, claims: Iterable[Claim], rate: Rate | None, now: float) -> str:
        """Empty where all is granted; else what is exhausted, a key or RATE, and none is held."""
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
        """That the holder has so many now."""
        held = self._held.setdefault(holder, {})
        for key, count in counts.items():
            if count > 0:
                held[key] = count
            else:
                held.pop(key, None)

    def forget(self, holder: str) -> None:
        """It is gone, and what it held is free."""
        self._held.pop(holder, None)

    def held(self, key: str) -> int:
        return sum(held.get(key, 0) for held in self._held.values())

    def spend(self, key: str, amount: int, per_minute: int, now: float) -> float:
        """0.0 where the amount is granted; else nothing is spent: s until it may be."""
        return self._wait(f"bytes {key}", amount, per_minute, now)

    def _wait(self, key: str, amount: int, per_minute: int, now: float) -> float:
        """At most a minute's worth at once, whatever one asks for."""
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
        """Keeps a note for a while; beyond so many the oldest is dropped."""
        self._notes[key] = (now + ttl_s, value)
        while self._notes and (
            len(self._notes) > _NOTES_MAX or next(iter(self._notes.values()))[0] <= now
        ):
            self._notes.popitem(last=False)

    def pop(self, key: str, now: float) -> bytes | None:
        """The note, once."""
        until, value = self._notes.pop(key, (0.0, b""))
        return value if until > now else None
