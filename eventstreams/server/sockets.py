"""What the kernel is told and asked of TCP connections, and how many it lets the process have."""

from __future__ import annotations

import fcntl
import logging
import resource
import socket
import sys
import termios

from eventstreams.server.refusal import LINGERING_MAX
from eventstreams.settings import LimitSettings

_log = logging.getLogger(__name__)

_KEEPALIVE_IDLE_S, _KEEPALIVE_EVERY_S, _KEEPALIVE_PROBES = 60, 15, 4
_SPARE_FILES = 100 + LINGERING_MAX
"""Open files left for the log, listeners and the like, and for connections that are refused."""


def find_dead_peers(sock: socket.socket, user_timeout_ms: int) -> None:
    """Lets the kernel end half-open connections: idle ones by probes, writing ones by a timeout."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": _KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": _KEEPALIVE_EVERY_S,
        "TCP_KEEPCNT": _KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": user_timeout_ms,
    }
    for name, value in options.items():
        if value and hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def unsent(sock: socket.socket | None) -> int:
    """Bytes in the kernel that the peer's host has not acknowledged yet; 0 once it is closed."""
    if sock is None or sock.fileno() < 0:
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


def raise_file_limit(limits: LimitSettings) -> int:
    """Raises the open-file limit to the hard one; returns how many connections that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return limits.connections_max
    allowed = max(1, hard - _SPARE_FILES)
    if allowed < limits.connections_max:
        _log.warning(
            "limits.connections_max lowered to what the open-file limit allows",
            extra={"connections_max": allowed, "open_files": hard},
        )
    return min(allowed, limits.connections_max)
