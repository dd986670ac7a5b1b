"""Other programs as clients, and the outcome of tests for which they are missing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.tcp_server import tcp_server
from tests.support.waiting import PATIENCE_S

GO_PATIENCE_S = 300.0
"""The first build of a Go program compiles parts of its standard library."""
BROWSER = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)


def needed(command: str) -> str:
    """Return the path of a program. If it is missing, the test is skipped, or fails in CI."""
    path = shutil.which(command) or shutil.which(command, path="/usr/sbin")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"no {command}, and in CI none may be missing", pytrace=False)
        pytest.skip(f"{command} is not there; scripts/test installs it")
    return path


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[Process]:
    """Run the program; at the end of the block, it and its child processes are stopped."""
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


async def output(*command: str, cwd: Path | None = None, patience_s: float = PATIENCE_S) -> str:
    """Return what a program prints until it ends, on both of its outputs.

    Raises TimeoutError. It and its child processes are then stopped: a process that still runs
    would keep uvloop from closing the test's event loop.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=STDOUT, cwd=cwd, start_new_session=True
    )
    try:
        async with asyncio.timeout(patience_s):
            text, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    assert process.returncode == 0, text
    return text.decode()


class Page:
    """What the script of a browser page has passed to `report(value)`, in order."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        self.html = b""

    async def reports(self, count: int) -> list[Any]:
        """Return the next reports."""
        return [await self._said.get() for _ in range(count)]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, for the page or with a report."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = head.partition("content-length: ")[2].partition("\r\n")[0]
        if head.startswith("post"):
            self._said.put_nowait(json.loads(await reader.readexactly(int(length))))
        body = self.html if head.startswith("get / ") else b""
        lines = "HTTP/1.1 200 OK", "Content-Type: text/html", f"Content-Length: {len(body)}"
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        await writer.drain()


@asynccontextmanager
async def browser(script: str, *flags: str) -> AsyncIterator[Page]:
    """Run this script in a page of a real Chromium. The script calls `report(value)`."""
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
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        async with tcp_server(page.answer) as port:
            where = f"--user-data-dir={profile}", f"http://127.0.0.1:{port}/"
            async with running(*BROWSER, *flags, *where):
                yield page


def small_file_system(folder: Path) -> tuple[str, ...]:
    """Return a command prefix that mounts a small private file system at `folder`."""
    needed("unshare")
    if os.getuid() != 0:
        pytest.skip("a file system of its own needs root")
    mounted = f'mount -t tmpfs -o size=2m none {folder} && cd {folder}/.. && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", mounted, "sh")


async def lines_with(process: Process, begin: str, count: int) -> list[str]:
    """Return the next lines that begin with this text."""
    assert process.stdout is not None
    found: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            line = (await process.stdout.readline()).decode()
            assert line, "the program has ended"
            if line.startswith(begin):
                found.append(line.removeprefix(begin).strip())
    return found
