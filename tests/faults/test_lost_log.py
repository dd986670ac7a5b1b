"""The embedded log of a whole gateway loses its files, is damaged, or cannot be opened at all."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.client import Stream, connected
from tests.support.gateway import SSE
from tests.support.intake import SHIPPED, TEST, event
from tests.support.process import Gateway, serving_over, streaming
from tests.support.programs import needed, small_file_system
from tests.support.sqlite_files import overwrite_table
from tests.support.upstream import TailProcess
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

STREAMS = {TEST: {"schema_title": "test/event", "topics": [TEST]}}
TROUBLED = ("eventstreams.log.sqlite.log", "eventstreams.log.sqlite.reader")


@asynccontextmanager
async def gateway_of(folder: Path, **settings: Any) -> AsyncIterator[Gateway]:
    log = {"backend": "sqlite", "data_dir": str(folder / "data")}
    async with serving_over(
        folder, log, STREAMS, schemas=[str(SHIPPED)], troubled=TROUBLED, **settings
    ) as gateway:
        yield gateway


async def post(gateway: Gateway, name: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        url = f"http://127.0.0.1:{gateway.port}/v1/events"
        return await http.post(url, json=event(name))


async def not_ready(gateway: Gateway, reason: str) -> None:
    """Wait until /readyz has this status."""
    async with asyncio.timeout(PATIENCE_S):
        while reason not in (said := (await gateway.ask("/readyz")).json())["log"]:
            await asyncio.sleep(0.05)
    assert said["ready"] is False
    assert (await gateway.ask("/readyz")).status == 503
    assert (await gateway.ask("/healthz")).status == 200


def files_are_deleted(data: Path, _: Gateway) -> None:
    for path in data.iterdir():
        path.unlink()


def directory_is_moved(data: Path, _: Gateway) -> None:
    data.rename(data.with_name("elsewhere"))


def disk_is_unmounted(data: Path, gateway: Gateway) -> None:
    pid = str(gateway.process.pid)
    subprocess.run([needed("nsenter"), "-t", pid, "-m", "umount", "-l", str(data)], check=True)


@pytest.mark.parametrize("fault", [files_are_deleted, directory_is_moved, disk_is_unmounted])
async def test_without_its_files_the_gateway_refuses_posts(
    tmp_path: Path, fault: Callable[[Path, Gateway], None]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    before = small_file_system(data) if fault is disk_is_unmounted else ()
    async with (
        gateway_of(tmp_path, before=before, fanout={"log_patience_s": 0.5}) as gateway,
        streaming(gateway.port, f"/v2/stream/{TEST}") as live,
    ):
        assert (await post(gateway, "before")).status_code == 201
        assert [each["test"] for each in await live.documents(1)] == ["before"]
        fault(data, gateway)
        for _ in range(3):
            answer = await post(gateway, "refused")
            assert answer.status_code == 500
            [said] = answer.json()["error"]
            assert said["context"]["retryable"] is True
        await not_ready(gateway, "deleted or moved away while it was in use")
        ended = await live.frame()
        assert "deleted or moved away" in ended.document["message"]
        answer = await gateway.ask(f"/v2/stream/{TEST}")
        assert answer.status == 503
        levels = [line["level"] for line in gateway.lines if "rejects events" in line["message"]]
        assert levels == ["critical"]


async def test_a_malformed_database_makes_the_gateway_not_ready(tmp_path: Path) -> None:
    async with gateway_of(tmp_path, fanout={"log_patience_s": 0.5}) as gateway:
        for n in range(20):
            assert (await post(gateway, f"{n} {'x' * 5000}")).status_code == 201
        with closing(sqlite3.connect(tmp_path / "data/log.sqlite3")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        overwrite_table(tmp_path / "data/log.sqlite3", "events")
        answer = await post(gateway, "refused")
        assert answer.status_code == 500
        [said] = answer.json()["error"]
        assert said["context"] == {"message": "the log cannot be written", "retryable": True}
        await not_ready(gateway, "database disk image is malformed")


def malformed(data: Path) -> str:
    overwrite_table(data / "log.sqlite3", "partitions")
    return "is damaged"


def directory_in_its_place(data: Path) -> str:
    (data / "log.sqlite3").unlink()
    (data / "log.sqlite3").mkdir()
    return "cannot be opened"


@pytest.mark.parametrize("fault", [malformed, directory_in_its_place])
async def test_a_log_that_cannot_be_opened_ends_the_start_with_the_reason(
    tmp_path: Path, fault: Callable[[Path], str]
) -> None:
    async with gateway_of(tmp_path) as gateway:
        assert (await post(gateway, "before")).status_code == 201
        gateway.process.terminate()
        assert await gateway.process.wait() == 0
    message = fault(tmp_path / "data")
    command = [
        *("-m", "eventstreams", "serve", "--port", "0", "--config"),
        str(tmp_path / "eventstreams.yaml"),
    ]
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 1
    assert f"log.sqlite3 {message}" in ended.stderr
    assert "Traceback" not in ended.stderr


def flip_a_bit_of(path: Path, value: bytes) -> None:
    content = path.read_bytes()
    assert content.count(value) == 1
    at = content.index(value) + random.Random(5).randrange(len(value))
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([content[at] ^ 1]))


async def next_after(gateway: Gateway, id_: str) -> str:
    """Return the first frame for a client with this id."""
    async with connected(gateway.port) as client:
        await client.send("GET", f"/v2/stream/{TEST}", {**SSE, "Last-Event-ID": id_})
        frame = await Stream(client, await client.head()).frame()
    return frame.document["test"] if frame.event == "message" else frame.event


async def test_bit_rot_is_a_gap_for_all_readers(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as gateway:
        for n in range(5):
            assert (await post(gateway, f"event-{n}")).status_code == 201
        gateway.process.terminate()
        await gateway.process.wait()
    flip_a_bit_of(tmp_path / "data/log.sqlite3", b"event-2")
    async with gateway_of(tmp_path) as gateway:
        async with streaming(gateway.port, f"/v2/stream/{TEST}?since=earliest") as history:
            frames = [await history.frame() for _ in range(5)]
        assert [frame.event for frame in frames] == ["message"] * 2 + ["gap"] + ["message"] * 2
        assert [f.document["test"] for f in frames if f.event == "message"] == [
            *("event-0", "event-1", "event-3", "event-4")
        ]
        [gap] = frames[2].document["partitions"]
        assert gap == {
            "topic": TEST,
            "partition": 0,
            "requested": 2,
            "available": {"oldest": 0, "end": 5},
            "resumed": 3,
            "cause": "damaged",
        }
        resumed = [await next_after(gateway, frame.id) for frame in frames[:4]]
        assert resumed == ["event-1", "gap", "event-3", "event-4"]
        tail = TailProcess(
            TEST, "--url", f"http://127.0.0.1:{gateway.port}", "--since", "earliest", "-n", 4
        )
        stdout, stderr = await asyncio.to_thread(tail.end)
        assert stdout.count(b"\n") == 4
        assert b"event-2" not in stdout
        assert '"cause":"damaged"' in stderr
