"""What all connections of one server have in common."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from eventstreams.server import sockets
from eventstreams.server.refusal import Refusals
from eventstreams.server.tls import Certificate

HEAD_S = 10.0
"""How long a connection may take to say what it wants: its handshake, the head of a request."""


@dataclass
class Common:
    connections_max: int
    refusals: Refusals
    """Of connections beyond `connections_max`."""
    head_bytes_max: int
    """Of a request, beyond what came in one piece."""
    stall_timeout_s: float
    certificate: Certificate | None = None
    """Without it, connections are plain."""
    idle: asyncio.Event | None = None
    """Set, if it is there, when the last connection is gone."""

    def find_dead_peer(self, transport: asyncio.BaseTransport) -> None:
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sockets.find_dead_peers(sock, int(self.stall_timeout_s * 1000))

    def gone(self, *, last: bool) -> None:
        """A connection is gone; `last`: none is left."""
        if last and self.idle is not None:
            self.idle.set()
