"""The time of day as a test sets it, so that no deadline passes while the machine is busy."""

from __future__ import annotations

import time

import pytest


class StoppedClock:
    """Stops the time of day in this process until it is set; monotonic clocks go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = time.time()
        monkeypatch.setattr(time, "time", lambda: self.now_s)
        monkeypatch.setattr(time, "time_ns", lambda: int(self.now_s * 1000) * 10**6)

    @property
    def now_ms(self) -> int:
        return int(self.now_s * 1000)
