"""Parses the options of `verify`: the URL, how to post test events, and how to stop the gateway."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import ssl
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote, unquote, urlsplit

import click
import httpx

from eventstreams.errors import EventStreamsError
from eventstreams.relay.answers import readable
from eventstreams.verify.checks.service import spec_names
from eventstreams.verify.target import SSE, STREAM_PATH, PostRefused, Target
from eventstreams.verify.verdict import Wrong

_TEST_EVENT: dict[str, Any] = {
    "$schema": "/test/event/1.0.0",
    "test": "made by eventstreams verify",
}
_LISTED_MAX = 20
_TEXT_MAX = 500


class Place(NamedTuple):
    """The location of a gateway, and the percent-encoded streams to check."""

    scheme: str
    host: str
    port: int
    root: str
    """The URL of the gateway, without a slash at its end."""
    streams: tuple[str, ...]

    @property
    def base(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.root}"

    @property
    def first_stream(self) -> str:
        return unquote(self.streams[0]) if self.streams else ""


def parse_place(url: str, streams: str | None) -> Place:
    """Parse a URL, which may end with the path of streams. Raises UsageError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise click.UsageError(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.UsageError(
            f"{url!r} is not an http or https URL, such as https://stream.example.org"
        )
    if parts.query or parts.fragment:
        raise click.UsageError(f"{url!r} has a query or a fragment; leave it out")
    if parts.username is not None:
        raise click.UsageError(
            f"the URL of {parts.hostname} has a user name; use --header 'Authorization: …' instead"
        )
    root, _, in_path = parts.path.partition(STREAM_PATH.removesuffix("/"))
    named = streams if streams is not None else unquote(in_path.strip("/"))
    names = tuple(quote(name.strip(), safe="") for name in named.split(",") if name.strip())
    standard = 443 if parts.scheme == "https" else 80
    return Place(parts.scheme, parts.hostname, port or standard, root.rstrip("/"), names)


async def name_streams(target: Target) -> None:
    """Raise a UsageError that lists the available streams."""
    names = await spec_names(target) or []
    some = ", ".join(names[:_LISTED_MAX])
    more = f" and {len(names) - _LISTED_MAX} more" if len(names) > _LISTED_MAX else ""
    hint = f" This gateway has: {some}{more}." if some else ""
    raise click.UsageError(f"Name the streams to check with --streams.{hint}")


async def require_streams(target: Target, within_s: float) -> None:
    """Raise EventStreamsError if the gateway refuses the streams, rather than fail every check.

    The checks report all other problems of the response.
    """
    with suppress(Wrong, TimeoutError):
        async with asyncio.timeout(within_s), target.open(target.path(), SSE) as reading:
            if not 400 <= reading.head.status < 500:
                return
            await reading.settle(target.patience.quiet_s, target.patience.answer_s)
            raise EventStreamsError(
                f"GET {target.path()} is refused, so nothing can be checked: "
                f"{readable(httpx.Response(reading.head.status), bytes(reading.body))}"
            )


def parse_headers(lines: Iterable[str]) -> dict[str, str]:
    """Parse `Name: value` lines. Raises UsageError."""
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or not line.isascii() or not line.isprintable():
            raise click.UsageError(f"{line!r} is not a header of the form 'NAME: VALUE'")
        found[name.strip()] = value.strip()
    return found


def trusting(cacert: Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts these certificates, or those of the system."""
    try:
        context = ssl.create_default_context(cafile=cacert)
    except (OSError, ssl.SSLError) as error:
        raise click.UsageError(f"--cacert: {cacert} has no certificates: {error}") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def read_test_event(path: Path | None, stream: str) -> dict[str, Any]:
    """Return the template of all test events. Its own `meta.stream` is kept."""
    event = _TEST_EVENT
    if path is not None:
        try:
            document: Any = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise click.UsageError(f"--produce-event: {path}: {error}") from error
        if not isinstance(document, dict):
            raise click.UsageError(f"--produce-event: {path} does not hold a JSON object")
        event = cast("dict[str, Any]", document)
    meta = event.get("meta")
    fields = cast("dict[str, Any]", meta) if isinstance(meta, dict) else {}
    return {**event, "meta": {"stream": stream, **fields}}


class Intake:
    """Posts test events to an intake with the interface of EventGate."""

    def __init__(self, *, url: str, headers: Mapping[str, str], tls: ssl.SSLContext) -> None:
        self._url = url
        self._headers = headers
        self._tls = tls

    async def __call__(self, events: list[dict[str, Any]]) -> None:
        """Post events. Raises PostRefused."""
        async with httpx.AsyncClient(headers=self._headers, verify=self._tls) as client:
            try:
                response = await client.post(self._url, json=events)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise PostRefused(f"no test event can be posted to {self._url}: {error}") from error
        if response.status_code not in (201, 202):
            raise PostRefused(
                f"{self._url} does not accept the test events, which --produce-stream and "
                f"--produce-event choose: {response.status_code} {response.text[:_TEXT_MAX]}"
            )


def stop_by_signal(pid: int) -> Callable[[], Awaitable[None]]:
    async def stop() -> None:
        try:
            os.kill(pid, signal.SIGTERM)
        except OSError as error:
            raise EventStreamsError(f"--drain-pid {pid}: {error}") from error

    return stop


def stop_by_command(command_line: str) -> Callable[[], Awaitable[None]]:
    """Return a function that runs the command, which may wait until the gateway has stopped.

    Raises UsageError.
    """
    try:
        words = shlex.split(command_line)
    except ValueError as error:
        raise click.UsageError(f"--drain-command: {error}") from error
    if not words:
        raise click.UsageError("--drain-command is empty")

    async def stop() -> None:
        try:
            await asyncio.create_subprocess_exec(*words, stdin=DEVNULL)
        except OSError as error:
            raise EventStreamsError(f"--drain-command: {error}") from error

    return stop
