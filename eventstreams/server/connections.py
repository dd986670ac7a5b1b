"""Holds the state and limits that all connections of one server share."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field

from eventstreams.server import sockets
from eventstreams.server.busy import BusyConnections, Closable
from eventstreams.server.held import Held
from eventstreams.server.rejection import Rejection
from eventstreams.server.tls import Certificate
from eventstreams.turns import PIECE_S, Turns
from eventstreams.web.address import Proxies

HEAD_S = 10.0
"""How long a TLS handshake may take, and how long the head of a request may take."""


@dataclass
class Connections:
    """The limits of one server's connections, and the counts that these limits apply to."""

    connections_max: int
    refusals: Rejection
    """Answers connections beyond `connections_max`."""
    head_bytes_max: int
    """The largest head of a request, beyond what arrived in one piece."""
    stall_timeout_s: float
    turns: Turns
    """Turns for parsing what clients send."""
    proxies: Proxies
    """The trusted proxies, whose connections are those of many clients."""
    head_s: float = HEAD_S
    """How long a TLS handshake may take, and how long the head of a request may take."""
    piece_s: float = PIECE_S
    """How long one piece of a client's bytes takes to parse at most, in seconds."""
    certificate: Certificate | None = None
    """The certificate for TLS; None for plain connections."""
    waiting: dict[Closable, None] = field(default_factory=dict[Closable, None])
    """Connections without a request, longest wait first."""
    busy: BusyConnections = field(default_factory=BusyConnections)
    """Connections with a request that is not a stream, except those of proxies."""
    held: Held = field(default_factory=Held)
    """Memory taken by large heads and by responses that clients do not read."""
    leaving: bool = False
    """Whether the server stops soon. Each connection then ends after its next response."""
    closed: bool = False
    """Whether the server has stopped accepting requests."""
    idle: asyncio.Event | None = None
    """Set when the last connection is closed; None while nothing waits for that."""

    def find_dead_peer(self, transport: asyncio.BaseTransport) -> None:
        """Make the kernel close the connection if its peer no longer responds."""
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sockets.find_dead_peers(sock, int(self.stall_timeout_s * 1000))

    def make_room(self, client: str) -> bool:
        """Close a connection so that `client` can have one more; return False if none may be.

        It is the one that has waited longest without a request. If all have a request, it is one
        of the client with the most connections; see BusyConnections.
        """
        closed = next(iter(self.waiting), None)
        if closed is None:
            closed = self.busy.to_close_for(client)
        if closed is None:
            return False
        closed.make_way()
        return True

    def gone(self, *, last: bool) -> None:
        """Record that a connection was closed. `last` is whether it was the last one."""
        if last and self.idle is not None:
            self.idle.set()


def close_at_once(transport: asyncio.Transport) -> None:
    """Close a connection without an answer. Its protocol gets no further callbacks."""
    transport.set_protocol(asyncio.Protocol())
    if transport.get_write_buffer_size():  # its client does not read, and `close` would wait for it
        transport.abort()
    else:
        transport.close()
