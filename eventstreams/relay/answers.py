"""Interprets responses that are no streams, and determines how long to wait before a retry."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, cast

import httpx
import orjson

from eventstreams.errors import EventStreamsError
from eventstreams.model.retry_after import parse_retry_after

_PASSING = frozenset({408, 425, 429})
"""Statuses below 500 after which a retry may succeed."""
_TEXT_MAX = 300  # characters of a response that is not JSON
_ERROR_BYTES_MAX = 64 * 1024
_ERROR_READ_S = 10.0
"""How many bytes of a response that is no stream are read, and for how long: it may be endless."""
_REDIRECTS_MAX = 20
_REPEATED_LEAST_S = 0.1
"""The minimum base delay from the third consecutive failure on. Otherwise a server that sends
`retry: 0` and ends each response at once would get requests without a pause."""
_RETRY_AFTER_MAX_S = 3600.0
"""The longest Retry-After that is obeyed, so that a client never waits forever."""


class StreamRefused(EventStreamsError):
    """The server refuses the request, and would refuse it again."""


class StreamComplete(EventStreamsError):
    """The server has no more events for this request (status 204)."""


class Backoff:
    """Delays that double with each consecutive failure, with a random part.

    A success resets them. Still, no more than `attempts` delays end in any `attempts_s` seconds,
    because a server decides what looks like a success: one event in each response does.
    """

    def __init__(
        self,
        *,
        base_s: float = 1.0,
        max_s: float = 60.0,
        attempts: int = 20,
        attempts_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base_s = base_s
        """The first delay, which a `retry:` field of the server sets."""
        self._max_s = max_s
        self._failures = 0
        self._attempts_s = attempts_s
        self._clock = clock
        self._ends_s = deque[float](maxlen=attempts)
        """When the last delays end, by the clock."""

    def reset(self) -> None:
        """Begin with the first delay again."""
        self._failures = 0

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Return the next delay in seconds, which begins now."""
        base_s = max(self.base_s, _REPEATED_LEAST_S if self._failures > 1 else 0.0)
        wait_s = min(self._max_s, base_s * (1 << self._failures))
        self._failures = min(self._failures + 1, 30)
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, keeps no secret
        wait_s = max(at_least_s, wait_s * jitter)
        now_s = self._clock()
        if len(self._ends_s) == self._ends_s.maxlen:
            wait_s = max(wait_s, self._ends_s[0] + self._attempts_s - now_s)
        self._ends_s.append(now_s + wait_s)
        return wait_s


def is_token(token: bytes) -> bool:
    """Return whether a header can carry this token: visible ASCII without spaces.

    A library that refuses a header quotes it in its error, and the token would appear in a log.
    """
    return all(0x21 <= byte <= 0x7E for byte in token)


def is_final(status: int) -> bool:
    return status < 500 and status not in _PASSING


def retry_after_s(header: str | None) -> float:
    """Return the delay of a `Retry-After`: 0 if there is none or it is invalid, at most an hour."""
    return min(_RETRY_AFTER_MAX_S, parse_retry_after(header, time.time()) or 0.0)


@contextlib.asynccontextmanager
async def opened(
    client: httpx.AsyncClient, url: httpx.URL, headers: Mapping[bytes, bytes]
) -> AsyncGenerator[httpx.Response]:
    """Send a GET request, follow redirects, and yield the response before its body is read.

    The httpx client itself would read the whole body of a redirect, which may be endless.
    Raises httpx.RequestError.
    """
    request = client.build_request("GET", url, headers=dict(headers))
    for _ in range(_REDIRECTS_MAX + 1):
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            if response.next_request is None:
                yield response
                return
            request = response.next_request
        finally:
            await response.aclose()
    raise httpx.TooManyRedirects(f"more than {_REDIRECTS_MAX} redirects", request=request)


async def beginning(response: httpx.Response) -> bytes:
    """Return the first 64 KiB of a body, or what arrives of it within 10 seconds."""
    body = bytearray()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ERROR_READ_S):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) >= _ERROR_BYTES_MAX:
                    break
    return bytes(body[:_ERROR_BYTES_MAX])


def readable(response: httpx.Response, body: bytes) -> str:
    """Return the JSON error of a gateway on one line; for other servers, the first line of text."""
    status = f"{response.status_code} {response.reason_phrase}".strip()
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        text = body.decode("utf-8", "replace").strip().split("\n")[0][:_TEXT_MAX]
        return status if not text or text.startswith("<") else f"{status}: {text}"
    fields = cast("dict[str, Any]", document)
    texts = [fields.get(key) for key in ("title", "detail", "message")]
    parts = [part for part in texts if isinstance(part, str) and part]
    if len(parts) > 1 and parts[1].casefold().startswith(parts[0].casefold()):
        del parts[0]
    return f"{response.status_code} {': '.join(parts)}" if parts else status
