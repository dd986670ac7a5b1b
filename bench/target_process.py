"""An HTTP server that answers every request with 200, with as little work as possible.

It prints {"port"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import uvloop

from bench import child

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def main() -> None:
    """Serve until standard input ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())


async def _serve() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    child.say({"port": server.sockets[0].getsockname()[1]})
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    server.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            found = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(found or b"0"))
            writer.write(_ANSWER)
    writer.close()


if __name__ == "__main__":
    main()
