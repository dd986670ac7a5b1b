"""A client runs out of memory and is killed, or stops responding.

The gateway's memory does not grow, its lease is returned, and others get everything.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
import pytest

from eventstreams.config.settings import SqliteSettings
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Record
from tests.support.client import Stream, connected
from tests.support.gateway import SSE
from tests.support.kafka_tools import eventually
from tests.support.process import Gateway, serving_over
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

MIB = 2**20
READERS = 3
PAD = "x" * 250_000
EVENTS = 100
"""Bytes in each part of the test: more than all buffers between gateway and client hold, and more
than is kept for a client."""
KEEPS_ALL = """
import resource, socket, sys
from pathlib import Path

with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    sock.sendall(b"GET /v2/stream/s HTTP/1.1\\r\\nHost: gateway\\r\\n\\r\\n")
    kept = [sock.recv(1 << 16)]
    mine = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mine + int(sys.argv[2]),) * 2)
    print("reads", flush=True)
    while data := sock.recv(1 << 16):
        kept.append(data)
"""


@asynccontextmanager
async def who_keeps_all(port: int, room_bytes: int) -> AsyncIterator[Process]:
    """Run a client whose memory is limited once its stream is open."""
    command = (sys.executable, "-c", KEEPS_ALL, str(port), str(room_bytes))
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert await process.stdout.readline() == b"reads\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def runs_out(process: Process) -> None:
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        said = await process.stderr.read()
        assert await process.wait() == 1
    assert b"MemoryError" in said


async def is_killed(process: Process) -> None:
    """Kill the client while it reads, as the system does when it needs memory."""
    process.kill()
    await process.wait()


async def stands_still(process: Process) -> None:
    """Its connection stays open, and sent bytes fill the system's buffers."""
    os.kill(process.pid, signal.SIGSTOP)


@pytest.mark.parametrize("goes", [runs_out, is_killed, stands_still])
async def test_a_client_out_of_memory_does_not_affect_others(
    tmp_path: Path, goes: Callable[[Process], Awaitable[None]]
) -> None:
    log = SqliteLog(directory=tmp_path / "data", settings=SqliteSettings(sync="normal"))
    await log.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(log.aclose)
        gateway = await stack.enter_async_context(
            serving_over(
                tmp_path,
                {"backend": "sqlite", "data_dir": str(tmp_path / "data")},
                {"s": ["t"]},
                fanout={
                    "tail_bytes_max": 4 * MIB,
                    "cache_bytes_max": 4 * MIB,
                    "stall_timeout_s": 5.0,
                },
                limits={"streams_max": READERS + 1},
            )
        )
        readers = [await stack.enter_async_context(opened(gateway)) for _ in range(READERS)]
        memory = psutil.Process(gateway.process.pid)
        produced = most = 0

        async def produce() -> None:
            nonlocal produced, most
            numbers = range(produced, produced + EVENTS)
            produced += EVENTS
            for n in numbers:
                await log.append([Record("t", json.dumps({"n": n, "pad": PAD}).encode())])
                for reader in readers:
                    assert [d["n"] for d in await reader.documents(1)] == [n]
                most = max(most, memory.memory_info().rss)

        await produce()  # the shared memory is full
        before = most
        room_bytes = 4 * MIB if goes is runs_out else 1024 * MIB
        greedy = await stack.enter_async_context(who_keeps_all(gateway.port, room_bytes))
        assert (await gateway.ask("/v2/stream/s")).status == 503, "all leases are taken"
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(produce())
            tasks.create_task(goes(greedy))

        async def is_free() -> bool:
            async with connected(gateway.port) as client:
                await client.send("HEAD", "/v2/stream/s")
                return (await client.head()).status == 200

        await eventually(is_free)
        await produce()
        assert most - before < 16 * MIB


@asynccontextmanager
async def opened(gateway: Gateway) -> AsyncIterator[Stream]:
    async with connected(gateway.port) as client:
        await client.send("GET", "/v2/stream/s", SSE)
        stream = Stream(client, await client.head())
        assert stream.head.status == 200
        await stream.opened()
        yield stream
