"""The memory that requests may take: a budget for all, and in it a share for each client.

A request takes what has come of its body, and later what its answer needs, until that is written. A
lease is a context manager: its bytes are returned once. What a client only says that it will send
takes nothing, so clients that never send it keep nobody out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from eventstreams.errors import IntakeFull, IntakeShareUsed

_REQUEST_BYTES = 16 * 1024
"""What a request takes at least, however short its body."""
_LITTLE_BYTES = 64 * 1024
"""A client with no more than this may use the part of the budget that is kept for such clients."""
_KEPT_PART = 8
"""One part in so many is kept for them."""
_RETRY_AFTER_S = 2


class _Client:
    def __init__(self) -> None:
        self.bytes = 0
        self.bodies = 0
        """Requests that take any bytes."""
        self.requests = 0


class Lease:
    """The bytes of one request. They grow with what has come of its body."""

    def __init__(self, admission: Admission, client: _Client) -> None:
        self._admission = admission
        self._client = client
        self.bytes = 0

    def cover(self, size: int, *, always: bool = False) -> None:
        """Take room until the request has `size` bytes. Raises IntakeFull, IntakeShareUsed, but
        not where room must be found `always`."""
        more = max(size, _REQUEST_BYTES) - self.bytes
        if more > 0:
            if not always:
                self._admission.check(self._client, more, has=self.bytes)
            self._add(more)

    def shrink(self, size: int) -> None:
        """Return what exceeds `size` bytes."""
        less = self.bytes - max(size, _REQUEST_BYTES)
        if less > 0:
            self._add(-less)

    def release(self) -> None:
        self._add(-self.bytes)

    def _add(self, more: int) -> None:
        had = self.bytes > 0
        self.bytes += more
        self._client.bodies += (self.bytes > 0) - had
        self._client.bytes += more
        self._admission.bytes += more


class Admission:
    def __init__(self, *, bytes_max: int, client_bytes_max: int, client_bodies_max: int) -> None:
        """`bytes_max` is for all, the others are for each client."""
        self._bytes_max = bytes_max
        self._client_bytes_max = client_bytes_max
        self._client_bodies_max = client_bodies_max
        self._clients: dict[str, _Client] = {}
        self.bytes = 0
        """Taken by all requests."""

    @contextlib.contextmanager
    def lease(self, site: str) -> Generator[Lease]:
        """For one request of the client at `site`, an address or a network."""
        client = self._clients.setdefault(site, _Client())
        client.requests += 1
        lease = Lease(self, client)
        try:
            yield lease
        finally:
            lease.release()
            client.requests -= 1
            if not client.requests:
                del self._clients[site]

    def check(self, client: _Client, more: int, *, has: int) -> None:
        """Whether a request that has some bytes may take more. The only request of a client is not
        held to its share, and the only one of all to nothing. Raises IntakeFull, IntakeShareUsed.
        """
        if self.bytes == has:
            return
        if not has and client.bodies >= self._client_bodies_max:
            raise IntakeShareUsed(
                f"Your client IP is posting {client.bodies} bodies, as many as it may at a time",
                _RETRY_AFTER_S,
            )
        wanted = client.bytes + more
        if client.bytes > has and wanted > self._client_bytes_max:
            raise IntakeShareUsed(
                f"Your client IP has {client.bytes} bytes of requests under way and may have "
                f"{self._client_bytes_max}",
                _RETRY_AFTER_S,
            )
        kept = 0 if wanted <= _LITTLE_BYTES else self._bytes_max // _KEPT_PART
        if self.bytes + more > self._bytes_max - kept:
            raise IntakeFull(
                "The requests under way take as many bytes as they may; post again later",
                _RETRY_AFTER_S,
            )
