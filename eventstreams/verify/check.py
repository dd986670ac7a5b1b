"""The type of a check."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from eventstreams.verify.target import Target
from eventstreams.verify.verdict import Verdict


@dataclass(frozen=True)
class Check:
    name: str
    """`group.what`."""
    title: str
    """The expected behaviour, as a sentence."""
    why: str
    """The consequences for clients otherwise."""
    run: Callable[[Target], Awaitable[Verdict]]
    """Runs the check. May raise Skipped, and Wrong, which is a failure."""
    upstream: str = ""
    """The behaviour of EventStreams 0.8.0, if it differs."""

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]
