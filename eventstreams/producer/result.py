"""The outcomes that a producer reports for an event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The event is durable in the log."""

    event: Event


@dataclass(frozen=True, slots=True)
class Rejected:
    """The event is not in the log, and would be rejected again unchanged."""

    event: Event
    reason: str
    """The reason given by the intake."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The event may not be in the log: no attempt was clearly accepted or rejected."""

    event: Event
    reason: str
    """The reason why the last attempt failed."""


Result = Accepted | Rejected | GaveUp


def event_of(line: bytes) -> Event:
    return cast("Event", json.loads(line))
