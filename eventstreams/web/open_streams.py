"""The streams that are open here: who reads what, how far they are, and a line in the log when one
ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.types import Scope

from eventstreams.access.errors import Forbidden
from eventstreams.access.identity import Identity
from eventstreams.fanout.ending import Reason
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.subscription import Subscription
from eventstreams.metrics import Metrics
from eventstreams.model.stream import Catalogue
from eventstreams.web.address import shortened
from eventstreams.web.request import header

_log = logging.getLogger("eventstreams.access")
_USER_AGENT_MAX = 200
_TURN = 100
"""Streams described before others get their turn."""


class OpenStream:
    __slots__ = ("began", "client", "names", "number", "scopes", "subscription", "user_agent")

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
        """`scopes`: what its client has shown to have."""
        self.number = number
        self.names = names
        self.client = client
        self.user_agent = user_agent
        self.scopes = scopes
        self.subscription = subscription
        self.began = time.time()

    def document(self, hub: Hub) -> dict[str, Any]:
        """What an operator is told of it. `behind` counts offsets, `unsent` bytes."""
        subscription = self.subscription
        want, connection = subscription.want, subscription.connection
        selector = want.selector
        offsets = zip(want.partitions, subscription.position.offsets, strict=True)
        behind = sum(max(0, hub.tails.end(partition) - at) for partition, at in offsets)
        return {
            **self._summary(),
            "state": "live" if subscription.cohort is not None or not behind else "catching_up",
            "behind": behind,
            "unsent": connection.unsent() if connection is not None else None,
            "filter": selector and selector.filter,
            "fields": list(selector.fields) if selector else [],
            "sample": selector and selector.sample,
            "format": want.format.value,
            "encoding": want.encoding.value,
        }

    def _summary(self) -> dict[str, Any]:
        sent = self.subscription.response.sent
        return {
            "client": self.client,
            "streams": list(self.names),
            "user_agent": self.user_agent,
            "duration_s": round(time.time() - self.began, 3),
            "events": sent.events,
            "bytes": sent.bytes,
        }

    def log_end(self, reason: Reason) -> None:
        _log.info("stream ended", extra={**self._summary(), "reason": reason.value})


class OpenStreams:
    """Of one process."""

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
        address = client or (peer[0] if peer else "unknown")  # a proxy's, which does not say whose
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
        self._check(stream)  # it may have got a scope since this one was let in
        return stream

    def remove(self, stream: OpenStream, reason: Reason) -> None:
        """Once. Logs it."""
        del self._open[stream.number]
        for name in stream.names:
            self._metrics.stream_clients.labels(name).dec()
        self._metrics.streams_ended.labels(reason.value).inc()
        if self._log:
            stream.log_end(reason)

    def revoke(self) -> None:
        """Ends those that may not be read any more, as streams are declared now."""
        for stream in self._open.values():
            self._check(stream)

    def _check(self, stream: OpenStream) -> None:
        """By its topics: the stream that it was asked for by may be gone or have another name."""
        topics = {partition.topic for partition in stream.subscription.want.partitions}
        lacking = self._catalogue().scopes_of(topics) - stream.scopes
        if lacking:
            stream.subscription.end(Reason.REVOKED, Forbidden(sorted(lacking)))

    async def documents(self) -> AsyncGenerator[tuple[int, dict[str, Any]]]:
        """(number, what is told of it), oldest first."""
        for n, (number, stream) in enumerate(list(self._open.items()), 1):
            if number in self._open:
                yield number, stream.document(self._hub)
            if n % _TURN == 0:
                await asyncio.sleep(0)

    def close(self, number: int) -> bool:
        """Ends it at the next frame; False where it is not, or no more, open."""
        stream = self._open.get(number)
        if stream is None:
            return False
        stream.subscription.end(Reason.CLOSED)
        return True
