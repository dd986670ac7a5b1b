"""How many streams one client may hold. A lease is a context manager, so it is returned once."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator

from eventstreams.errors import MissingClientAddress, TooManyConnections
from eventstreams.settings import LimitSettings
from eventstreams.web.address import site_of


class Limits:
    def __init__(self, settings: LimitSettings) -> None:
        self._per_address = settings.client_ip_connections
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def lease(self, address: str | None) -> Generator[None]:
        """For one stream of the client at `address`; None where the proxy in front does not say.

        Raises MissingClientAddress, TooManyConnections.
        """
        if self._per_address is None:
            yield
            return
        if not address:
            raise MissingClientAddress("X-Client-IP is required where connections are limited")
        site = site_of(address)
        if self._held[site] >= self._per_address:
            raise TooManyConnections(
                f"Your client IP has {self._per_address} streams open, as many as it may"
            )
        self._held[site] += 1
        try:
            yield
        finally:
            self._held[site] -= 1
            if not self._held[site]:
                del self._held[site]

    @property
    def held(self) -> int:
        return self._held.total()
