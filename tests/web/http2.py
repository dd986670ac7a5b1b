"""A client of HTTP/2 that says and sees each frame, over TLS or with prior knowledge.

Credit for what it takes goes back at once, but for streams that are told to stall.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from tests.web.client import PATIENCE_S, Frame, frames_of

SSE = {"accept": "text/event-stream"}


class Response:
    """One stream, as far as it has come."""

    def __init__(self, client: Client, number: int) -> None:
        self.client = client
        self.number = number
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self.parts: list[bytes] = []
        """As DATA frames brought them."""
        self.ended = False
        self.reset: int | None = None
        """The code of the RST_STREAM that came."""
        self.stalls = False
        self.unpaid = 0

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def status(self) -> int:
        return int(self.get(":status") or 0)

    @property
    def frames(self) -> list[Frame]:
        """Whole ones."""
        text = bytes(self.body).removeprefix(b":ok\n\n")
        end = text.rfind(b"\n\n") + 2
        return frames_of(text[:end]) if end > 1 else []

    @property
    def documents(self) -> list[Any]:
        return [frame.document for frame in self.frames if frame.data]

    def json(self) -> Any:
        return json.loads(self.body)

    async def until(self, met: Callable[[Response], bool]) -> None:
        await self.client.until(lambda: met(self))

    async def opened(self) -> None:
        await self.until(lambda it: it.body.startswith(b":ok\n\n"))

    async def events(self, count: int) -> list[Any]:
        await self.until(lambda it: len(it.documents) >= count)
        return self.documents

    async def over(self) -> None:
        """Ended or reset."""
        await self.until(lambda it: it.ended or it.reset is not None)

    def take_back(self) -> None:
        """Resets it."""
        self.client.h2.reset_stream(self.number, 8)
        self.client.flush()

    def resume(self) -> None:
        """Takes what has come, and whatever comes."""
        self.stalls = False
        self.client.pay(self, 0)
        self.client.flush()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        config = h2.config.H2Configuration(validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.responses: dict[int, Response] = {}
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.goaways = 0
        self.closed = False
        self.pings = 0
        self._changed = asyncio.Event()

    def begin(self, *, window: int, connection_window: int) -> None:
        """Bytes of each stream and of all, beyond what has been paid for."""
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        if connection_window > 65_535:  # with which each begins
            self.h2.increment_flow_control_window(connection_window - 65_535)
        self.flush()

    def ask(
        self,
        target: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: bytes | None = None,
        open_ended: bool = False,
        stalls: bool = False,
        cookies: tuple[str, ...] = (),
    ) -> Response:
        number = self.h2.get_next_available_stream_id()
        pairs = [(":method", method), (":scheme", "https"), (":authority", "gateway")]
        pairs += [(":path", target), *(headers or {}).items()]
        pairs += [("cookie", cookie) for cookie in cookies]
        response = self.responses[number] = Response(self, number)
        response.stalls = stalls
        self.h2.send_headers(number, pairs, end_stream=body is None and not open_ended)
        if body is not None:
            self.h2.send_data(number, body, end_stream=not open_ended)
        self.flush()
        return response

    async def heard(self) -> None:
        """The server has read all so far."""
        before = self.pings
        self.h2.ping(b"12345678")
        self.flush()
        await self.until(lambda: self.pings > before)

    async def answer(self, target: str, **said: Any) -> Response:
        """A response that has ended."""
        response = self.ask(target, **said)
        await response.over()
        return response

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    async def until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not met():
                assert not self.closed, "the connection has ended"
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> None:
        """Waits until the server has closed the connection."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.closed:
                self._changed.clear()
                await self._changed.wait()

    async def read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                rest = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                for event in self.h2.receive_data(head + rest):
                    self._heed(event)
                self.flush()
                self._changed.set()
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed = True
            self._changed.set()

    def _heed(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event
            self.goaways += 1
            # What is under way goes on; the library takes the connection for closed.
            self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
        if isinstance(event, h2.events.PingAckReceived):
            self.pings += 1
        response = self.responses.get(getattr(event, "stream_id", None) or 0)
        if response is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            response.headers = [(_text(k), _text(v)) for k, v in event.headers or []]
        elif isinstance(event, h2.events.DataReceived):
            response.body += event.data or b""
            response.parts += [event.data] if event.data else []
            self.pay(response, event.flow_controlled_length or 0)
        elif isinstance(event, h2.events.StreamEnded):
            response.ended = True
        elif isinstance(event, h2.events.StreamReset):
            response.reset = int(event.error_code or 0)

    def pay(self, response: Response, size: int) -> None:
        """Gives credit back for so many bytes more, unless it stalls."""
        response.unpaid += size
        if response.unpaid and not response.stalls and not response.ended:
            self.h2.acknowledge_received_data(response.unpaid, response.number)
            response.unpaid = 0


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


@asynccontextmanager
async def http2_client(
    port: int,
    tls: ssl.SSLContext | None = None,
    *,
    window: int = 2**20,
    connection_window: int = 2**26,
) -> AsyncIterator[Client]:
    """`tls` offers h2."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    if tls is not None:
        agreed = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        assert agreed == "h2"
    client = Client(reader, writer)
    client.begin(window=window, connection_window=connection_window)
    reading = asyncio.create_task(client.read())
    try:
        yield client
    finally:
        reading.cancel()
        writer.transport.abort()
        await asyncio.wait([reading])
