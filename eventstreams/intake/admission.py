"""Limits the memory of requests: with a budget for all clients, and a share of it for each client.

A request is charged for the part of its body that has arrived, and later for the memory that its
answer needs, until the answer is written. A lease is a context manager that returns its bytes
exactly once. A declared Content-Length is not charged, so clients that announce a body and never
send it do not keep others out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from eventstreams.errors import IntakeFull, IntakeShareUsed

_REQUEST_BYTES = 16 * 1024
"""The minimum charged for a request, however short its body."""
_LITTLE_BYTES = 64 * 1024
"""Clients that use at most this many bytes may draw on the reserve for small clients."""
_KEPT_PART = 8
"""One part in this many of the budget is reserved for small clients."""
_RETRY_AFTER_S = 2


class _Client:
    def __init__(self) -> None:
        self.bytes = 0
        self.bodies = 0
        """The number of requests that hold any bytes."""
        self.requests = 0


class Lease:
    """The bytes held by one request. They grow as its body arrives."""

    def __init__(self, admission: Admission, client: _Client) -> None:
        self._admission = admission
        self._client = client
        self.bytes = 0

    def cover(self, size: int, *, always: bool = False) -> None:
        """Charge the request for `size` bytes in total, if it holds fewer than that.

        Raises IntakeFull or IntakeShareUsed, unless `always` is set.
        """
        more = max(size, _REQUEST_BYTES) - self.bytes
        if more > 0:
            if not always:
                self._admission.check(self._client, more, has=self.bytes)
            self._add(more)

    def shrink(self, size: int) -> None:
        """Return the bytes in excess of `size`."""
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
        """Set the limits: `bytes_max` applies to all clients together, the others to each
        client."""
        self._bytes_max = bytes_max
        self._client_bytes_max = client_bytes_max
        self._client_bodies_max = client_bodies_max
        self._clients: dict[str, _Client] = {}
        self.bytes = 0
        """Bytes held by all requests."""

    @contextlib.contextmanager
    def lease(self, site: str) -> Generator[Lease]:
        """Return the lease of one request from the client at `site`, which is an address or a
        network."""
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

    def used(self, site: str) -> tuple[int, int]:
        """Return the bodies and the bytes that the client at `site` holds."""
        client = self._clients.get(site)
        return (0, 0) if client is None else (client.bodies, client.bytes)

    def check(self, client: _Client, more: int, *, has: int) -> None:
        """Check that a request which holds `has` bytes may take `more` bytes.

        A client's share does not limit its only request, and nothing limits the only request of the
        whole intake. Raises IntakeFull, IntakeShareUsed.
        """
        if self.bytes == has:
            return
        if not has and client.bodies >= self._client_bodies_max:
            raise IntakeShareUsed(
                f"Your client IP is posting {client.bodies} bodies at the same time, which is "
                "the limit",
                _RETRY_AFTER_S,
            )
        wanted = client.bytes + more
        if client.bytes > has and wanted > self._client_bytes_max:
            raise IntakeShareUsed(
                f"Your client IP has {client.bytes} bytes of requests in progress; the limit is "
                f"{self._client_bytes_max}",
                _RETRY_AFTER_S,
            )
        kept = 0 if wanted <= _LITTLE_BYTES else self._bytes_max // _KEPT_PART
        if self.bytes + more > self._bytes_max - kept:
            raise IntakeFull(
                "Requests in progress use all of the memory allowed for them; post again later",
                _RETRY_AFTER_S,
            )
