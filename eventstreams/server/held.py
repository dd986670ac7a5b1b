"""Limits the memory of connections beyond streams: large heads, responses that clients do not read,
and requests that were sent ahead of such responses.

The limits are in bytes, for each client and for all. Beyond them, a connection of the client that
holds the most is dropped, so that an attacker loses its own connections first. The body of a
request that is being handled is not included, because the intake counts it.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

BYTES_MAX = 16 * 2**20
CLIENT_BYTES_MAX = BYTES_MAX // 4
SMALL_BYTES = 16 * 1024
"""Connections that hold at most this much are not counted: `connections_max` limits them."""


class Holder(Protocol):
    """A connection that can be dropped."""

    def abort(self) -> None:
        """Drop the connection and what it holds."""
        ...


class Held:
    """The bytes that connections hold, by connection and by client."""

    def __init__(
        self, *, bytes_max: int = BYTES_MAX, client_bytes_max: int = CLIENT_BYTES_MAX
    ) -> None:
        self._bytes_max = bytes_max
        self._client_bytes_max = client_bytes_max
        self._size = 0
        self._by_holder: dict[Holder, tuple[str, int]] = {}
        """Client and size in bytes, in the order in which connections began to hold something."""
        self._by_client: Counter[str] = Counter()

    @property
    def size(self) -> int:
        """The bytes held by all connections together."""
        return self._size

    def count(self, holder: Holder, client: str, size: int) -> None:
        """Record how many bytes a connection holds now.

        Connections may be dropped, including this one.
        """
        if size <= SMALL_BYTES:
            self.release(holder)
            return
        self._set(holder, client, size)
        while self._by_client[client] > self._client_bytes_max:
            self._drop_one(client)
        while self._size > self._bytes_max:
            (most, _), *_ = self._by_client.most_common(1)
            self._drop_one(most)

    def release(self, holder: Holder) -> None:
        """Record that the connection no longer holds anything."""
        if holder in self._by_holder:
            client, _ = self._by_holder[holder]
            self._set(holder, client, 0)
            del self._by_holder[holder]

    def _set(self, holder: Holder, client: str, size: int) -> None:
        _, before = self._by_holder.get(holder, (client, 0))
        self._by_holder[holder] = client, size
        self._size += size - before
        self._by_client[client] += size - before
        if not self._by_client[client]:
            del self._by_client[client]

    def _drop_one(self, client: str) -> None:
        oldest = next(held for held, (owner, _) in self._by_holder.items() if owner == client)
        self.release(oldest)
        oldest.abort()
