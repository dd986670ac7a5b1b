"""Why and how streams end."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Reason(Enum):
    """Why a stream ended."""

    DISCONNECTED = "disconnected"
    STALLED = "stalled"
    DRAINED = "drained"
    LOG_ERROR = "log_error"
    GAP = "gap"
    FILTER_ERROR = "filter_error"
    EXPIRED = "expired"
    """What let the client in holds no more."""
    REVOKED = "revoked"
    """The stream needs more by now than the client has shown."""
    CLOSED = "closed"
    """By an operator."""
    FINISHED = "finished"
    """It has reached what it was bounded by."""


class End(NamedTuple):
    reason: Reason
    error: Exception | None = None
