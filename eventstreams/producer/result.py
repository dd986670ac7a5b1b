"""What became of an event, as the one who sent it is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Accepted:
    """In the log, durably."""

    event: Event


@dataclass(frozen=True, slots=True)
class Rejected:
    """Not in the log, and sending it again as it is would change nothing."""

    event: Event
    reason: str
    """In the words of the intake."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Not known to be in the log: nothing that was tried was answered with yes or no."""

    event: Event
    reason: str
    """Of the last attempt."""


Result = Accepted | Rejected | GaveUp


def event_of(line: bytes) -> Event:
    return cast("Event", json.loads(line))
