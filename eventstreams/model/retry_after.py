"""Parses the header `Retry-After` of responses (RFC 9110, section 10.2.3)."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

_DIGITS_MAX = 12


def parse_retry_after(header: str | None, now_s: float) -> float | None:
    """Return the seconds to wait; the header is a number of seconds or a date.

    `now_s` is the time in seconds since 1970. Return 0 for a date in the past, and None if the
    header is missing or invalid.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:_DIGITS_MAX])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_s)
