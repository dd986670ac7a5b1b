"""Ports for servers whose port a test must know before they start.

A port is free again between its choice and its use, and a server that is restarted leaves it for a
while. Therefore these are no ports that the kernel gives to outgoing connections or to port 0.
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST, _END = 10_000, 20_000
_CHANCE = random.SystemRandom()  # two processes must not choose the same ports


def free_port() -> int:
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 that nothing uses and that the kernel gives to nobody."""
    end = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 0
    with contextlib.ExitStack() as stack:
        held: list[int] = []
        while len(held) < count:
            port = _CHANCE.randrange(_LOWEST, max(end, _END))
            with contextlib.suppress(OSError):  # another server uses it
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                held.append(port)
        return held
