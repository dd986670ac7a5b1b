"""Reads and sets options of TCP connections in the kernel, and raises the open-file limit."""

from __future__ import annotations

import fcntl
import logging
import resource
import socket
import sys
import termios

from eventstreams.config.settings import LimitSettings
from eventstreams.server.rejection import LINGERING_MAX

_log = logging.getLogger(__name__)

_KEEPALIVE_IDLE_S, _KEEPALIVE_EVERY_S, _KEEPALIVE_PROBES = 60, 15, 4
_RECEIVED_AT = 128
"""Where `tcpi_bytes_received` is in Linux's `struct tcp_info` (linux/tcp.h), 8 bytes long."""
_TCP_INFO_BYTES = _RECEIVED_AT + 8
_SPARE_FILES = 100 + LINGERING_MAX
"""Open files reserved for the log, listeners and the like, and for refused connections."""


def find_dead_peers(sock: socket.socket, user_timeout_ms: int) -> None:
    """Make the kernel end dead connections: idle ones by probes, writing ones by a timeout."""
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
    """Return the bytes in the kernel that the peer has not acknowledged; 0 for a closed socket."""
    if sock is None or sock.fileno() < 0:
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


def received(sock: socket.socket | None) -> int | None:
    """Return the bytes read from a TCP connection, or None if the system does not report it."""
    if sock is None or sock.fileno() < 0 or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        unread = fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0")
    except OSError:
        return None
    if len(info) < _TCP_INFO_BYTES:
        return None
    total = int.from_bytes(info[_RECEIVED_AT:_TCP_INFO_BYTES], sys.byteorder)
    return total - int.from_bytes(unread, sys.byteorder)


def raise_file_limit(limits: LimitSettings) -> int:
    """Raise the open-file limit to the hard limit; return how many connections that allows.

    The result is at most `limits.connections_max`.
    """
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
