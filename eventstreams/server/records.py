"""Estimates how many TLS records a client sends, to charge it for decrypting them.

The TLS library decrypts everything read from a connection at once, before any of our code runs. For
records of one byte, that takes hundreds of times longer than for the same bytes in large records.
The library does not count records, but each has a header and a checksum. Their number therefore
follows from the bytes that the kernel has delivered and the bytes that were decrypted.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from eventstreams.errors import TinyRecords
from eventstreams.server import sockets
from eventstreams.server.http1 import HttpConnection

RECEIVE_BUFFER_BYTES = 64 * 1024
"""The kernel's receive buffer of a TLS connection. It limits what is decrypted at once, and also
what a client can send in one round trip."""
_RECORD_S = 4.5e-6
"""The seconds that a client is charged for decrypting one record."""
_OVERHEAD_BYTES = 22
"""The minimum overhead of a TLS 1.3 record: header, content type, tag (RFC 8446, 5.2). Records of
TLS 1.2 have more, so they count as more than one."""
_PARTIAL_BYTES = 17 * 1024
"""The size of an incomplete record (RFC 8446, 5.2), which must not count as overhead."""
_LOOK_S = 0.1
_LAST_BYTES_MAX = 256 * 1024
"""How much is read after the last response from a client that still sends."""
_RECORDS_MAX = 1000
_RECORD_BYTES_MIN = 64
"""Beyond `_RECORDS_MAX` records, their average content may not be smaller than this."""


class RecordMeter:
    """Counts the records of one connection from the end of its handshake on."""

    __slots__ = ("_began", "_content_bytes", "_records", "_sock")

    def __init__(self, sock: socket.socket | None, content_bytes: int) -> None:
        """`content_bytes` is how many bytes have been decrypted so far."""
        self._sock = sock
        self._content_bytes = content_bytes
        self._records = 0
        self._began = sockets.received(sock)

    def count(self, content_bytes: int) -> int:
        """Record that bytes were decrypted; return the greatest possible number of new records."""
        self._content_bytes += content_bytes
        read = sockets.received(self._sock)
        if read is None or self._began is None:
            return 0
        overhead = read - self._began - self._content_bytes - _PARTIAL_BYTES
        records = max(self._records, overhead // _OVERHEAD_BYTES)
        more, self._records = records - self._records, records
        return more

    @property
    def are_tiny(self) -> bool:
        """Whether the records are so many and so small that the connection must end."""
        least = self._records * _RECORD_BYTES_MIN
        return self._records > _RECORDS_MAX and self._content_bytes < least


class _Ending:
    """Limits what is decrypted on a connection after its last response.

    The TLS library reads and discards bytes until the client has ended TLS as well, and reports
    nothing. Therefore this checks the kernel's count at intervals until the connection is closed.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        is_open: Callable[[], bool],
        charge: Callable[[float], None],
    ) -> None:
        self._transport = transport
        self._sock: socket.socket | None = transport.get_extra_info("socket")
        self._is_open = is_open
        self._charge = charge
        self._loop = asyncio.get_running_loop()
        self._began = self._before = sockets.received(self._sock) or 0
        self._loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        if not self._is_open():  # the descriptor may belong to another connection now
            return
        read = sockets.received(self._sock)
        if read is None:
            return
        self._charge((read - self._before) // (_OVERHEAD_BYTES + 1) * _RECORD_S)
        self._before = read
        if read - self._began > _LAST_BYTES_MAX:
            self._transport.abort()
        else:
            self._loop.call_later(_LOOK_S, self._look)


class TlsProtocol(HttpConnection):
    """A connection over TLS. Its client is charged for the records that it sends."""

    _records: RecordMeter | None = None

    def linger(self) -> None:
        transport, common = self.transport, self.common
        if transport.is_closing():
            return
        super().linger()
        _Ending(
            transport,
            is_open=lambda: common.refusals.is_lingering(transport),
            charge=lambda spent_s: common.turns.charge(self._site, spent_s),
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._records = RecordMeter(transport.get_extra_info("socket"), 0)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        assert self._records is not None
        records = self._records.count(len(data))
        if records:
            self.common.turns.charge(self._site, records * _RECORD_S)
        if self._records.are_tiny:
            if not self.input_ignored:
                self._refuse(TinyRecords("Send more than a few bytes in each TLS record"))
            return
        super().data_received(data)
