"""What an answer that is no stream says, and how long to wait before the next try."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx
import orjson

from eventstreams.errors import EventStreamsError

_PASSING = frozenset({408, 425, 429})
"""Statuses below 500 that may change by themselves."""
_TEXT_MAX = 300  # characters of an answer that is not JSON


class StreamRefused(EventStreamsError):
    """The server's answer is final; asking again would not help."""


class StreamComplete(EventStreamsError):
    """The server has no more events for this request, and says so with 204."""


class Backoff:
    """Waiting times that double with every failure in a row, and differ between clients."""

    def __init__(self, *, base_s: float = 1.0, max_s: float = 60.0) -> None:
        self.base_s = base_s
        """What the server last said in `retry:`."""
        self._max_s = max_s
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next_s(self, at_least_s: float = 0.0) -> float:
        wait_s = min(self._max_s, self.base_s * (1 << self._failures))
        self._failures = min(self._failures + 1, 30)
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, keeps no secret
        return max(at_least_s, wait_s * jitter)


def is_final(status: int) -> bool:
    return status < 500 and status not in _PASSING


def retry_after_s(header: str | None) -> float:
    """Seconds or a date, as RFC 9110 has it; 0 where it says nothing that can be understood."""
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def readable(response: httpx.Response) -> str:
    """The gateway's JSON error in one line; of other servers the first line of text."""
    status = f"{response.status_code} {response.reason_phrase}".strip()
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        text = response.text.strip().split("\n")[0][:_TEXT_MAX]
        return status if not text or text.startswith("<") else f"{status}: {text}"
    fields = cast("dict[str, Any]", document)
    said = [fields.get(key) for key in ("title", "detail", "message")]
    parts = [part for part in said if isinstance(part, str) and part]
    return f"{response.status_code} {': '.join(parts)}" if parts else status
