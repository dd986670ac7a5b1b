"""Posts lines to the intake of a running gateway, in requests of bounded size, one at a time.

Events need not name their stream and schema: the command gets both from the gateway and adds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, cast

import click
import httpx

import eventstreams
from eventstreams.cli.lines import BadDocument, Line
from eventstreams.cli.sink import EventSink, NotStored, Opening, SinkMaker
from eventstreams.model.nearest import did_you_mean
from eventstreams.producer.answer import Answer, Fate, read
from eventstreams.relay.answers import Backoff, is_token, readable, retry_after_s

LINE_BYTES_MAX = 4 * 2**20
"""Longer lines are refused here; the intake's own limit is usually lower."""
_BATCH_BYTES = 512 * 2**10
_BATCH_EVENTS = 100
_TIMEOUT_S = 30.0
_ATTEMPTS = 5
_BUSY = (429, 503)
"""With these statuses, the gateway has stored nothing, and Retry-After says when to try again."""


class Target:
    """A stream of a running gateway, and the schema of its events."""

    def __init__(self, base: str, stream: str, token_file: Path | None) -> None:
        """Check the URL and the token. Raises click.UsageError, OSError."""
        self.base = base.rstrip("/")
        self.stream = stream
        self.names: frozenset[str] = frozenset()
        """The stream's name and aliases."""
        self.schema_uri: str | None = None
        self.headers = {
            "Content-Type": "application/json",
            "User-Agent": f"eventstreams-produce/{eventstreams.__version__}",
        }
        try:
            url = httpx.URL(self.base)
        except httpx.InvalidURL as error:
            raise click.UsageError(f"--url: {base!r} is not a URL: {error}") from error
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            raise click.UsageError(
                f"--url: {base!r} is not the URL of a gateway, such as https://stream.example.org"
            )
        if token_file is not None:
            token = token_file.read_bytes().strip()
            if not token or not is_token(token):
                raise click.UsageError(
                    f"--token-file: {token_file}: a key is one line of visible ASCII"
                )
            self.headers["Authorization"] = f"Bearer {token.decode()}"

    async def look_up(self, client: httpx.AsyncClient) -> None:
        """Find the stream and its newest schema. Raises NotStored, click.UsageError."""
        answer = await self._get(client, "/v2/streams")
        streams = answer.get("streams")
        if not isinstance(streams, dict):
            raise NotStored(f"{self.base} is not a gateway: its /v2/streams lists no streams")
        found = cast("dict[str, dict[str, Any]]", streams)
        by_name = {n: s for s in found.values() for n in (s["stream"], *s["stream_aliases"])}
        if self.stream not in by_name:
            hint = did_you_mean(self.stream, by_name, 3) or f"there are: {', '.join(found)}"
            raise click.UsageError(f"the gateway has no stream {self.stream!r}; {hint}")
        stream = by_name[self.stream]
        self.stream = stream["stream"]
        self.names = frozenset((self.stream, *stream["stream_aliases"]))
        title = stream.get("schema_title")
        if title is None:
            raise NotStored(
                f"{self.stream} accepts no events over HTTP, because the catalogue gives it no "
                "schema_title; use --data-dir or --kafka"
            )
        schema = await self._get(client, f"/v1/schemas/{title}/latest")
        uri = schema.get("$id")
        self.schema_uri = uri if isinstance(uri, str) else None

    async def _get(self, client: httpx.AsyncClient, path: str) -> dict[str, Any]:
        try:
            response = await client.get(self.base + path)
        except httpx.HTTPError as error:
            raise unreachable(self.base, error) from error
        if response.status_code != 200:
            raise NotStored(f"{self.base}{path}: {readable(response, response.content)}")
        try:
            document = response.json()
        except ValueError:
            document = None
        return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


def unreachable(base: str, error: httpx.HTTPError) -> NotStored:
    reason = str(error) or type(error).__name__
    return NotStored(
        f"no gateway can be reached at {base} ({reason}); `eventstreams serve` starts one, --url "
        "names another one, and --data-dir or --kafka append to a log without a gateway"
    )


def posting(target: Target) -> SinkMaker:
    """Return a sink for lines that are events of the target's stream."""

    @contextlib.asynccontextmanager
    async def make(opening: Opening) -> AsyncGenerator[Poster]:
        async with httpx.AsyncClient(headers=target.headers, timeout=_TIMEOUT_S) as client:
            await target.look_up(client)
            yield Poster(opening, client, target)

    return make


class Poster(EventSink[Line]):
    def __init__(self, opening: Opening, client: httpx.AsyncClient, target: Target) -> None:
        super().__init__(
            opening,
            batch_events=_BATCH_EVENTS,
            batch_bytes=_BATCH_BYTES,
            line_bytes_max=LINE_BYTES_MAX,
        )
        self._client = client
        self._target = target

    def prepare(self, number: int, text: bytes, document: dict[str, Any]) -> Line:
        meta: dict[str, Any] = document.get("meta") or {}
        stream = meta.get("stream")
        if stream is not None and stream not in self._target.names:
            raise BadDocument(f"its meta.stream is {stream!r}, not {self._target.stream!r}")
        return Line(number, text)

    async def store(self, batch: Sequence[Line]) -> None:
        """Post lines in one request, or in several if the intake requires smaller ones."""
        answer = await self._answer([text or b"" for _, text in batch])
        if answer.too_much and len(batch) > 1:
            half = len(batch) // 2
            await self.store(batch[:half])
            await self.store(batch[half:])
            return
        fates = [verdict.fate for verdict in answer.verdicts]
        self.tally.appended += fates.count(Fate.ACCEPTED)
        for (number, _), verdict in zip(batch, answer.verdicts, strict=True):
            if verdict.fate is Fate.REJECTED:
                self.reject(number, verdict.reason)
            elif verdict.fate is not Fate.ACCEPTED:
                raise NotStored(f"{self._target.base}: {verdict.reason}")
            self.tally.last_line = number

    async def _answer(self, texts: list[bytes]) -> Answer:
        """Post events, again while the gateway is busy. Raises NotStored."""
        url = httpx.URL(f"{self._target.base}/v1/events", params=self._parameters())
        body = b"[" + b",".join(texts) + b"]"
        backoff = Backoff()
        for attempt in itertools.count(1):
            try:
                response = await self._client.post(url, content=body)
            except httpx.HTTPError as error:
                raise unreachable(self._target.base, error) from error
            if response.status_code not in _BUSY or attempt == _ATTEMPTS:
                return read(
                    response.status_code, response.headers, response.content, texts, time.time()
                )
            wait_s = retry_after_s(response.headers.get("retry-after"))
            await asyncio.sleep(backoff.next_s(wait_s))
        raise AssertionError("the loop does not end by itself")

    def _parameters(self) -> dict[str, str]:
        found = {"stream": self._target.stream, "schema_uri": self._target.schema_uri}
        return {name: value for name, value in found.items() if value is not None}
