"""Follows a stream through every cut: reconnects with the id of the last event written.

An event's id is remembered only after the event is out; the state file is brought up to date each
time before waiting for more. So a stop at any moment loses nothing, and at worst repeats the events
that arrived together last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import orjson

import eventstreams
from eventstreams.cli.state import StateFile, is_header_value
from eventstreams.cli.tail_answers import (
    Backoff,
    StreamComplete,
    StreamRefused,
    is_final,
    readable,
    retry_after_s,
)
from eventstreams.cli.tail_output import Output
from eventstreams.errors import SseEventTooLarge
from eventstreams.model.sse_reader import CONTENT_TYPE, SseEvent, SseReader, is_event_stream

_CONNECT_TIMEOUT_S = 10.0
_SILENCE_MAX_S = 60.0  # the gateway sends a comment at least every 15 s
_ID_SHOWN_MAX = 80
_HEADERS = {
    "Accept": CONTENT_TYPE,
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
        self._last_id = self._kept_id = state.load() if state else None
        self._warned_of_id = False
        self._backoff = Backoff()

    async def run(self) -> None:
        """Returns after `count` events, or when the server says that the stream is complete (204);
        else runs until cancelled or nobody reads the output.

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
        except StreamComplete:
            self._say("the stream is complete")
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
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, SseEventTooLarge) as error:
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
        """Writes the events of one response. Keeps the id before it waits for more.

        Raises StreamRefused, SseEventTooLarge.
        """
        content_type = response.headers.get("content-type")
        if not is_event_stream(content_type):
            raise StreamRefused(
                f"{self._url}: the answer is {content_type or 'without a Content-Type'}, "
                f"not {CONTENT_TYPE}"
            )
        reader = SseReader(last_event_id=self._last_id or "")
        async for chunk in response.aiter_bytes():
            for event in reader.feed(chunk):
                self._take(event)
                self._remember(reader.last_event_id)
                if self._left == 0:
                    return
            self._remember(reader.last_event_id)
            if reader.retry_ms is not None:
                self._backoff.base_s = reader.retry_ms / 1000
            self._save()

    def _take(self, event: SseEvent) -> None:
        if not event.data:
            pass  # nothing to print
        elif event.event in ("error", "gap"):
            self._say(f"{event.event}: {_message(event.data)}")
        else:
            self._output.write(self._render(event.data))
            self._backoff.reset()
            if self._left is not None:
                self._left -= 1

    def _remember(self, event_id: str) -> None:
        """Take the id to go on from.

        One that no header can carry leaves the one before: what came since is then received again
        rather than lost. An empty one takes the ids back, so a reconnect carries none; the state
        file keeps the last that there was.
        """
        event_id = event_id.strip(" \t")  # HTTP drops it from a header's value
        if is_header_value(event_id):
            self._last_id = event_id
            self._kept_id = event_id or self._kept_id
        elif not self._warned_of_id:
            self._warned_of_id = True
            self._say(
                f"the id {event_id[:_ID_SHOWN_MAX]!r} has a character that HTTP cannot carry; "
                "a reconnect resumes at the id before it"
            )

    def _refused(self, response: httpx.Response) -> tuple[float, str]:
        if response.status_code == 204:
            raise StreamComplete
        what = readable(response)
        if is_final(response.status_code):
            if self._last_id and self._state:
                what += " (does the state file belong to another stream?)"
            raise StreamRefused(what)
        return self._backoff.next_s(retry_after_s(response.headers.get("retry-after"))), what

    def _save(self) -> None:
        if self._state:
            self._state.save(self._kept_id)


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
