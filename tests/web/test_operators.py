"""The operators' page: who gets its figures, and what they are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eventstreams.config.settings import AccessSettings, LimitSettings, Settings
from eventstreams.model.catalogue import Catalogue
from tests.support.client import Stream
from tests.support.gateway import Served, Site, run_gateway, stream_of
from tests.support.other_site import OtherSite, other_site

pytestmark = pytest.mark.anyio

KEY = "k" * 32
OPERATOR = {"Authorization": f"Bearer {KEY}"}
LIVE = "/v2/admin/live"
RULE = {
    "name": "purge",
    "paused": False,
    "trouble": None,
    "running": 1,
    "ready": 0,
    "waiting": 2,
    "lag": 3,
    "partitions": {},
}


@asynccontextmanager
async def place(site: Site, folder: Path, *propagation: str) -> AsyncIterator[tuple[Served, str]]:
    folder.joinpath("key").write_text(f"{KEY}\n")
    topic = await site.topic()
    settings = Settings(
        log=site.settings,
        access=AccessSettings(admin_key_file=str(folder / "key")),
        limits=LimitSettings(streams_max=9),
        propagation=propagation,
    )
    async with run_gateway(settings, Catalogue({"s": stream_of("s", [topic])})) as gateway:
        await gateway.parts.hub.reachable.wait()
        yield gateway, topic


async def figures(stream: Stream) -> Any:
    """Return the next event of figures."""
    chunk = await stream.client.chunk()
    assert chunk is not None
    first, data, *_ = chunk.decode().split("\n")
    assert first == "event: figures"
    return json.loads(data.removeprefix("data: "))


async def test_only_the_key_or_a_new_ticket_opens_the_figures(
    embedded: Site, tmp_path: Path
) -> None:
    async with place(embedded, tmp_path) as (gateway, _):
        for headers, said in (
            ({}, "Send the operator's key"),
            ({"Authorization": "Bearer wrong"}, "This is not the operator's key"),
        ):
            refused = await gateway.get(LIVE, headers)
            assert refused.status == 401
            assert said in refused.json()["detail"]
            assert (await gateway.ask("POST", "/v2/admin/ticket", headers)).status == 401
            command = "/v2/admin/propagation/0/pause?rule=x"
            assert (await gateway.ask("POST", command, headers)).status == 401
        issued = await gateway.ask("POST", "/v2/admin/ticket", OPERATOR)
        assert issued.status == 201
        target = f"{LIVE}?ticket={issued.json()['ticket']}"
        async with gateway.opened(target) as stream:
            assert stream.head.status == 200
            assert stream.head.get("cache-control") == "no-store"
            assert (await figures(stream))["workers_missing"] == 0
        used = await gateway.get(target)
        assert used.status == 401
        assert issued.json()["ticket"].encode() not in used.body
        async with gateway.opened(LIVE, OPERATOR) as stream:
            assert stream.head.status == 200


async def test_without_a_key_in_the_settings_the_page_says_how_to_set_one(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for path in ("/v2/admin", "/v2/admin/"):
            answer = await gateway.get(path)
            assert (answer.status, answer.head.get("cache-control")) == (404, "no-store")
            assert b"access.admin_key_file" in answer.body
            assert b"admin.js" not in answer.body
        for path in (LIVE, f"{LIVE}?ticket=x"):
            assert (await gateway.get(path, OPERATOR)).status == 404
        assert (await gateway.ask("POST", "/v2/admin/ticket", OPERATOR)).status == 404


async def test_the_figures_are_those_of_the_gateway(embedded: Site, tmp_path: Path) -> None:
    async with place(embedded, tmp_path) as (gateway, topic), gateway.stream("s") as reader:
        await reader.opened()
        await embedded.produce(topic, {"n": 1})
        await reader.frame()
        gateway.parts.metrics.relay("up").connected.set(1)
        async with gateway.opened(LIVE, OPERATOR) as stream:
            reported = await figures(stream)
            again = await figures(stream)
    [worker] = reported["workers"]
    assert worker["log"] == "ok"
    assert worker["unreachable"] == []
    assert worker["streams"]["s"]["clients"] == 1
    assert worker["numbers"]["clients"] == worker["numbers"]["cohorts"] == 1
    assert worker["numbers"]["events_in"] == worker["numbers"]["events_out"] == 1
    assert worker["numbers"]["peak_memory_bytes"] > 10 * 2**20
    assert worker["relays"]["up"]["connected"] == 1
    assert worker["relays"]["up"]["events"] == 0
    assert reported["streams_limit"] == {"max": 9, "used": 1}
    assert reported["propagation"] == []
    assert again["time"] > reported["time"]


def rules_of(other: OtherSite, **fields: Any) -> None:
    state = {"service": "test", "open_circuits": [], "rules": [{**RULE, **fields}]}
    other.files["/v2/propagation"] = ("application/json", json.dumps(state).encode())


async def test_each_rule_of_propagation_has_a_row_and_can_be_paused(
    embedded: Site, tmp_path: Path
) -> None:
    async with other_site() as other:
        rules_of(other)
        nobody = "http://127.0.0.1:9"
        async with place(embedded, tmp_path, other.url, nobody) as (gateway, _):
            async with gateway.opened(LIVE, OPERATOR) as stream:
                asked, silent = (await figures(stream))["propagation"]
            assert asked["problem"] is None
            assert asked["rules"] == [{k: v for k, v in RULE.items() if k != "partitions"}]
            assert (silent["url"], silent["rules"]) == (nobody, [])
            assert silent["problem"]
            other.files["/v2/propagation/a%2Fb/pause"] = ("application/json", b'{"paused":true}')
            command = "/v2/admin/propagation/{}/{}?rule=a%2Fb"
            paused = await gateway.ask("POST", command.format(0, "pause"), OPERATOR)
            assert (paused.status, paused.json()) == (200, {"paused": True})
            assert other.requests[-1].startswith("POST /v2/propagation/a%2Fb/pause HTTP/1.1")
            assert f"authorization: Bearer {KEY}" in other.requests[-1]
            for at, name in ((0, "remove"), (2, "pause")):
                refused = await gateway.ask("POST", command.format(at, name), OPERATOR)
                assert refused.status == 404
            away = await gateway.ask("POST", command.format(1, "pause"), OPERATOR)
            assert away.status == 503


async def test_a_drain_ends_the_figures(embedded: Site, tmp_path: Path) -> None:
    async with (
        place(embedded, tmp_path) as (gateway, _),
        gateway.opened(LIVE, OPERATOR) as stream,
    ):
        await figures(stream)
        gateway.parts.hub.leaving = True
        await stream.rest()
