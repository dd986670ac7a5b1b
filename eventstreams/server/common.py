"""What all connections of one server have in common."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Protocol

from eventstreams.server import sockets
from eventstreams.server.held import Held
from eventstreams.server.refusal import Refusals
from eventstreams.server.tls import Certificate
from eventstreams.turns import Turns

HEAD_S = 10.0
"""How long a TLS handshake may take, and the head of a request."""


class Waiting(Protocol):
    """A connection that has no request."""

    def give_way(self) -> None:
        """Close the connection at once and stop counting it."""
        ...


@dataclass
class Common:
    connections_max: int
    refusals: Refusals
    """Of connections beyond `connections_max`."""
    head_bytes_max: int
    """Of a request, beyond what came in one piece."""
    stall_timeout_s: float
    turns: Turns
    """For what clients send in large amounts."""
    certificate: Certificate | None = None
    """Without it, connections are plain."""
    waiting: dict[Waiting, None] = field(default_factory=dict[Waiting, None])
    """Connections without a request, the one that has waited longest first."""
    held: Held = field(default_factory=Held)
    """Large heads, and answers that are not read."""
    leaving: bool = False
    """Whether the server is about to stop: each connection ends with its next answer."""
    closed: bool = False
    """Whether the server accepts no request any more."""
    idle: asyncio.Event | None = None
    """Set, if it is there, when the last connection is gone."""

    def find_dead_peer(self, transport: asyncio.BaseTransport) -> None:
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sockets.find_dead_peers(sock, int(self.stall_timeout_s * 1000))

    def make_room(self) -> bool:
        """Close the connection that has waited longest without a request. False if all have one."""
        if not self.waiting:
            return False
        next(iter(self.waiting)).give_way()
        return True

    def gone(self, *, last: bool) -> None:
        """A connection is gone; `last`: none is left."""
        if last and self.idle is not None:
            self.idle.set()


def close_unasked(transport: asyncio.Transport) -> None:
    """Close a connection that has no request. Its server forgets it at once."""
    transport.set_protocol(asyncio.Protocol())
    if transport.get_write_buffer_size():  # its client does not read: closing would wait for it
        transport.abort()
    else:
        transport.close()
