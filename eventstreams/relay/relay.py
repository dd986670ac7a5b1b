"""Runs one relay: its successive connections to the upstream, and its bookmark.

The bookmark is claimed at the start, and again after every error of the log. Each connection begins
at the state of the bookmark. One task reads the response and another appends what has arrived, so a
slow disk makes batches larger, and reading pauses while too much waits to be appended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import httpx

from eventstreams.errors import (
    LogError,
    LogUnavailable,
    RelayFault,
    SseEventTooLarge,
    UnknownTopic,
    UpstreamRefused,
)
from eventstreams.log.base import Bookmark, Log
from eventstreams.metrics import Metrics
from eventstreams.model.event import Record
from eventstreams.model.sse import MEDIA_TYPE, SseBytes, SseReader, is_event_stream
from eventstreams.relay import translation
from eventstreams.relay.answers import (
    Backoff,
    beginning,
    is_final,
    is_token,
    opened,
    readable,
    retry_after_s,
)
from eventstreams.relay.progress import Progress
from eventstreams.relay.routes import Routes
from eventstreams.relay.translation import Tally, Translation
from eventstreams.relay.upstream import Upstream
from eventstreams.tasks import background

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
_BATCHES_MAX = 64
"""How many chunks of a response may wait to be appended; each is the result of one read."""
_APPEND_BYTES_MAX = 4 * 2**20
_SHOWN_BYTES_MAX = 500
_FAULT_WAIT_S = 60.0
"""The pause after an error that only a change at the upstream or by the operator can correct."""


class _Batch(NamedTuple):
    """The records of one chunk of the response."""

    records: Sequence[Record]
    size: int
    """The size in bytes."""
    state: bytes
    tally: Tally


class _Ended(NamedTuple):
    """The reason why a connection ended, and the shortest pause before the next one."""

    why: str
    at_least_s: float = 0.0


class _Complete(Exception):
    """The upstream has no more events for this request (status 204)."""


class Relay:
    """Follows streams of one upstream."""

    def __init__(
        self,
        *,
        name: str,
        upstream: Upstream,
        routes: Routes,
        log: Log,
        metrics: Metrics,
        since_ms: int | None = None,
        token_file: Path | None = None,
        stall_timeout_s: float = 60.0,
        event_bytes_max: int = 16 * 2**20,
        ends_when_refused: bool = False,
        backoff: Backoff | None = None,
        now_ms: int | None = None,
    ) -> None:
        """Set what to follow.

        `name` is the name of the bookmark. `since_ms` applies only to the first start. Unless
        `ends_when_refused` is set, every error is followed by a retry. `now_ms` is the clock.
        """
        self.name = name
        self._upstream = upstream
        self._routes = routes
        self._log = log
        self._metrics = metrics.relay(name)
        self._since_ms = since_ms
        self._token_file = token_file
        self._stall_timeout_s = stall_timeout_s
        self._event_bytes_max = event_bytes_max
        self._ends_when_refused = ends_when_refused
        self._backoff = backoff or Backoff()
        self._now_ms = now_ms
        self._partitions: Mapping[str, int] = {}
        self._is_first = False

    @property
    def topics(self) -> tuple[str, ...]:
        """Our topics, which must exist before `run`."""
        return self._routes.topics

    async def run(self) -> None:
        """Run until cancelled, or until the upstream reports that its streams are complete.

        If `ends_when_refused` is set, raises RelayFault, and LogErrors except LogUnavailable.
        """
        timeout = httpx.Timeout(_CONNECT_TIMEOUT_S, read=self._stall_timeout_s)
        async with httpx.AsyncClient(timeout=timeout) as client:
            while True:
                try:
                    await self._claimed(client)
                except _Complete:
                    _log.info("relay %s: the upstream's streams are complete", self.name)
                    return
                except LogUnavailable as error:
                    await self._pause(_Ended(str(error)), logging.ERROR)
                except (RelayFault, LogError) as error:
                    if self._ends_when_refused:
                        raise
                    await self._pause(_Ended(str(error), _FAULT_WAIT_S), logging.ERROR)

    async def _claimed(self, client: httpx.AsyncClient) -> NoReturn:
        """Claim the bookmark, and connect repeatedly. Raises RelayFault, LogError, _Complete."""
        await self._prepare_topics()
        bookmark = await self._log.claim(f"relay.{self.name}")
        try:
            await self._begin(bookmark)
            while True:
                ended = await self._connection(client, bookmark)
                self._is_first = False
                await self._pause(ended, logging.WARNING)
        finally:
            self._metrics.connected.set(0)
            await bookmark.aclose()

    async def _prepare_topics(self) -> None:
        found = await self._log.partitions(self._routes.topics)
        for topic in self._routes.topics:
            if topic not in found:
                raise UnknownTopic(topic)
        self._partitions = {topic: len(partitions) for topic, partitions in found.items()}

    async def _begin(self, bookmark: Bookmark) -> None:
        """Store an initial state at the first start, so that a stop before the first event loses
        nothing. Raises RelayFault if the bookmark belongs to other streams.
        """
        self._is_first = bookmark.state is None
        if bookmark.state is None:
            now_ms = int(time.time() * 1000) if self._now_ms is None else self._now_ms
            progress = Progress(
                streams=self._upstream.streams, since_ms=self._since_ms, began_ms=now_ms
            )
            await bookmark.append([], progress.encode())
            return
        streams = Progress.decode(bookmark.state).streams
        if sorted(streams) != sorted(self._upstream.streams):
            raise UpstreamRefused(
                f"the bookmark of relay {self.name} is of the streams {', '.join(streams)}, not "
                f"{', '.join(self._upstream.streams)}; name a relay of other streams differently"
            )

    async def _pause(self, ended: _Ended, level: int) -> None:
        wait_s = self._backoff.next_s(ended.at_least_s)
        _log.log(level, "relay %s: %s; retrying in %.1f s", self.name, ended.why, wait_s)
        await asyncio.sleep(wait_s)

    async def _connection(self, client: httpx.AsyncClient, bookmark: Bookmark) -> _Ended:
        """Connect once; return when everything received is appended. Raises RelayFault,
        LogError.
        """
        assert bookmark.state is not None
        progress = Progress.decode(bookmark.state)
        url = self._upstream.target(progress, is_first=self._is_first)
        waiting = asyncio.Queue[_Batch](_BATCHES_MAX)
        fault: RelayFault | None = None
        async with background(self._append(bookmark, waiting)):
            try:
                headers = await self._headers(progress)
                async with opened(client, url, headers) as response:
                    if response.status_code != 200:
                        return self._refused(response, await beginning(response))
                    self._check(url, response)
                    self._metrics.connected.set(1)
                    self._metrics.connections.inc()
                    _log.info(
                        "relay %s: following %s", self.name, response.url.copy_with(query=None)
                    )
                    await self._read(response, progress, waiting)
                    ended = _Ended("the upstream ended the response")
            except httpx.ReadTimeout:
                ended = _Ended(f"the upstream sent nothing for {self._stall_timeout_s:g} s")
            except (httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
                fault = UpstreamRefused(f"{url}: {error}")
                ended = _Ended(str(fault))
            except httpx.RequestError as error:
                reason = str(error) or type(error).__name__
                ended = _Ended(f"no connection to {url.netloc.decode('ascii')}: {reason}")
            except SseEventTooLarge as error:
                fault = RelayFault(f"{error}; this limit is the relay's event_bytes_max")
                ended = _Ended(str(fault))
            except RelayFault as error:
                fault = error
                ended = _Ended(str(error))
            finally:
                self._metrics.connected.set(0)
                self._metrics.caught_up.set(0)
            await waiting.join()
        if fault is not None:
            raise fault
        return ended

    async def _headers(self, progress: Progress) -> dict[bytes, bytes]:
        headers = self._upstream.headers(progress)
        if self._token_file is not None:
            try:
                token = (await asyncio.to_thread(self._token_file.read_bytes)).strip()
            except OSError as error:
                raise RelayFault(f"{self._token_file}: {error.strerror or error}") from error
            if not is_token(token):
                raise RelayFault(
                    f"{self._token_file}: the token must be one line of visible ASCII characters"
                )
            headers[b"Authorization"] = b"Bearer " + token
        return headers

    def _check(self, url: httpx.URL, response: httpx.Response) -> None:
        content_type = response.headers.get("content-type")
        if url.scheme == "https" and response.url.scheme != "https":
            raise UpstreamRefused(f"{url}: redirects to {response.url}, which is not encrypted")
        if not is_event_stream(content_type):
            found = content_type or "without a Content-Type"
            raise UpstreamRefused(f"{response.url}: the response is {found}, not {MEDIA_TYPE}")

    def _refused(self, response: httpx.Response, body: bytes) -> _Ended:
        """Interpret a response that is no stream. Raises UpstreamRefused, _Complete."""
        if response.status_code == 204:
            raise _Complete
        what = f"{response.url.copy_with(query=None)}: {readable(response, body)}"
        if is_final(response.status_code):
            raise UpstreamRefused(f"{what}; the bookmark stays where it is")
        return _Ended(what, retry_after_s(response.headers.get("retry-after")))

    async def _read(
        self, response: httpx.Response, progress: Progress, waiting: asyncio.Queue[_Batch]
    ) -> None:
        """Read a response to its end, and queue its batches.

        Raises RelayFault, SseEventTooLarge, httpx.RequestError, after queueing what came before.
        """
        reader = SseReader(
            last_event_id=progress.last_event_id, event_bytes_max=self._event_bytes_max
        )
        work = Translation(
            progress=progress,
            routes=self._routes,
            partitions=self._partitions,
            keeps_canaries=self._upstream.canaries,
            is_filtered=self._upstream.filter is not None,
        )
        state = progress.encode()
        async for chunk in response.aiter_bytes():
            records: list[Record] = []
            fault: RelayFault | SseEventTooLarge | None = None
            try:
                for frame in reader.feed_bytes(chunk):
                    records += self._frame(frame, work)
                    progress.move_to(frame.id)
                progress.move_to(reader.last_event_id)
            except (RelayFault, SseEventTooLarge) as error:
                fault = error
            if reader.retry_ms is not None:
                self._backoff.base_s = reader.retry_ms / 1000
            before, state = state, progress.encode()
            if records or state != before:
                await waiting.put(_Batch(records, len(chunk), state, work.take_tally()))
            if fault is not None:
                raise fault

    def _frame(self, frame: SseBytes, work: Translation) -> Sequence[Record]:
        if frame.event in (translation.MESSAGE, translation.GAP) and frame.data:
            self._backoff.reset()
            if frame.event == translation.GAP:
                self._warn("a gap", frame)
            return tuple(work.records(frame))
        if frame.event == translation.CAUGHT_UP:
            self._backoff.reset()
            self._metrics.caught_up.set(1)
        elif frame.event == translation.ERROR:
            self._warn("an error", frame)
        return ()

    def _warn(self, what: str, frame: SseBytes) -> None:
        shown = frame.data[:_SHOWN_BYTES_MAX].decode("utf-8", "replace")
        _log.warning("relay %s: the upstream reports %s: %s", self.name, what, shown)

    async def _append(self, bookmark: Bookmark, waiting: asyncio.Queue[_Batch]) -> None:
        """Append queued batches until cancelled. Raises LogError."""
        while True:
            batches = [await waiting.get()]
            size = batches[0].size
            while size < _APPEND_BYTES_MAX and not waiting.empty():
                batches.append(waiting.get_nowait())
                size += batches[-1].size
            records = [record for batch in batches for record in batch.records]
            await bookmark.append(records, batches[-1].state)
            for batch in batches:
                self._metrics.appended(**batch.tally._asdict())
                waiting.task_done()
