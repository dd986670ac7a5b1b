"""Follows a stream across disconnects: reconnects with the id of the last event written.

An event's id is remembered only after the event has been written. The state file is updated before
each wait for more events. Stopping at any moment therefore loses nothing; at worst, the events that
arrived together last are repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import httpx
import orjson

import eventstreams
from eventstreams.cli.state import StateFile, is_header_value
from eventstreams.errors import SseEventTooLarge
from eventstreams.model.sse import MEDIA_TYPE, SseEvent, SseReader, is_event_stream
from eventstreams.relay.answers import (
    Backoff,
    StreamComplete,
    StreamRefused,
    beginning,
    is_final,
    is_token,
    opened,
    readable,
    retry_after_s,
)

_CONNECT_TIMEOUT_S = 10.0
_SILENCE_MAX_S = 60.0  # the gateway sends a comment at least every 15 s
_ID_SHOWN_MAX = 80
_WARNING = "x-eventstreams-warning"
_HEADERS = {"Accept": MEDIA_TYPE, "Cache-Control": "no-cache"}


COMPLETE = "the stream is complete"
"""The message when the server has no more events for the request."""


class Lines(Protocol):
    def write(self, line: bytes) -> None:
        """Write a line without its end. Raises OSError."""
        ...


class Tail:
    def __init__(
        self,
        *,
        url: httpx.URL,
        output: Lines,
        render: Callable[[str], bytes],
        report: Callable[[str], None],
        state: StateFile | None,
        count: int | None,
        token_file: Path | None = None,
        has_end: bool = False,
        has_page: bool = True,
        command: str = "tail",
    ) -> None:
        """Set the collaborators. Stop after `count` events, if given.

        `has_end` is whether the URL is of a stream that ends. When such a response ends, the
        request is repeated at once: the server either answers that there are no more events, or
        continues if it had only stopped. A server that cannot be reached at first is then an error.
        `has_page` is whether the user can open the server's page, which lists its streams.
        `command` is the name of this client in the server's access log: `eventstreams-tail`.
        """
        agent = f"eventstreams-{command}/{eventstreams.__version__}"
        self._client_headers = {**_HEADERS, "User-Agent": agent}
        self._token_file = token_file
        self._url = url
        self._output = output
        self._render = render
        self._report = report
        self._state = state
        self._left = count
        self._last_id = self._kept_id = state.load() if state else None
        self._warned_of_id = False
        self._warned_of: str | None = None
        self._backoff = Backoff()
        self._has_end = has_end
        self._has_page = has_page
        self._has_connected = False
        self._asked_for_end = False
        """Whether no event has arrived since the request that checks for the end of the stream."""

    async def run(self) -> None:
        """Follow the stream until `count` events are written or the server ends the stream (204).

        Otherwise runs until cancelled or until the reader of the output has gone. Raises
        StreamRefused, BrokenPipeError, and OSError if the state cannot be saved.
        """
        timeout = httpx.Timeout(_CONNECT_TIMEOUT_S, read=_SILENCE_MAX_S)
        try:
            async with httpx.AsyncClient(headers=self._client_headers, timeout=timeout) as client:
                while self._left is None or self._left > 0:
                    wait_s, why = await self._connection(client)
                    if self._left == 0:
                        return
                    if why is not None:
                        self._report(f"{why}; retrying in {wait_s:.1f} s")
                        await asyncio.sleep(wait_s)
        except StreamComplete:
            self._report(COMPLETE)
        finally:
            self._save()

    async def _connection(self, client: httpx.AsyncClient) -> tuple[float, str | None]:
        """Use one connection until it ends. Return the seconds to wait after it, and why it ended;
        None if the next request only checks whether the stream is complete."""
        headers = self._headers()
        try:
            async with opened(client, self._url, headers) as response:
                self._has_connected = True
                if response.status_code != 200:
                    return self._refused(response, await beginning(response))
                self._warn(response)
                await self._read(response)
                if self._has_end and self._last_id and not self._asked_for_end:
                    self._asked_for_end = True
                    return 0.0, None
                return self._backoff.next_s(), "the server ended the stream"
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, SseEventTooLarge) as error:
            raise StreamRefused(f"{self._url}: {error}") from error
        except httpx.ReadTimeout:
            return self._backoff.next_s(), f"received nothing for {_SILENCE_MAX_S:.0f} s"
        except httpx.RequestError as error:
            reason = str(error) or type(error).__name__
            what = f"cannot connect to {self._url.netloc.decode()}: {reason}{self._advice()}"
            if self._has_end and not self._has_connected:
                raise StreamRefused(what) from error
            return self._backoff.next_s(), what

    def _warn(self, response: httpx.Response) -> None:
        """Report the gateway's warning about the request, but not again after each reconnect."""
        warning = response.headers.get(_WARNING)
        if warning and warning != self._warned_of:
            self._warned_of = warning
            self._report(f"Warning: {warning}")

    def _advice(self) -> str:
        """Return what to do if no gateway may be running on this host at all."""
        is_here = self._url.host in ("127.0.0.1", "localhost", "::1") and not self._last_id
        return "; is a gateway running? `eventstreams serve` starts one" if is_here else ""

    def _headers(self) -> dict[bytes, bytes]:
        """Return the headers of a request. Raises StreamRefused if the token cannot be read."""
        headers: dict[bytes, bytes] = {}
        if self._last_id:
            headers[b"Last-Event-ID"] = self._last_id.encode()
        if self._token_file is not None:
            where = f"--token-file: {self._token_file}"
            try:
                token = self._token_file.read_bytes().strip()
            except OSError as error:
                raise StreamRefused(f"{where}: {error.strerror or error}") from error
            if not is_token(token):
                raise StreamRefused(f"{where}: a token is one line of visible ASCII characters")
            headers[b"Authorization"] = b"Bearer " + token
        return headers

    async def _read(self, response: httpx.Response) -> None:
        """Write the events of one response, and save the id before each wait for more.

        Raises StreamRefused, SseEventTooLarge.
        """
        content_type = response.headers.get("content-type")
        if not is_event_stream(content_type):
            raise StreamRefused(
                f"{self._url}: the answer is {content_type or 'without a Content-Type'}, "
                f"not {MEDIA_TYPE}"
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
            self._report(f"{event.event}: {_message(event.data)}")
        else:
            self._output.write(self._render(event.data))
            self._backoff.reset()
            self._asked_for_end = False
            if self._left is not None:
                self._left -= 1

    def _remember(self, event_id: str) -> None:
        """Remember the id to resume from.

        An id that a header cannot carry is ignored, so events since the previous id are received
        again rather than lost. An empty id resets the id, and a reconnect then sends none; the
        state file keeps the last non-empty one.
        """
        event_id = event_id.strip(" \t")  # HTTP removes white space around a header's value
        if is_header_value(event_id):
            self._last_id = event_id
            self._kept_id = event_id or self._kept_id
        elif not self._warned_of_id:
            self._warned_of_id = True
            self._report(
                f"the id {event_id[:_ID_SHOWN_MAX]!r} has a character that HTTP cannot carry; "
                "a reconnect resumes at the id before it"
            )

    def _refused(self, response: httpx.Response, body: bytes) -> tuple[float, str]:
        if response.status_code == 204:
            raise StreamComplete
        what = readable(response, body)
        if is_final(response.status_code):
            is_stream = self._url.path.startswith("/v2/stream/")
            if response.status_code == 404 and is_stream and self._has_page:
                what = f"{what.removesuffix('.')}; {self._url.join('/v2/ui/')} lists the streams"
            if self._last_id and self._state:
                what += (
                    " (the id is from the file of --state; remove it if it is damaged or "
                    "belongs to other streams)"
                )
            raise StreamRefused(what)
        return self._backoff.next_s(retry_after_s(response.headers.get("retry-after"))), what

    def _save(self) -> None:
        if self._state:
            self._state.save(self._kept_id)


def _message(data: str) -> str:
    """Return the message of an error or gap, followed by its other fields as compact JSON."""
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
