"""A full disk under the embedded log of a gateway, which later has space again."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.client import Stream
from tests.support.intake import SHIPPED, TEST, event
from tests.support.process import Gateway, serving_over, streaming
from tests.support.programs import small_file_system
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

PAD = "x" * 4000


@contextmanager
def limited(gateway: Gateway) -> Iterator[None]:
    """Prevent files of this process from growing, like a full disk."""
    pid = gateway.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def filled(gateway: Gateway) -> Iterator[None]:
    """Fill a file system with another file."""
    where = Path(f"/proc/{gateway.process.pid}/cwd/data/ballast")
    with where.open("wb", buffering=0) as ballast, suppress(OSError):
        while ballast.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        where.unlink()


@pytest.mark.parametrize("full", [limited, filled])
async def test_a_full_disk_refuses_posts_and_keeps_streams(
    tmp_path: Path, full: Callable[[Gateway], AbstractContextManager[None]]
) -> None:
    (tmp_path / "data").mkdir()
    before = small_file_system(tmp_path / "data") if full is filled else ()
    log = {"backend": "sqlite", "data_dir": str(tmp_path / "data")}
    streams = {TEST: {"schema_title": "test/event", "topics": [TEST]}}
    async with (
        serving_over(tmp_path, log, streams, schemas=[str(SHIPPED)], before=before) as gateway,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", timeout=PATIENCE_S) as http,
        streaming(gateway.port, f"/v2/stream/{TEST}") as live,
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
                [reported] = answer.json()["error"]
                assert reported["context"]["retryable"], "it is not the event's fault"
            assert await delivered(live, len(taken)) == taken
            assert (await gateway.ask("/healthz")).status == 200
            assert (await gateway.ask("/readyz")).status == 200
            async with streaming(gateway.port, f"/v2/stream/{TEST}?since=earliest") as history:
                assert await delivered(history, len(taken)) == taken
        so_far = len(taken)
        assert await post("after") == 201
        assert await delivered(live, 1) == taken[so_far:] == ["after"]
        async with streaming(gateway.port, f"/v2/stream/{TEST}?since=earliest") as history:
            assert await delivered(history, len(taken)) == taken
