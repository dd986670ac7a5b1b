"""Makes the requests of a relay: URL, parameters and headers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote

import httpx

import eventstreams
from eventstreams.model.sse import MEDIA_TYPE
from eventstreams.model.timestamp import iso_of
from eventstreams.relay.progress import Progress

STREAM_PATH = "/v2/stream/"
_CLOCKS_APART_MS = 60_000
"""How far the upstream's clock may be behind ours."""


class BadUpstream(ValueError):
    """The URL is not that of a gateway, or names other streams."""


class Upstream(NamedTuple):
    url: httpx.URL
    """The URL of the streams, without our parameters."""
    streams: tuple[str, ...]
    filter: str | None
    canaries: bool
    contact: str | None

    def target(self, progress: Progress, *, is_first: bool) -> httpx.URL:
        """Return the URL of the next connection; `is_first` if it is the relay's first ever."""
        parameters = {"heartbeat": "checkpoint", "caught_up": "event"}
        if self.filter is not None:
            parameters["filter"] = self.filter
        if not self.canaries:
            parameters["canary"] = "false"
        since_ms = progress.since_ms
        if since_ms is None and not is_first and not progress.last_event_id:
            since_ms = progress.began_ms - _CLOCKS_APART_MS
        if since_ms is not None:  # for Wikimedia's gateways, a number means the oldest event
            parameters["since"] = iso_of(max(1, since_ms)) or ""
        return self.url.copy_merge_params(parameters)

    def headers(self, progress: Progress) -> dict[bytes, bytes]:
        headers = {
            b"Accept": MEDIA_TYPE.encode(),
            b"Cache-Control": b"no-cache",
            b"User-Agent": self.user_agent.encode(),
        }
        if request_id := progress.request_id():
            headers[b"Last-Event-ID"] = request_id.encode()
        return headers

    @property
    def user_agent(self) -> str:
        name = f"eventstreams-relay/{eventstreams.__version__}"
        return name if self.contact is None else f"{name} ({self.contact})"


def find_upstream(
    url: str,
    streams: Sequence[str],
    *,
    filter_: str | None = None,
    canaries: bool = True,
    contact: str | None = None,
) -> Upstream:
    """Return the upstream at a URL of a gateway, or of streams, for which `streams` may be empty.

    Raises BadUpstream.
    """
    if contact is not None and not contact.isprintable():
        raise BadUpstream(
            f"the contact {contact!r} contains a character that a header cannot contain"
        )
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadUpstream(f"{url!r} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadUpstream(
            f"{url!r} is not an http or https URL, such as https://stream.example.org"
        )
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise BadUpstream(f"{url!r} must not have a password, parameters or a fragment")
    base, found, names = parsed.raw_path.decode("ascii").partition(STREAM_PATH)
    in_path = tuple(unquote(name) for name in names.strip("/").split(",") if name)
    if in_path and streams and set(in_path) != set(streams):
        raise BadUpstream(f"{url!r} names other streams than {', '.join(streams)}")
    wanted = tuple(streams) or in_path
    if not wanted:
        raise BadUpstream(
            f"{url!r} names no stream; expected a URL such as {url.rstrip('/')}{STREAM_PATH}NAME"
        )
    if not found:
        base = base.rstrip("/").removesuffix(STREAM_PATH.rstrip("/"))
    path = f"{base}{STREAM_PATH}{','.join(quote(name, safe='') for name in wanted)}"
    return Upstream(parsed.copy_with(raw_path=path.encode()), wanted, filter_, canaries, contact)
