"""Determines which answers count as failures, and when a failed execution is retried."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from eventstreams.model.retry_after import parse_retry_after
from eventstreams.propagation.matching import stable

DELAY_MS_MAX = 7 * 86_400_000
"""The longest delay of a retry, whatever the rule or `Retry-After` says: one week."""
_STATUS = re.compile(r"[1-9x][0-9x]{2}")


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a request. A failure of the network has the status 504."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names are in lower case."""
    body: Any = None
    """The first bytes as text, or the parsed JSON if the rule sets `decode_results`."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """A condition on responses, from `retry_on` or `ignore`.

    It holds if every field has one of its values. A condition without fields never holds.
    """

    statuses: tuple[re.Pattern[str], ...] | None = None
    """None if the condition does not name a status."""
    others: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def holds(self, response: Response) -> bool:
        """Return whether the response fulfils the condition."""
        if self.statuses is None and not self.others:
            return False
        text = str(response.status)
        if self.statuses is not None and not any(s.fullmatch(text) for s in self.statuses):
            return False
        seen = {"headers": dict(response.headers), "body": response.body}
        return all(stable(seen.get(name)) in values for name, values in self.others)


def compile_conditions(value: Any) -> Conditions:
    """Compile `{status: [50x, 404], …}`. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("must be a mapping such as {status: [50x]}")
    statuses: tuple[re.Pattern[str], ...] | None = None
    others: list[tuple[str, tuple[Any, ...]]] = []
    for name, wanted in cast("dict[Any, Any]", value).items():
        listed = cast("list[Any]", wanted) if isinstance(wanted, list) else [wanted]
        if name == "status":
            statuses = tuple(_status(each) for each in listed)
        elif name in ("headers", "body"):
            others.append((name, tuple(stable(each) for each in listed)))
        else:
            raise ValueError(f"unknown field {name!r}; known: status, headers, body")
    return Conditions(statuses, tuple(others))


def _status(value: Any) -> re.Pattern[str]:
    text = str(value)
    if isinstance(value, bool) or not _STATUS.fullmatch(text):
        raise ValueError(f"{value!r} is not a status such as 503, '50x' or '5xx'")
    return re.compile(text.replace("x", "[0-9]"))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often a rule retries. An event is tried at most `1 + limit` times."""

    limit: int = 2
    delay_ms: int = 60_000
    factor: float = 6.0
    jitter: float = 0.1
    """The largest share of the delay that is added at random, so that retries spread out."""

    def wait_ms(self, retries_left: int, chance: float, retry_after_ms: int | None = None) -> int:
        """Return the delay before the next attempt, after which `retries_left - 1` are left.

        `chance` is a random number from 0 to 1. A server's `Retry-After` can only make the delay
        longer.
        """
        done = max(0, self.limit - retries_left)
        try:
            delay = self.delay_ms * float(self.factor) ** done
        except OverflowError:
            delay = DELAY_MS_MAX
        delay *= 1 + self.jitter * chance
        return int(min(DELAY_MS_MAX, max(delay, retry_after_ms or 0)))


def retry_after_ms(headers: Mapping[str, str], now_ms: int) -> int | None:
    """Return the delay of a `Retry-After` header in ms; None if it is missing or invalid."""
    wait_s = parse_retry_after(headers.get("retry-after"), now_ms / 1000)
    return None if wait_s is None else min(round(wait_s * 1000), DELAY_MS_MAX)
