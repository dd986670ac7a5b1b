"""A disk that is full under the embedded log of a whole gateway, and has room again later."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.faults.gateway import Gateway, serving
from tests.intake.place import SHIPPED, TEST, event
from tests.programs import needed
from tests.web.client import Stream, connected
from tests.web.gateway import SSE

pytestmark = pytest.mark.anyio

PAD = "x" * 4000


@asynccontextmanager
async def reading(port: int, query: str = "") -> AsyncIterator[Stream]:
    async with connected(port) as client:
        await client.send("GET", f"/v2/stream/{TEST}{query}", SSE)
        stream = Stream(client, await client.head())
        assert stream.head.status == 200
        await stream.opened()
        yield stream


@contextmanager
def limited(gateway: Gateway) -> Iterator[None]:
    """No file of this process may grow: to it that is a full disk."""
    pid = gateway.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def filled(gateway: Gateway) -> Iterator[None]:
    """A file system on which something else takes all that is left."""
    where = Path(f"/proc/{gateway.process.pid}/cwd/data/ballast")
    with where.open("wb", buffering=0) as ballast, suppress(OSError):
        while ballast.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        where.unlink()


def small_file_system(folder: Path) -> tuple[str, ...]:
    """Starts a command with one at `folder`, that nobody else sees."""
    needed("unshare")
    if os.getuid() != 0:
        pytest.skip("a file system of its own needs root")
    mounted = f'mount -t tmpfs -o size=2m none {folder} && cd {folder}/.. && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", mounted, "sh")


@pytest.mark.parametrize("full", [limited, filled])
async def test_while_the_disk_is_full_posts_are_refused_and_streams_go_on_and_later_all_is_well(
    tmp_path: Path, full: Callable[[Gateway], AbstractContextManager[None]]
) -> None:
    (tmp_path / "data").mkdir()
    before = small_file_system(tmp_path / "data") if full is filled else ()
    log = {"backend": "sqlite", "data_dir": str(tmp_path / "data")}
    streams = {TEST: {"schema_title": "test/event", "topics": [TEST]}}
    async with (
        serving(tmp_path, log, streams, schemas=[str(SHIPPED)], before=before) as gateway,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", timeout=30) as http,
        reading(gateway.port) as live,
    ):
        taken: list[str] = []

        async def post(name: str) -> int:
            answer = await http.post("/v1/events", json=event(f"{name} {PAD}"))
            if answer.status_code == 201:
                taken.append(name)
            return answer.status_code

        async def delivered(stream: Stream, count: int) -> list[str]:
            return [each["test"].split()[0] for each in await stream.documents(count)]

        assert await post("before") == 201
        with full(gateway):
            count = 0
            while (status := await post(f"filling-{count}")) == 201:
                count += 1
            assert status == 500
            for n in range(5):
                answer = await http.post("/v1/events", json=event(f"refused-{n} {PAD}"))
                assert answer.status_code == 500
                [told] = answer.json()["error"]
                assert told["context"]["retryable"], "it is no fault of the event"
            assert await delivered(live, len(taken)) == taken
            assert (await gateway.ask("/healthz")).status == 200
            assert (await gateway.ask("/readyz")).status == 200
            async with reading(gateway.port, "?since=earliest") as history:
                assert await delivered(history, len(taken)) == taken
        so_far = len(taken)
        assert await post("after") == 201
        assert await delivered(live, 1) == taken[so_far:] == ["after"]
        async with reading(gateway.port, "?since=earliest") as history:
            assert await delivered(history, len(taken)) == taken
