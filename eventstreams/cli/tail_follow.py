"""Follows a stream through every cut: reconnects with the id of the last event written.

An event's id is remembered only after the event is out; the state file is brought up to date each
time before waiting for more. So a stop at any moment loses nothing, and at worst repeats the events
that arrived together last.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import httpx
import orjson
from httpx_sse import EventSource, ServerSentEvent, SSEError

import eventstreams
from eventstreams.cli.state import StateFile
from eventstreams.cli.tail_answers import (
    Backoff,
    StreamRefused,
    is_final,
    readable,
    retry_after_s,
)
from eventstreams.cli.tail_output import Output

_CONNECT_TIMEOUT_S = 10.0
_SILENCE_MAX_S = 60.0  # the gateway sends a comment at least every 15 s
_LAST_RETRY = re.compile(rb"\nretry: ?(\d{1,9})\n\Z")
_LAST_BYTES = 32
_HEADERS = {
    "Accept": "text/event-stream",
    "Cache-Control": "no-cache",
    "User-Agent": f"eventstreams-tail/{eventstreams.__version__}",
}


class Tail:
    def __init__(
        self,
        *,
        url: httpx.URL,
        output: Output,
        render: Callable[[str], bytes],
        say: Callable[[str], None],
        state: StateFile | None,
        count: int | None,
        token_file: Path | None = None,
    ) -> None:
        self._token_file = token_file
        self._url = url
        self._output = output
        self._render = render
        self._say = say
        self._state = state
        self._left = count
        self._last_id = state.load() if state else None
        self._backoff = Backoff()

    async def run(self) -> None:
        """Returns after `count` events; else runs until cancelled or nobody reads the output.

        Raises StreamRefused, BrokenPipeError, and OSError where the state can't be saved or the
        token not be read.
        """
        timeout = httpx.Timeout(_CONNECT_TIMEOUT_S, read=_SILENCE_MAX_S)
        try:
            async with httpx.AsyncClient(
                headers=_HEADERS, timeout=timeout, follow_redirects=True
            ) as client:
                while self._left is None or self._left > 0:
                    wait_s, why = await self._connection(client)
                    if self._left == 0:
                        return
                    self._say(f"{why}; trying again in {wait_s:.1f} s")
                    await asyncio.sleep(wait_s)
        finally:
            self._save()

    async def _connection(self, client: httpx.AsyncClient) -> tuple[float, str]:
        """One connection from start to end; says how long to wait after it, and why it ended."""
        headers = self._headers()
        try:
            async with client.stream("GET", self._url, headers=headers) as response:
                if response.status_code != 200:
                    await response.aread()
                    return self._refused(response)
                await self._read(response)
                return self._backoff.next_s(), "the server ended the stream"
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, SSEError) as error:
            raise StreamRefused(f"{self._url}: {error}") from error
        except httpx.ReadTimeout:
            return self._backoff.next_s(), f"nothing came for {_SILENCE_MAX_S:.0f} s"
        except httpx.RequestError as error:
            reason = str(error) or type(error).__name__
            return self._backoff.next_s(), f"no connection to {self._url.netloc.decode()}: {reason}"

    def _headers(self) -> dict[bytes, bytes]:
        """Raises OSError."""
        headers: dict[bytes, bytes] = {}
        if self._last_id:
            headers[b"Last-Event-ID"] = self._last_id.encode()
        if self._token_file is not None:
            headers[b"Authorization"] = b"Bearer " + self._token_file.read_bytes().strip()
        return headers

    async def _read(self, response: httpx.Response) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = noticed = _Noticed(response.stream, before_waiting=self._save)
        async with contextlib.aclosing(EventSource(response).aiter_sse()) as events:
            async for event in events:
                self._take(event)
                if self._left == 0:
                    return
        self._honour(noticed.last_retry_ms())

    def _honour(self, retry_ms: int | None) -> None:
        if retry_ms is not None and retry_ms >= 0:
            self._backoff.base_s = retry_ms / 1000

    def _take(self, event: ServerSentEvent) -> None:
        self._honour(event.retry)
        if not event.data:
            pass  # the decoder makes an event of a bare `retry:` or `id:`, too
        elif event.event in ("error", "gap"):
            self._say(f"{event.event}: {_message(event.data)}")
        else:
            self._output.write(self._render(event.data))
            self._backoff.reset()
            if self._left is not None:
                self._left -= 1
        if event.id:
            self._last_id = event.id

    def _refused(self, response: httpx.Response) -> tuple[float, str]:
        what = readable(response)
        if is_final(response.status_code):
            if self._last_id and self._state:
                what += " (does the state file belong to another stream?)"
            raise StreamRefused(what)
        return self._backoff.next_s(retry_after_s(response.headers.get("retry-after"))), what

    def _save(self) -> None:
        if self._state:
            self._state.save(self._last_id)


class _Noticed(httpx.AsyncByteStream):
    """Bytes of a response; tells each time when all that came is used and more is waited for."""

    def __init__(
        self, stream: httpx.AsyncByteStream, *, before_waiting: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._before_waiting = before_waiting
        self._end = b""

    def last_retry_ms(self) -> int | None:
        """What a bare `retry:` at the very end says; the decoder keeps it for an event to come."""
        match = _LAST_RETRY.search(self._end)
        return int(match[1]) if match else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._end = (self._end + chunk)[-_LAST_BYTES:]
            yield chunk
            self._before_waiting()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _message(data: str) -> str:
    """The message of an error or gap, and the rest of what it says in compact JSON."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return data
    if not isinstance(document, dict):
        return orjson.dumps(document).decode()
    fields = cast("dict[str, Any]", document)
    message = fields.pop("message", "")
    rest = orjson.dumps(fields).decode() if fields else ""
    return f"{message} {rest}".strip()
