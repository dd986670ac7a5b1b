"""Tokens, cookies and tickets give access to streams that need a scope, for a limited time."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from eventstreams.access.key_sets import KeySet
from eventstreams.access.tickets import Tickets
from eventstreams.access.tokens import Identity, Tokens
from eventstreams.config.catalogue import load_catalogue
from eventstreams.config.settings import AccessSettings, HttpSettings, Settings
from eventstreams.errors import ConfigError, InvalidToken
from eventstreams.gateway import running
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.quota.quota import LocalQuota, Quota
from eventstreams.web.access import Access
from eventstreams.web.streams import _until_expired
from tests.support.client import Answer
from tests.support.clock import StoppedClock
from tests.support.fanout import Client, Socket, serving
from tests.support.gateway import Served, Site, stream_of
from tests.support.issuer import SECRET, Pair, key_set, secret_token

pytestmark = pytest.mark.anyio

PAIR = Pair("EdDSA", "k")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def place(site: Site, folder: Path, **access: Any) -> AsyncIterator[tuple[Served, str]]:
    """`open` is public, `closed` needs read:closed, and `both` are both names."""
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


async def test_a_public_stream_ignores_tokens(embedded: Site, tmp_path: Path) -> None:
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


async def test_a_stream_with_a_scope_requires_it(embedded: Site, tmp_path: Path) -> None:
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


async def test_an_id_grants_no_access(embedded: Site, tmp_path: Path) -> None:
    """An id gives access neither to other streams nor instead of a token."""
    async with place(embedded, tmp_path) as (gateway, topic):
        await embedded.produce(topic, {"secret": 1})
        id_ = json.dumps([{"topic": topic, "partition": 0, "offset": 0}])
        for name in ("open", "other"):
            headers = {"Last-Event-ID": id_, **bearer(PAIR.token(scope="read:other"))}
            assert (await gateway.get(f"/v2/stream/{name}", headers)).status in (400, 404)
        assert (await gateway.get("/v2/stream/closed", {"Last-Event-ID": id_})).status == 401


async def test_a_configured_cookie_replaces_the_header(embedded: Site, tmp_path: Path) -> None:
    cookie = {"Cookie": f"a=b; session={PAIR.token(scope='read:closed')}; c=d"}
    async with place(embedded, tmp_path, cookie="session") as (gateway, _):
        async with gateway.stream("closed", cookie):
            pass
        assert (await gateway.get("/v2/stream/closed", {"Cookie": "session="})).status == 401
    async with place(embedded, tmp_path) as (gateway, _):
        assert (await gateway.get("/v2/stream/closed", cookie)).status == 401


async def test_a_ticket_is_valid_once(embedded: Site, tmp_path: Path) -> None:
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
        assert ticket not in again.body.decode(), "it is never logged, not even after use"
        assert again.json()["uri"] == "/v2/stream/closed?a=b&ticket=...&c=d"
        assert (await gateway.get("/v2/stream/closed?ticket=%FF")).status == 401
        spelt = await gateway.get(f"/v2/stream/closed?%74icket={ticket}&b")
        assert spelt.json()["uri"] == "/v2/stream/closed?ticket=...&b"
        assert (await gateway.get("/v2/ticket")).status == 404


async def test_secrets_appear_in_no_log_response_or_metric(
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
        assert secret.split(".")[-1].encode() not in said, "nor the signature by itself"


async def test_an_expired_ticket_is_refused(embedded: Site, tmp_path: Path) -> None:
    async with place(embedded, tmp_path, ticket_s=0.001) as (gateway, _):
        issued = await gateway.ask("POST", "/v2/ticket", bearer(PAIR.token(scope="read:closed")))
        ticket = issued.json()["ticket"]
        await asyncio.sleep(0.05)  # the ticket expires
        assert (await gateway.get(f"/v2/stream/closed?ticket={ticket}")).status == 401


def soon_to_expire(clock: StoppedClock) -> str:
    """Return a token that expires 1 s after the begin of each stream.

    The library that checks tokens reads the system's clock, for which it is valid for an hour.
    """
    clock.now_s += 3600
    return PAIR.token(scope="read:closed", exp=clock.now_s + 1)


async def test_a_stream_ends_when_its_token_expires(
    embedded: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = soon_to_expire(StoppedClock(monkeypatch))
    async with place(embedded, tmp_path) as (gateway, topic):
        async with gateway.stream("closed", bearer(short)) as stream:
            await stream.opened()
            await embedded.produce(topic, {"n": 0})
            *before, error = [await stream.frame()]
            while error.event != "error":  # the event arrives in time unless the machine is busy
                before, error = [error], await stream.frame()
            assert error.document["name"] == "InvalidToken"
            await stream.rest()
        await embedded.produce(topic, {"n": 1})
        expired = bearer(PAIR.token(scope="read:closed", exp=1))
        assert_refused(await gateway.get("/v2/stream/closed", expired), 401, "invalid_token")
        renewed = bearer(PAIR.token(scope="read:closed"))
        async with gateway.stream("closed", renewed, last_event_id=error.id) as stream:
            frames = [*before, *await stream.frames(2 - len(before))]
        assert [frame.document["n"] for frame in frames] == [0, 1]
        await gateway.until("streams_ended_total", 1, reason="expired")


async def test_a_ticket_expires_with_its_token(
    embedded: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = soon_to_expire(StoppedClock(monkeypatch))
    async with place(embedded, tmp_path) as (gateway, _):
        issued = await gateway.ask("POST", "/v2/ticket", bearer(short))
        async with gateway.stream("closed", ticket=issued.json()["ticket"]) as stream:
            assert (await stream.frame()).event == "error"
            await stream.rest()


async def test_only_the_configured_site_may_send_credentials(embedded: Site) -> None:
    topic = await embedded.topic()
    for cors, expected in (("https://one.example", "true"), ("*", None)):
        async with embedded.gateway(
            {"s": [topic]}, http=HttpSettings(cors=cors), access=AccessSettings(cookie="c")
        ) as gateway:
            found = (await gateway.get("/v2/streams")).head.get("access-control-allow-credentials")
            assert found == expected


async def test_a_scope_without_keys_is_refused_at_start() -> None:
    catalogue = Catalogue({"s": stream_of("s", ["t"])._replace(scope="x")})
    with pytest.raises(ConfigError, match=r"streams\.s\.scope"):
        async with running(Settings(), catalogue):
            raise AssertionError


def test_streams_of_one_topic_need_the_same_scope(tmp_path: Path) -> None:
    file = tmp_path / "streams.yaml"
    file.write_text("{a: {topics: [t]}, b: {topics: [u], topics_allowed: [t], scope: read:b}}")
    with pytest.raises(ConfigError, match=r"streams\.b\.scope: t is a topic of a too"):
        load_catalogue(file)
    file.write_text('{a: {scope: "two words"}}')
    with pytest.raises(ConfigError, match=r"streams\.a"):
        load_catalogue(file)


async def test_a_ticket_of_an_expired_token_is_refused() -> None:
    quota = Quota(LocalQuota(), Metrics())
    tickets = Tickets(quota=quota, ttl_s=60.0)
    tokens = Tokens(
        keys=KeySet(file=None, url=None, refresh_s=60.0),
        secret=None,
        issuer=None,
        audience=None,
        leeway_s=0.0,
    )
    access = Access(tokens=tokens, tickets=tickets, cookie=None)
    for left_s, let_in in ((60.0, True), (-0.001, False)):
        ticket = await tickets.issue(Identity("a", frozenset({"r"}), time.time() + left_s))
        scope = {"headers": [], "query_string": f"ticket={ticket}".encode()}
        if let_in:
            assert await access.authorise(scope, {"r"})
        else:
            with pytest.raises(InvalidToken, match="has expired"):
                await access.authorise(scope, {"r"})


async def test_an_ended_stream_is_freed_before_its_token_expires() -> None:
    class Stream:
        def end(self, *_: object) -> None:
            raise AssertionError("it ended long before")

    stream = Stream()
    kept = weakref.ref(stream)
    identity = Identity("a", frozenset(), time.time() + 3_600)
    with _until_expired(cast("Any", stream), identity):
        pass
    del stream
    gc.collect()
    assert kept() is None


async def test_a_scope_added_while_a_stream_opens_ends_it() -> None:
    """The request was authorized before, and its stream is not yet listed."""
    log = MemoryLog()
    await log.create_topic("t", 1)
    async with serving(log, ["t"]) as gateway, asyncio.TaskGroup() as tasks:
        closed = Catalogue({"t": stream_of("t", ["t"])._replace(scope="read:t")})

        class Closing(Socket):
            async def send(self, message: Any) -> None:
                await super().send(message)
                gateway.streams._open_streams._catalogue = lambda: closed

        client = Client(gateway, "t", socket=Closing())
        tasks.create_task(client.serve())
        await client.ended()
        [frame] = client.socket.frames
        assert json.loads(frame.data)["name"] == "Forbidden"
    assert gateway.count("streams_ended_total", reason="revoked") == 1
