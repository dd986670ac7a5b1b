"""Chooses a connection to close when every connection has a request.

Each connection with a request counts for its client, except streams, which have limits of their
own. When the limit on connections is reached, the client with the most of them loses its newest one
to a client that has less than half as many. So one client, or a few, cannot lock out all others by
making requests that take long.
"""

from __future__ import annotations

from typing import Protocol

FEW = 16
"""A client with at most this many such connections loses none."""


class Closable(Protocol):
    """A connection that can be closed to make room for another one."""

    def make_way(self) -> None:
        """Close the connection at once and stop counting it."""
        ...


class BusyConnections:
    """Connections with a request that is not a stream, by client. Every method takes constant
    time."""

    def __init__(self) -> None:
        self._by_client: dict[str, dict[Closable, None]] = {}
        """The connections of each client, oldest request first."""
        self._by_count: dict[int, dict[str, None]] = {}
        """The clients with each number of connections."""
        self._most = 0
        """The largest count that any client has."""

    def add(self, connection: Closable, client: str) -> None:
        """Count a connection. It may have been added before."""
        connections = self._by_client.setdefault(client, {})
        if connection not in connections:
            connections[connection] = None
            self._move(client, len(connections) - 1, len(connections))

    def remove(self, connection: Closable, client: str) -> None:
        """Stop counting a connection, if it is counted."""
        connections = self._by_client.get(client, {})
        if connection in connections:
            del connections[connection]
            self._move(client, len(connections) + 1, len(connections))
            if not connections:
                del self._by_client[client]

    def to_close_for(self, client: str) -> Closable | None:
        """Return the connection to close so that `client` can have one more; None if there is
        none."""
        own = len(self._by_client.get(client, {}))
        if self._most <= max(FEW, 2 * own):
            return None
        most = next(iter(self._by_count[self._most]))
        return next(reversed(self._by_client[most]))

    def _move(self, client: str, before: int, after: int) -> None:
        if before:
            peers = self._by_count[before]
            del peers[client]
            if not peers:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, {})[client] = None
        if after > self._most or (before == self._most and before not in self._by_count):
            self._most = after
