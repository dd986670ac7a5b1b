"""How many bytes of requests may be under way. A lease is a context manager: returned once."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from eventstreams.errors import IntakeFull

_REQUEST_BYTES = 16 * 1024
"""What a request takes at least, however short its body."""
_RETRY_AFTER_S = 2


class Lease:
    """Of one request; it grows with what has come of its body."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.bytes = 0

    def cover(self, body_bytes: int) -> None:
        """Makes room for so much of the body, all in all. Raises IntakeFull."""
        more = max(body_bytes, _REQUEST_BYTES) - self.bytes
        if more > 0:
            self._admission.take(more, has=self.bytes)
            self.bytes += more

    def shrink(self, body_bytes: int) -> None:
        """Gives back what the body turned out not to need."""
        less = self.bytes - max(body_bytes, _REQUEST_BYTES)
        if less > 0:
            self._admission.bytes -= less
            self.bytes -= less


class Admission:
    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.bytes = 0
        """Under way."""

    @contextlib.contextmanager
    def lease(self) -> Generator[Lease]:
        """For a request. What it only says that it will send takes nothing, so that those who never
        send it keep nobody out."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self.bytes -= lease.bytes

    def take(self, more: int, *, has: int) -> None:
        """For one that has some already; one alone is always let in. Raises IntakeFull."""
        if self.bytes > has and self.bytes + more > self._bytes_max:
            raise IntakeFull(
                "The intake has as much to do as it may",
                _RETRY_AFTER_S,
            )
        self.bytes += more
