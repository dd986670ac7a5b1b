"""Keeps track of the open streams of this process, and logs each stream that ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.types import Scope

from eventstreams.access.tokens import Identity
from eventstreams.errors import Forbidden
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.send import EndReason
from eventstreams.fanout.subscription import Subscription
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.web.address import shortened
from eventstreams.web.headers import header

_log = logging.getLogger("eventstreams.access")
_USER_AGENT_MAX = 200
_TURN = 100
"""How many streams are described before yielding to the event loop."""


class OpenStream:
    __slots__ = ("began_s", "client", "names", "number", "scopes", "subscription", "user_agent")

    def __init__(
        self,
        number: int,
        *,
        names: tuple[str, ...],
        client: str,
        user_agent: str,
        scopes: frozenset[str],
        subscription: Subscription,
    ) -> None:
        """`scopes` are those of the client's token or ticket."""
        self.number = number
        self.names = names
        self.client = client
        self.user_agent = user_agent
        self.scopes = scopes
        self.subscription = subscription
        self.began_s = time.monotonic()

    def document(self, hub: Hub) -> dict[str, Any]:
        """Return the description for operators. `behind` counts offsets, `unsent` bytes."""
        subscription = self.subscription
        spec, connection = subscription.spec, subscription.connection
        selector = spec.selector
        behind = hub.lag(subscription.position)
        return {
            **self._summary(),
            "state": "live" if subscription.cohort is not None or not behind else "catching_up",
            "behind": behind,
            "unsent": connection.unsent() if connection is not None else None,
            "filter": selector and selector.filter,
            "fields": list(selector.fields) if selector else [],
            "sample": selector and selector.sample,
            "format": spec.format.value,
            "encoding": spec.encoding.value,
        }

    def _summary(self) -> dict[str, Any]:
        sent = self.subscription.response.sent
        return {
            "client": self.client,
            "streams": list(self.names),
            "user_agent": self.user_agent,
            "duration_s": round(time.monotonic() - self.began_s, 3),
            "events": sent.events,
            "bytes": sent.bytes,
        }

    def log_end(self, reason: EndReason) -> None:
        _log.info("stream ended", extra={**self._summary(), "reason": reason.value})


class OpenStreams:
    """The open streams of one process."""

    def __init__(
        self,
        hub: Hub,
        metrics: Metrics,
        *,
        catalogue: Callable[[], Catalogue],
        log: bool,
        whole_addresses: bool,
    ) -> None:
        self._hub = hub
        self._catalogue = catalogue
        self._metrics = metrics
        self._log = log
        self._whole_addresses = whole_addresses
        self._open: dict[int, OpenStream] = {}  # oldest first
        self._clients: Counter[str] = Counter()
        self._count = 0

    def add(
        self,
        names: tuple[str, ...],
        *,
        client: str | None,
        scope: Scope,
        identity: Identity | None,
        subscription: Subscription,
    ) -> OpenStream:
        peer: tuple[str, int] | None = scope.get("client")
        address = client or (
            peer[0] if peer else "unknown"
        )  # that of a proxy which does not name its client
        if not self._whole_addresses:
            address = shortened(address)
        user_agent = (header(scope, b"user-agent") or "")[:_USER_AGENT_MAX]
        self._count += 1
        scopes: frozenset[str] = frozenset() if identity is None else identity.scopes
        stream = OpenStream(
            self._count,
            names=names,
            client=address,
            user_agent=user_agent,
            scopes=scopes,
            subscription=subscription,
        )
        self._open[stream.number] = stream
        for name in names:
            self._metrics.stream_clients.labels(name).inc()
            self._clients[name] += 1
        self._check(stream)  # the stream may have gained a scope since the request was authorized
        return stream

    def remove(self, stream: OpenStream, reason: EndReason) -> None:
        """Remove a stream that has ended, and log it. Must be called once for each stream."""
        del self._open[stream.number]
        for name in stream.names:
            self._metrics.stream_clients.labels(name).dec()
            self._clients[name] -= 1
        self._metrics.streams_ended.labels(reason.value).inc()
        if self._log:
            stream.log_end(reason)

    def revoke(self) -> None:
        """End the streams that their clients may no longer read under the current catalogue."""
        for stream in self._open.values():
            self._check(stream)

    def _check(self, stream: OpenStream) -> None:
        """End the stream if its client lacks a scope.

        Scopes follow from the topics, because the requested stream may be gone or renamed.
        """
        topics = {partition.topic for partition in stream.subscription.spec.partitions}
        lacking = self._catalogue().scopes_of(topics) - stream.scopes
        if lacking:
            stream.subscription.end(EndReason.REVOKED, Forbidden(sorted(lacking)))

    async def documents(self) -> AsyncGenerator[tuple[int, dict[str, Any]]]:
        """Yield the number and the description of each stream, oldest first."""
        for n, (number, stream) in enumerate(list(self._open.items()), 1):
            if number in self._open:
                yield number, stream.document(self._hub)
            if n % _TURN == 0:
                await asyncio.sleep(0)

    def clients_by_stream(self) -> Counter[str]:
        """Return how many open streams read each stream."""
        return self._clients.copy()

    def close(self, number: int) -> bool:
        """End a stream at its next frame boundary; return False if it is not open."""
        stream = self._open.get(number)
        if stream is None:
            return False
        stream.subscription.end(EndReason.CLOSED)
        return True
