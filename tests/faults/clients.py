"""Cheap clients: each has a socket, checks the order of events, and reconnects."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from tests.support.waiting import PATIENCE_S

_PLACE = re.compile(r'"partition":(\d+),"offset":(\d+)')
_AGAIN_S = 0.05
"""The pause after a refusal, whatever delay it contains."""

Kept = Mapping[int, Mapping[int, int]]
"""The content of a log: for each partition, offsets with the numbers of events."""


class Client:
    """Reads the stream `s` from its first record on."""

    def __init__(self, port: int, topic: str, partitions: int, *, hangs_up_every: int = 0) -> None:
        """Disconnects after every `hangs_up_every` frames, at any byte; never if 0."""
        self.port = port
        self.got: defaultdict[int, dict[int, int]] = defaultdict(dict)
        self.count = 0
        self.cuts = 0
        self.refused = 0
        self.wrong: list[str] = []
        """Unexpected frames."""
        self.open = asyncio.Event()
        self._hangs_up_every = hangs_up_every
        start = ({"topic": topic, "partition": n, "offset": 0} for n in range(partitions))
        self._last_id = json.dumps([*start])

    async def run(self) -> None:
        while True:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._visit()
            await asyncio.sleep(_AGAIN_S)

    async def _visit(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            lines = (
                "GET /v2/stream/s HTTP/1.1",
                "Host: gateway",
                "Accept: text/event-stream",
                f"Last-Event-ID: {self._last_id}",
            )
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                self.refused += 1
                if not head.startswith(b"HTTP/1.1 503 "):
                    self.wrong.append(head.decode())
                return
            self.open.set()
            await self._read(reader)
            self.cuts += 1
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Read to the end of the response, or until `enough`."""
        text, left = "", self._hangs_up_every
        while size := int(await reader.readline() or b"0", 16):
            text += (await reader.readexactly(size + 2))[:-2].decode()
            *frames, text = text.split("\n\n")
            for frame in frames:
                self._take(frame)
                left -= 1
                if left == 0:
                    return

    def _take(self, frame: str) -> None:
        fields = dict(
            line.partition(": ")[::2] for line in frame.split("\n") if not line.startswith(":")
        )
        fields.pop("retry", None)
        if not fields:
            return
        if fields["event"] == "message":
            event = json.loads(fields["data"])
            partition, offset = event["meta"]["partition"], event["meta"]["offset"]
            mine = self.got[partition]
            if mine and offset <= next(reversed(mine)):
                self.wrong.append(f"{partition}/{offset} after {next(reversed(mine))}")
            mine[offset] = event["n"]
            self.count += 1
        elif fields["event"] != "error" or "LogUnavailable" not in fields["data"]:
            self.wrong.append(frame)
        if fields.get("id"):
            self._last_id = fields["id"]


async def until(clients: Collection[Client], met: Callable[[Client], bool], what: str) -> None:
    """Wait until this holds for every client."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not all(map(met, clients)):
                assert not any(c.wrong for c in clients), next(c.wrong for c in clients if c.wrong)
                await asyncio.sleep(0.02)
    except TimeoutError:
        states = [(n, c.count, c.cuts, c.refused) for n, c in enumerate(clients) if not met(c)]
        raise AssertionError(f"not {what}: {states}") from None
