"""Streams that need a scope: who is let in by a token, a cookie or a ticket, and for how long."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from eventstreams.errors import ConfigError
from eventstreams.gateway import running
from eventstreams.model.stream import Catalogue, load_catalogue
from eventstreams.settings import AccessSettings, HttpSettings, Settings
from tests.access.issuer import SECRET, Pair, key_set, secret_token
from tests.web.client import Answer
from tests.web.gateway import Served, Site, stream_of

pytestmark = pytest.mark.anyio

PAIR = Pair("EdDSA", "k")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def place(site: Site, folder: Path, **access: Any) -> AsyncIterator[tuple[Served, str]]:
    """`open` is for all, `closed` needs read:closed, `both` are their names together."""
    folder.joinpath("keys.json").write_bytes(key_set(PAIR))
    folder.joinpath("secret").write_bytes(SECRET + b"\n")
    topic, closed = await site.topic(), await site.topic()
    streams = {
        "open": stream_of("open", [topic]),
        "closed": stream_of("closed", [closed])._replace(scope="read:closed"),
        "other": stream_of("other", [await site.topic()])._replace(scope="read:other"),
    }
    keys = {"jwks_file": str(folder / "keys.json"), "hs256_secret_file": str(folder / "secret")}
    settings = AccessSettings(**{**keys, "leeway_s": 0.0, **access})
    async with site.gateway(streams, access=settings) as gateway:
        yield gateway, closed


def assert_refused(answer: Answer, status: int, challenge: str) -> None:
    assert answer.status == status
    assert challenge in (answer.head.get("www-authenticate") or "")


async def test_an_open_stream_needs_nothing_and_minds_no_bad_token(
    embedded: Site, tmp_path: Path
) -> None:
    async with (
        place(embedded, tmp_path) as (gateway, _),
        gateway.stream("open"),
        gateway.stream("open", bearer("garbage")),
    ):
        pass


async def test_two_authorization_headers_are_refused(embedded: Site, tmp_path: Path) -> None:
    token = f"Bearer {PAIR.token(scope='read:closed')}"
    lines = {"Authorization": token, "authorization": token}
    async with place(embedded, tmp_path) as (gateway, _):
        for method, path in (("GET", "/v2/stream/closed"), ("POST", "/v2/ticket")):
            answer = await gateway.ask(method, path, lines)
            assert answer.status == 400
            assert "several authorization headers" in answer.json()["detail"]


async def test_a_stream_with_a_scope_is_for_those_who_have_it(
    embedded: Site, tmp_path: Path
) -> None:
    async with place(embedded, tmp_path) as (gateway, topic):
        for path in ("/v2/stream/closed", "/v2/stream/open,closed", "/v2/explain?streams=closed"):
            assert_refused(await gateway.get(path), 401, "Bearer")
            bad = await gateway.get(path, bearer("x.y.z"))
            assert_refused(bad, 401, "invalid_token")
            lacking = await gateway.get(path, bearer(PAIR.token(scope="read:other")))
            assert_refused(lacking, 403, "insufficient_scope")
            assert "read:closed" in lacking.json()["detail"]
        for token in (PAIR.token(scope="read:closed"), secret_token(scope="a read:closed")):
            async with gateway.stream("open,closed", bearer(token)) as stream:
                await stream.opened()
                await embedded.produce(topic, {"n": 1})
                assert (await stream.frame()).document["n"] == 1
            explained = await gateway.get("/v2/explain?streams=closed", bearer(token))
            assert explained.status == 200


async def test_a_cursor_lets_nobody_in(embedded: Site, tmp_path: Path) -> None:
    """Not beside the streams of the URL, and not in the place of a token."""
    async with place(embedded, tmp_path) as (gateway, topic):
        await embedded.produce(topic, {"secret": 1})
        id_ = json.dumps([{"topic": topic, "partition": 0, "offset": 0}])
        for name in ("open", "other"):
            headers = {"Last-Event-ID": id_, **bearer(PAIR.token(scope="read:other"))}
            assert (await gateway.get(f"/v2/stream/{name}", headers)).status in (400, 404)
        assert (await gateway.get("/v2/stream/closed", {"Last-Event-ID": id_})).status == 401


async def test_a_cookie_is_as_good_as_the_header_where_it_is_named(
    embedded: Site, tmp_path: Path
) -> None:
    cookie = {"Cookie": f"a=b; session={PAIR.token(scope='read:closed')}; c=d"}
    async with place(embedded, tmp_path, cookie="session") as (gateway, _):
        async with gateway.stream("closed", cookie):
            pass
        assert (await gateway.get("/v2/stream/closed", {"Cookie": "session="})).status == 401
    async with place(embedded, tmp_path) as (gateway, _):
        assert (await gateway.get("/v2/stream/closed", cookie)).status == 401


async def test_a_ticket_lets_in_once(embedded: Site, tmp_path: Path) -> None:
    async with place(embedded, tmp_path) as (gateway, _):
        token = PAIR.token(scope="read:closed")
        assert_refused(await gateway.ask("POST", "/v2/ticket"), 401, "Bearer")
        issued = await gateway.ask("POST", "/v2/ticket", bearer(token))
        assert issued.status == 201
        assert issued.head.get("cache-control") == "no-store"
        ticket = issued.json()["ticket"]
        async with gateway.stream("closed", ticket=ticket):
            pass
        again = await gateway.get(f"/v2/stream/closed?a=b&ticket={ticket}&c=d")
        assert_refused(again, 401, "invalid_token")
        assert ticket not in again.body.decode(), "it is nobody's to read, not even when used"
        assert again.json()["uri"] == "/v2/stream/closed?a=b&ticket=...&c=d"
        assert (await gateway.get("/v2/stream/closed?ticket=%FF")).status == 401
        spelt = await gateway.get(f"/v2/stream/closed?%74icket={ticket}&b")
        assert spelt.json()["uri"] == "/v2/stream/closed?ticket=...&b"
        assert (await gateway.get("/v2/ticket")).status == 404


async def test_no_secret_is_in_a_log_an_answer_or_a_metric(
    embedded: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = tmp_path / "admin"
    key.write_text("k" * 40)
    good, lacking = PAIR.token(scope="read:closed"), PAIR.token(scope="other")
    forged = good[:-4] + "AAAA"
    tickets: list[str] = []
    said = b""
    async with place(embedded, tmp_path, cookie="c", admin_key_file=str(key)) as (gateway, _):
        for token in (good, lacking, forged, SECRET.decode("latin-1")):
            for headers in (bearer(token), {"Cookie": f"c={token}"}):
                issued = await gateway.ask("POST", "/v2/ticket", headers)
                ticket = issued.json().get("ticket")
                tickets += [ticket] if ticket else []
                async with gateway.opened("/v2/stream/closed", headers) as stream:
                    said += str(stream.head).encode()
                explained = await gateway.get("/v2/explain?streams=closed", headers)
                said += explained.body
        for ticket in [*tickets, *tickets]:
            async with gateway.opened(f"/v2/stream/closed?since=x&ticket={ticket}") as stream:
                said += str(stream.head).encode()
            said += (await gateway.get(f"/v2/stream/nope?ticket={ticket}")).body
        said += (await gateway.get("/v2/admin/clients", bearer("k" * 40))).body
        said += (await gateway.get("/v2/admin/clients", bearer(good))).body
        said += generate_latest(gateway.parts.metrics.registry)
    assert len(tickets) >= 4
    said += "\n".join(str(vars(record)) for record in caplog.records).encode()
    for secret in (good, lacking, forged, SECRET.decode("latin-1"), "k" * 40, *tickets):
        assert secret.encode() not in said
        assert secret.split(".")[-1].encode() not in said, "nor the signature alone"


async def test_a_ticket_that_lay_too_long_is_worth_nothing(embedded: Site, tmp_path: Path) -> None:
    async with place(embedded, tmp_path, ticket_s=0.001) as (gateway, _):
        issued = await gateway.ask("POST", "/v2/ticket", bearer(PAIR.token(scope="read:closed")))
        ticket = issued.json()["ticket"]
        await asyncio.sleep(0.05)  # it lies
        assert (await gateway.get(f"/v2/stream/closed?ticket={ticket}")).status == 401


async def test_a_stream_ends_when_its_token_does_and_goes_on_with_a_new_one(
    embedded: Site, tmp_path: Path
) -> None:
    async with place(embedded, tmp_path) as (gateway, topic):
        short = PAIR.token(scope="read:closed", exp=time.time() + 2)
        async with gateway.stream("closed", bearer(short)) as stream:
            await stream.opened()
            await embedded.produce(topic, {"n": 0})
            assert (await stream.frame()).document["n"] == 0
            error = await stream.frame()
            assert error.event == "error"
            assert error.document["name"] == "InvalidToken"
            await stream.rest()
        await embedded.produce(topic, {"n": 1})
        assert_refused(await gateway.get("/v2/stream/closed", bearer(short)), 401, "invalid_token")
        renewed = bearer(PAIR.token(scope="read:closed"))
        async with gateway.stream("closed", renewed, last_event_id=error.id) as stream:
            assert (await stream.frame()).document["n"] == 1
        await gateway.until("streams_ended_total", 1, reason="expired")


async def test_a_ticket_ends_with_the_token_it_stands_for(embedded: Site, tmp_path: Path) -> None:
    async with place(embedded, tmp_path) as (gateway, _):
        short = PAIR.token(scope="read:closed", exp=time.time() + 2)
        issued = await gateway.ask("POST", "/v2/ticket", bearer(short))
        async with gateway.stream("closed", ticket=issued.json()["ticket"]) as stream:
            assert (await stream.frame()).event == "error"
            await stream.rest()


async def test_credentials_of_a_page_are_for_the_one_site_that_is_named(embedded: Site) -> None:
    topic = await embedded.topic()
    for cors, expected in (("https://one.example", "true"), ("*", None)):
        async with embedded.gateway(
            {"s": [topic]}, http=HttpSettings(cors=cors), access=AccessSettings(cookie="c")
        ) as gateway:
            found = (await gateway.get("/v2/streams")).head.get("access-control-allow-credentials")
            assert found == expected


async def test_a_scope_without_anything_to_check_tokens_with_is_refused_at_start() -> None:
    catalogue = Catalogue({"s": stream_of("s", ["t"])._replace(scope="x")})
    with pytest.raises(ConfigError, match=r"streams\.s\.scope"):
        async with running(Settings(), catalogue):
            raise AssertionError


def test_a_topic_is_not_open_by_one_stream_and_closed_by_another(tmp_path: Path) -> None:
    file = tmp_path / "streams.yaml"
    file.write_text("{a: {topics: [t]}, b: {topics: [u], topics_allowed: [t], scope: read:b}}")
    with pytest.raises(ConfigError, match=r"streams\.b\.scope: t is a topic of a too"):
        load_catalogue(file)
    file.write_text('{a: {scope: "two words"}}')
    with pytest.raises(ConfigError, match=r"streams\.a"):
        load_catalogue(file)
