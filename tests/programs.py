"""Other people's programs as clients, and where a test ends that can't have one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

BROWSER = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)


def needed(command: str) -> str:
    """Its path. Without it the test is skipped, or fails in CI."""
    path = shutil.which(command) or shutil.which(command, path="/usr/sbin")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"no {command}, and in CI none may be missing", pytrace=False)
        pytest.skip(f"{command} is not there; scripts/test installs it")
    return path


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[Process]:
    """The program and whatever it starts, gone at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        needed(command[0]),
        *command[1:],
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


class Page:
    """What the script in a browser's page said, by its `report(value)`, in order."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        self.html = b""

    async def reports(self, count: int) -> list[Any]:
        """The next ones."""
        return [await self._said.get() for _ in range(count)]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request: for the page, or with a report."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = head.partition("content-length: ")[2].partition("\r\n")[0]
            if head.startswith("post"):
                self._said.put_nowait(json.loads(await reader.readexactly(int(length))))
            body = self.html if head.startswith("get / ") else b""
            lines = "HTTP/1.1 200 OK", "Content-Type: text/html", f"Content-Length: {len(body)}"
            writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def browser(script: str, *flags: str) -> AsyncIterator[Page]:
    """A real Chromium with a page that runs this, and `report(value)` to say what happens."""
    needed("chromium")
    page = Page()
    page.html = f"""<!doctype html><title>test</title><script>
      let said = Promise.resolve();
      function report(value) {{
        const options = {{ method: "POST", body: JSON.stringify(value) }};
        said = said.then(() => fetch("/report", options));
      }}
      {script}
    </script>""".encode()
    server = await asyncio.start_server(page.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        where = f"--user-data-dir={profile}", f"http://127.0.0.1:{port}/"
        async with server, running(*BROWSER, *flags, *where):
            yield page
