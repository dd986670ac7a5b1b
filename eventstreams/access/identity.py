"""Who asks, and what they may read."""

from __future__ import annotations

from typing import NamedTuple


class Identity(NamedTuple):
    subject: str | None
    scopes: frozenset[str]
    expires_at: float
    """Seconds since 1970; its streams end then."""
