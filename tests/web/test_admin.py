"""Operators see open streams in a list, and ended streams in the log."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eventstreams.config.settings import AccessSettings, HttpSettings, Settings
from eventstreams.errors import ConfigError
from eventstreams.gateway import running
from eventstreams.log.memory import MemoryLog
from eventstreams.model.catalogue import Catalogue
from eventstreams.model.position import Position
from eventstreams.server.sockets import unsent
from eventstreams.web.address import shortened
from eventstreams.web.admin import _question
from eventstreams.web.query import Query
from tests.support.fanout import Client, joined, serving
from tests.support.gateway import Served, Site, stream_of

pytestmark = pytest.mark.anyio

KEY = "k" * 32
PATH = "/v2/admin/clients"
OPERATOR = {"Authorization": f"Bearer {KEY}"}
ONE = {"X-Client-IP": "192.0.2.77", "User-Agent": "bot/1"}
OTHER = {"X-Client-IP": "2001:db8:1:2::3"}


@asynccontextmanager
async def place(
    site: Site, folder: Path, *, addresses: Any = "shortened"
) -> AsyncIterator[tuple[Served, str]]:
    folder.joinpath("key").write_text(f"{KEY}\n")
    topic = await site.topic()
    streams = {
        "a": stream_of("a", [topic], aliases=("alias",)),
        "b": stream_of("b", [await site.topic()]),
    }
    access = AccessSettings(admin_key_file=str(folder / "key"))
    http = HttpSettings(client_addresses=addresses, compression="always")
    async with site.gateway(streams, access=access, http=http) as gateway:
        yield gateway, topic


async def clients(gateway: Served, query: str = "") -> list[dict[str, Any]]:
    answer = await gateway.get(PATH + query, OPERATOR)
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()["clients"]
    return found


async def test_only_the_operator_can_list_and_close_clients(embedded: Site, tmp_path: Path) -> None:
    async with place(embedded, tmp_path) as (gateway, _), gateway.stream("a"):
        [listed] = await clients(gateway)
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
            for method, path in (("GET", PATH), ("DELETE", f"{PATH}/{listed['id']}")):
                refused = await gateway.ask(method, path, headers)
                assert refused.status == 401
                assert b"wrong" not in refused.body
        assert len(await clients(gateway)) == 1
        assert (await gateway.ask("POST", PATH, OPERATOR)).status == 404
    async with embedded.gateway({"a": [await embedded.topic()]}) as gateway:
        assert (await gateway.get(PATH, OPERATOR)).status == 404


async def test_a_client_is_listed_with_its_streams_and_progress(
    embedded: Site, tmp_path: Path
) -> None:
    async with place(embedded, tmp_path) as (gateway, topic):
        query = {"filter": "event.n > 1", "fields": "n"}
        async with gateway.stream("alias,b", ONE, **query) as stream:
            await stream.opened()
            await embedded.produce(topic, {"n": 1}, {"n": 2, "m": 3})
            assert (await stream.frame()).document == {"n": 2}
            [listed] = await clients(gateway)
            assert listed.pop("duration_s") >= 0
            assert listed.pop("bytes") == len(b"".join(stream.chunks))
            assert listed.pop("id")
            assert listed == {
                "client": "192.0.2.0/24",
                "streams": ["a", "b"],
                "user_agent": "bot/1",
                "events": 1,
                "state": "live",
                "behind": 0,
                "unsent": 0,
                "filter": "event.n > 1",
                "fields": ["n"],
                "sample": None,
                "format": "text/event-stream",
                "encoding": "identity",
            }
            assert gateway.count("stream_clients", stream="a") == 1
        await gateway.until("stream_clients", 0, stream="a")
        assert await clients(gateway) == []


async def test_a_proxy_without_a_client_address_is_listed_itself(
    embedded: Site, tmp_path: Path
) -> None:
    async with place(embedded, tmp_path) as (gateway, _), gateway.stream("a"):
        assert [client["client"] for client in await clients(gateway)] == ["127.0.0.0/24"]


async def test_the_list_can_be_filtered_sorted_and_limited(embedded: Site, tmp_path: Path) -> None:
    async with (
        place(embedded, tmp_path, addresses="whole") as (gateway, topic),
        gateway.stream("a", ONE) as one,
        gateway.stream("b", ONE),
        gateway.stream("a", OTHER) as two,
    ):
        await embedded.produce(topic, {"n": 1})
        await one.frame()
        await two.frame()
        assert [c["streams"] for c in await clients(gateway)] == [["a"], ["b"], ["a"]]
        assert len(await clients(gateway, "?stream=a")) == 2
        assert len(await clients(gateway, "?client=192.0.2.77")) == 2
        [found] = await clients(gateway, "?client=2001:db8:1:2::3&stream=a&state=live")
        assert found["client"] == "2001:db8:1:2::3"
        by_events = await clients(gateway, "?sort=events")
        assert [c["events"] for c in by_events] == [1, 1, 0]
        cut = (await gateway.get(f"{PATH}?limit=1", OPERATOR)).json()
        assert len(cut["clients"]) == 1
        assert cut["total"] == 3
        for bad in ("?sort=name", "?limit=0x", "?what=1", "?stream=a&stream=b"):
            answer = await gateway.get(PATH + bad, OPERATOR)
            assert answer.status == 400
            assert bad[1:5] in answer.json()["detail"]


async def test_closing_a_client_leaves_others_open(embedded: Site, tmp_path: Path) -> None:
    async with (
        place(embedded, tmp_path) as (gateway, topic),
        gateway.stream("a", ONE) as one,
        gateway.stream("a", OTHER) as other,
    ):
        [listed] = await clients(gateway, "?client=192.0.2.0/24")
        path = f"{PATH}/{listed['id']}"
        assert (await gateway.ask("DELETE", path, OPERATOR)).status == 204
        assert b"retry: " in b"".join(await one.rest()), "it must not reconnect immediately"
        await gateway.until("streams_ended_total", 1, reason="closed")
        assert (await gateway.ask("DELETE", path, OPERATOR)).status == 404
        for bad in ("x", "1-2-3", "-1", f"{listed['id']}0", "0-1"):
            assert (await gateway.ask("DELETE", f"{PATH}/{bad}", OPERATOR)).status == 404
        await embedded.produce(topic, {"n": 1})
        assert (await other.frame()).document["n"] == 1


async def test_an_ended_stream_is_logged_in_one_line(
    embedded: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "eventstreams.access")
    async with place(embedded, tmp_path) as (gateway, topic):
        async with gateway.stream("a", ONE) as stream:
            await embedded.produce(topic, {"n": 1}, {"n": 2})
            await stream.documents(2)
            received = len(b"".join(stream.chunks))
        await gateway.until("streams_ended_total", 1, reason="disconnected")
        assert (await gateway.ask("HEAD", "/v2/stream/a", ONE)).status == 200
        assert (await gateway.get("/v2/stream/none", ONE)).status == 400
    [line] = [vars(r) for r in caplog.records if r.name == "eventstreams.access"]
    assert line["client"] == "192.0.2.0/24"
    assert line["streams"] == ["a"]
    assert line["events"] == 2
    assert line["bytes"] == received
    assert line["reason"] == "disconnected"
    assert line["user_agent"] == "bot/1"
    assert line["duration_s"] >= 0


async def test_the_access_log_can_be_disabled(
    embedded: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "eventstreams.access")
    topic = await embedded.topic()
    async with embedded.gateway({"a": [topic]}, http=HttpSettings(access_log=False)) as gateway:
        async with gateway.stream("a"):
            pass
        await gateway.until("streams_ended_total", 1, reason="disconnected")
    assert not [r for r in caplog.records if r.name == "eventstreams.access"]


@pytest.mark.parametrize("kind", ["identity", "gzip", "zstd"])
async def test_logged_counts_equal_what_the_client_received(
    embedded: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Count in history, live and at the end, in every encoding."""
    caplog.set_level(logging.INFO, "eventstreams.access")
    async with place(embedded, tmp_path) as (gateway, topic):
        await embedded.produce(topic, *({"n": n} for n in range(50)))
        headers = {"Accept-Encoding": kind}
        query = {"since": "1", "limit": "60"}
        async with gateway.stream("a", headers, **query) as stream:
            await stream.chunk()
            await embedded.produce(topic, *({"n": n} for n in range(10)))
            await stream.rest()
            received = sum(map(len, stream.chunks))
            assert (stream.head.get("content-encoding") or "identity") == kind
        await gateway.until("streams_ended_total", 1, reason="finished")
    [line] = [vars(r) for r in caplog.records if r.name == "eventstreams.access"]
    assert (line["events"], line["bytes"]) == (60, received)


