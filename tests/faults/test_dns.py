"""A name server that answers nothing: the gateway is alive, says that it can't serve, and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.clients import eventually
from tests.faults.gateway import over_kafka, serving
from tests.programs import needed
from tests.web.client import PATIENCE_S

pytestmark = pytest.mark.anyio


@pytest.fixture
def silent_name_server() -> Iterator[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        try:
            server.bind(("127.0.0.77", 53))
        except OSError as error:
            pytest.skip(f"can't be a name server: {error}")
        yield "127.0.0.77"


async def test_while_no_name_is_resolved_it_is_alive_and_not_ready_and_ends_when_told(
    silent_name_server: str, tmp_path: Path
) -> None:
    """A lookup can't be cut short, and what waits for it takes minutes; the gateway may not."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(f"nameserver {silent_name_server}\noptions timeout:30 attempts:5\n")
    mounted = f'mount --bind {resolver} "$(readlink -f /etc/resolv.conf)" && exec "$@"'
    needed("unshare")
    if os.getuid() != 0:
        pytest.skip("another resolv.conf needs root")
    async with serving(
        tmp_path,
        over_kafka("kafka.test:9092", request_timeout_s=1.0),
        {"s": ["t"]},
        before=("unshare", "--mount", "sh", "-c", mounted, "sh"),
        fanout={"log_patience_s": 0.5, "drain_s": 0.5},
    ) as gateway:
        for _ in range(3):
            assert (await gateway.ask("/healthz")).status == 200
            ready = await gateway.ask("/readyz")
            assert (ready.status, ready.json()["ready"]) == (503, False)
            assert (await gateway.ask("/v2/stream/s")).status == 503
        (tmp_path / "streams.yaml").write_text("streams: {other: {topics: [t]}}\n")
        gateway.process.send_signal(signal.SIGHUP)  # which needs a thread as well

        async def read_again() -> bool:
            return (await gateway.ask("/v2/stream/other")).status == 503

        await eventually(read_again)
        gateway.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await gateway.process.wait() == 0
