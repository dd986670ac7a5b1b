"""When to write next: at once while that is cheap, in batches when it is not.

Writing one event to N clients costs N system calls whatever its size, so under load events are left
to gather: a write of ten costs hardly more than a write of one. Pure; the caller brings the clock.
"""

from __future__ import annotations

_EASY = 0.5
"""Share of the loop's time that writing event by event may take before batches are formed."""
_FULL = 1.0
"""Share at which the whole of the longest pace is used."""
_WEIGHT = 0.2
"""Of the newest measurement in the running means."""


class Pacer:
    def __init__(self, *, pace_max_s: float) -> None:
        self._pace_max_s = pace_max_s
        self._cost_s = 0.0
        self._interval_s = 1.0
        self._arrivals = 0
        self._round_began: float | None = None

    def arrived(self) -> None:
        """News came in: something that would have been written at once."""
        self._arrivals += 1

    def rest(self, began_s: float, spent_s: float) -> float:
        """How long to let events gather after a round of writes, in s.

        `began_s` is when the round began, by a clock; `spent_s` the processor time it took, which
        unlike the time on the clock says what writing costs when others use the machine too.
        """
        if self._round_began is not None and self._arrivals:
            interval = (began_s - self._round_began) / self._arrivals
            self._interval_s += _WEIGHT * (interval - self._interval_s)
            self._arrivals = 0
        self._round_began = began_s
        self._cost_s += _WEIGHT * (spent_s - self._cost_s)
        load = self._cost_s / max(self._interval_s, 1e-6)
        if load <= _EASY:
            return 0.0
        pace = self._pace_max_s * min(1.0, (load - _EASY) / (_FULL - _EASY))
        return min(max(pace - spent_s, spent_s), self._pace_max_s)