def test_addresses_are_shortened_to_networks() -> None:
    assert shortened("192.0.2.77") == "192.0.2.0/24"
    assert shortened("2001:db8:1:2::3") == "2001:db8:1::/48"
    assert shortened("::ffff:192.0.2.77") == "192.0.2.0/24"
    assert shortened("<script>") == "unreadable"


async def test_a_short_key_is_refused_at_the_start(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("short")
    settings = Settings(access=AccessSettings(admin_key_file=str(key)))
    with pytest.raises(ConfigError, match=r"admin_key_file: .*: fewer than 32 bytes"):
        async with running(settings, Catalogue({"s": stream_of("s", ["t"])})):
            raise AssertionError


def test_a_closed_connection_has_nothing_unsent() -> None:
    """The stream is still listed for a moment."""
    with socket.socket() as sock:
        pass
    assert unsent(sock) == 0


@pytest.mark.parametrize(("asked", "given"), [("1", 1), ("10000", 10_000), ("99999", 10_000)])
def test_lists_are_limited(asked: str, given: int) -> None:
    assert _question(Query({"query_string": f"limit={asked}".encode()}))["limit"] == given


async def test_a_client_ahead_of_the_tail_is_not_behind() -> None:
    """It has read records that the follower has not read yet."""
    log = MemoryLog()
    await log.create_topic("t", 2)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        client = Client(gateway, "t")
        tasks.create_task(client.serve())
        await joined(gateway, client)
        [stream] = gateway.streams._open_streams._open.values()
        subscription = stream.subscription
        subscription.position = Position(subscription.spec.partitions, (7, 0), (0, 0))
        assert stream.document(gateway.hub)["behind"] == 0
        client.socket.hang_up()
