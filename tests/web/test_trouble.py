"""Dead brokers and deleted topics cause a clear error, or a final frame with the reason.

This module has its own broker, which it kills and restarts.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from eventstreams.config.settings import KafkaSettings, LimitSettings, LogSettings
from tests.support.backends import Kafka
from tests.support.gateway import NDJSON, Served, Site
from tests.support.kafka_node import KafkaNode, own_node, require
from tests.support.kafka_tools import admin, opened
from tests.support.waiting import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


def over(bootstrap: str, request_timeout_s: float = 2.0) -> LogSettings:
    kafka = KafkaSettings(bootstrap_servers=(bootstrap,), request_timeout_s=request_timeout_s)
    return LogSettings(backend="kafka", kafka=kafka)


async def becomes_ready(gateway: Served, status: int = 200) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await gateway.get("/readyz")).status != status:
            await asyncio.sleep(0.02)


async def test_unreachable_brokers_are_an_error_before_the_stream(kafka_site: Site) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{nobody.getsockname()[1]}"
        limits = LimitSettings(client_ip_connections=1)
        async with kafka_site.gateway(
            {"s": ["t"]}, log=over(closed), limits=limits, log_patience_s=0.5
        ) as gateway:
            for _ in range(3):  # the lease is returned each time
                answer = await gateway.get("/v2/stream/s", {"X-Client-IP": "192.0.2.1"})
                assert answer.status == 503
                assert int(answer.head.get("retry-after") or 0) > 0
                assert answer.head.get("content-type") is None
                assert answer.head.get("access-control-allow-origin") == "*"
                assert answer.head.reason.startswith("LogUnreachableError: The log is unreachable")
                assert answer.json()["name"] == "LogUnreachableError"
                assert answer.json()["statusCode"] == 503
            assert (await gateway.get("/healthz")).status == 200
            ready = await gateway.get("/readyz")
            assert (ready.status, ready.json()["fed"]) == (503, False)
            assert ready.json()["log"] != "ok"
            assert (await gateway.get("/v2/streams")).status == 200


async def test_a_deleted_topic_ends_its_streams_with_an_error_frame(kafka_site: Site) -> None:
    doomed, safe = await kafka_site.topic(), await kafka_site.topic()
    assert isinstance(kafka_site.backend, Kafka)
    streams = {"both": [doomed, safe], "safe": [safe]}
    async with (
        kafka_site.gateway(streams, refresh_s=0.1) as gateway,
        gateway.stream("both") as stream,
        gateway.stream("both", NDJSON) as lines,
        gateway.stream("safe") as other,
    ):
        await stream.opened()
        await other.opened()
        await kafka_site.produce(doomed, {"secret": "record bytes"})
        last = await stream.frame()
        await lines.lines(1)
        async with admin(kafka_site.backend.bootstrap) as client:
            await client.delete_topics([doomed])
        error = await stream.frame()
        assert await stream.rest() == []
        assert (error.event, error.id) == ("error", last.id)
        assert error.document["name"] == "UnknownTopic"
        assert doomed in error.document["message"]
        assert "record bytes" not in error.data
        [line] = await lines.rest()
        assert json.loads(line) == error.document
        assert (await gateway.get("/v2/stream/both")).status == 404
        await kafka_site.produce(safe, {"n": 1})
        assert (await other.frame()).place == (safe, 0, 0)


@pytest.fixture
async def node() -> AsyncIterator[KafkaNode]:
    with own_node() as node:
        yield node


async def test_restarted_brokers_lose_no_events(node: KafkaNode, kafka_site: Site) -> None:
    bootstrap = await asyncio.to_thread(require, node)
    streams = {"s": ["t"]}
    log = over(bootstrap)
    async with opened(bootstrap, request_timeout_s=20.0) as its_log:
        own = Site(kafka_site.backend, its_log, log)
        await its_log.create_topic("t", 2)
        async with (
            own.gateway(streams, log_patience_s=600.0, heartbeat_s=0.2) as patient,
            own.gateway(streams, log_patience_s=3.0) as other,
            patient.stream("s") as kept,
            other.stream("s") as reported,
            other.stream("s", NDJSON) as lines,
        ):
            for stream in (kept, reported):
                await stream.opened()
            for partition in range(2):
                await own.produce("t", {"secret": partition}, partition=partition)
            first = await kept.frames(2)
            last = (await reported.frames(2))[-1]
            await lines.lines(2)
            await asyncio.to_thread(node.kill)
            error = await reported.frame()
            assert await reported.rest() == []
            assert (error.event, error.id) == ("error", last.id)
            assert error.document["name"] == "LogUnavailable"
            assert "secret" not in error.data
            final = json.loads((await lines.rest())[-1])
            assert final["name"] == "LogUnavailable"
            for gateway in (patient, other):
                await becomes_ready(gateway, 503)
            refused = await other.get("/v2/stream/s")
            assert (refused.status, refused.json()["name"]) == (503, "LogUnreachableError")
            assert int(refused.head.get("retry-after") or 0) > 0
            kept.chunks.clear()
            while b":\n" not in kept.chunks:
                await kept.chunk()
            await asyncio.to_thread(node.start)
            for partition in range(2):
                await own.produce("t", {"n": partition}, partition=partition)
            places = [frame.place for frame in first + await kept.frames(2)]
            assert sorted(places) == [("t", p, offset) for p in range(2) for offset in range(2)]
            await becomes_ready(other)
            async with other.stream("s", last_event_id=error.id) as again:
                places = [frame.place for frame in await again.frames(2)]
            assert sorted(places) == [("t", 0, 1), ("t", 1, 1)]
