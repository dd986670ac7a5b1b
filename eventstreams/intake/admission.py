"""How many bytes of requests may be under way. A lease is a context manager: returned once."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator

from eventstreams.errors import IntakeFull

_REQUEST_BYTES = 16 * 1024
"""What a request takes at least, however short its body."""
_RETRY_AFTER_S = (1, 5)
"""They must not all come back at once."""


class Admission:
    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.bytes = 0
        """Under way."""

    @contextlib.contextmanager
    def lease(self, body_bytes: int) -> Generator[None]:
        """For a body of at most so many bytes, before it is read; one alone is always let in.

        Raises IntakeFull.
        """
        size = max(body_bytes, _REQUEST_BYTES)
        if self.bytes and self.bytes + size > self._bytes_max:
            raise IntakeFull(
                "The intake has as much to do as it may",
                random.randint(*_RETRY_AFTER_S),  # noqa: S311 - no secret
            )
        self.bytes += size
        try:
            yield
        finally:
            self.bytes -= size
