"""Limits of the process: connections, open files, dead peers."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys

import pytest

from eventstreams.config.settings import LimitSettings
from tests.scale.crowd import produce, streams
from tests.support.gateway import Site

pytestmark = pytest.mark.anyio


async def test_beyond_the_limit_new_connections_get_retry_after(
    embedded: Site,
) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"crowd": [topic]}, limits=LimitSettings(connections_max=3)) as served,
        streams(served, "crowd", 3) as there,
    ):
        delays: set[int] = set()
        for _ in range(20):
            refused = await served.get("/v2/stream/crowd")
            assert refused.status == 503
            assert refused.json()["type"] == "unavailable"
            assert refused.head.get("access-control-allow-origin") == "*"
            delays.add(int(refused.head.get("retry-after") or 0))
        assert len(delays) > 1, "they must not all reconnect at once"
        await produce(embedded, topic, 0, 1)
        for stream in there:
            assert (await stream.frame()).document["n"] == 0
    async with embedded.gateway(
        {"crowd": [topic]}, limits=LimitSettings(connections_max=3)
    ) as served:
        for _ in range(5):  # a returned lease is free again
            async with streams(served, "crowd", 3):
                pass
            await served.until("clients", 0)


async def test_the_kernel_detects_dead_peers(embedded: Site) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"crowd": [topic]}, stall_timeout_s=7) as served,
        streams(served, "crowd", 1),
    ):
        [connection] = served.server.server_state.connections
        sock = connection.transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60


def test_the_open_file_limit_is_raised_and_bounds_the_connections() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 400)
    code = (
        "import json, resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({wanted // 2}, {wanted}))\n"
        "from eventstreams.server.sockets import raise_file_limit\n"
        "from eventstreams.config.settings import LimitSettings\n"
        "allowed = raise_file_limit(LimitSettings(connections_max=10_000))\n"
        "print(json.dumps([allowed, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed, soft = json.loads(done.stdout)
    assert soft == wanted
    assert 0 < allowed < wanted
    assert "open-file limit" in done.stderr
