"""Clients of EventLogging over HTTP: the cases of its converter, and limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest

from eventstreams.config.settings import AccessSettings
from eventstreams.errors import LogError
from eventstreams.intake.enrichment import Sender
from eventstreams.legacy.beacon import Beacon
from eventstreams.legacy.conversion import Converter
from eventstreams.model.event import Placed, Record
from tests.support.backends import Backend, Kafka, Sqlite
from tests.support.blocking import no_blocking
from tests.support.client import connected
from tests.support.intake import ERRORS, Place, place
from tests.support.legacy_schemas import (
    LEGACY_STREAMS,
    LISTED,
    PINGBACK,
    TEST,
    write_legacy_schemas,
)

pytestmark = pytest.mark.anyio
both_logs = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.name, marks=kind.marks) for kind in (Sqlite, Kafka)]
)

PINGED = (
    "?%7B%22schema%22%3A%22MediaWikiPingback%22%2C%22revision%22%3A15781718%2C"
    "%22wiki%22%3A%22dummy%22%2C%22event%22%3A%7B%22database%22%3A%22mysql%22%2C%22MediaWiki%22"
    "%3A%221.31.1%22%2C%22PHP%22%3A%227.4.33%22%2C%22OS%22%3A%22Linux%5Cu00204.4.400-icpu-097%22"
    "%2C%22arch%22%3A64%2C%22machine%22%3A%22x86_64%22%2C%22serverSoftware%22%3A%22Apache%22"
    "%7D%7D;"
)
"""A query like MediaWiki's pingback: PHP's rawurlencode, with spaces as JSON escapes."""
AGENT = "test user agent"


def capsule(message: Any = "hello", **more: Any) -> dict[str, Any]:
    event = {"OtherMessage": message}
    return {"schema": "Test", "revision": 13, "wiki": "testwiki", "event": event, **more}


def encoded(document: Any) -> str:
    """Encode a capsule like the JavaScript client: encodeURIComponent(JSON.stringify()) and `;`."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return "?" + quote(text, safe="!~*'()") + ";"


async def ping(
    here: Place, query: str, method: str = "POST", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """Send a query unchanged, which httpx would encode again."""
    url = here.http.base_url.copy_with(raw_path=b"/beacon/event" + query.encode("latin-1"))
    sent = {"user-agent": AGENT, **(headers or {})}
    return await here.http.request(method, url, headers=sent)


@asynccontextmanager
async def listening(folder: Path, **more: Any) -> AsyncIterator[Place]:
    write_legacy_schemas(folder)
    with no_blocking():
        async with place(folder, **{"streams": LEGACY_STREAMS, "legacy": LISTED, **more}) as here:
            yield here


async def taken(here: Place, count: int = 1, stream: str = TEST) -> list[Any]:
    """Return the events of a stream, once the log has this many."""
    await here.served.until("intake_events_total", count, stream=stream, outcome="accepted")
    return await here.documents(stream)


async def test_mediawiki_pingbacks_become_events(tmp_path: Path) -> None:
    async with listening(tmp_path) as here:
        answer = await ping(here, PINGED)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["cache-control"] == "no-store"
        [event] = await taken(here, stream=PINGBACK)
    received = event.pop("dt")
    assert event.pop("client_dt") == received <= event["meta"].pop("dt")
    assert UUID(event.pop("uuid")).version == 4
    assert event.pop("recvFrom")
    assert event["meta"].pop("id")
    assert event["meta"].pop("request_id")
    assert event["http"].pop("client_ip") == "127.0.0.1"
    assert event == {
        "$schema": "/analytics/legacy/mediawikipingback/1.0.0",
        "meta": {"stream": PINGBACK},
        "schema": "MediaWikiPingback",
        "revision": 15781718,
        "wiki": "dummy",
        "event": {
            "database": "mysql",
            "MediaWiki": "1.31.1",
            "PHP": "7.4.33",
            "OS": "Linux 4.4.400-icpu-097",
            "arch": 64,
            "machine": "x86_64",
            "serverSoftware": "Apache",
        },
        "http": {"request_headers": {"user-agent": AGENT}},
    }


@both_logs
async def test_get_and_post_are_accepted_and_topics_have_no_prefix(
    tmp_path: Path, kind: type[Backend]
) -> None:
    """Other streams have topics with a prefix."""
    async with listening(tmp_path, kind=kind, topic_prefix="eqiad.") as here:
        for method in ("GET", "POST"):
            assert (await ping(here, encoded(capsule(method)), method)).status_code == 204
        events = await taken(here, 2)
    assert sorted(each["event"]["OtherMessage"] for each in events) == ["GET", "POST"]
    assert {each["meta"]["stream"] for each in events} == {TEST}
    assert {each["$schema"] for each in events} == {"/analytics/legacy/test/1.2.0"}


async def test_a_beacon_is_answered_before_its_event_is_appended(tmp_path: Path) -> None:
    async with listening(tmp_path) as here:
        log, may_append = here.parts.log, asyncio.Event()
        offer = log.offer

        async def waiting(records: Sequence[Record]) -> list[Placed | LogError]:
            await may_append.wait()
            return await offer(records)

        log.offer = waiting  # type: ignore[method-assign]
        assert (await ping(here, encoded(capsule()))).status_code == 204
        assert await here.documents(TEST) == []
        may_append.set()
        assert len(await taken(here)) == 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "the query is empty; it must contain a percent-encoded JSON object"),
        ("?;", "the query is empty; it must contain a percent-encoded JSON object"),
        (
            "?%7B%22schema%22%3A%22MediaWikiPingback",
            "the capsule is not JSON: it ends too early, so the URL was probably cut off",
        ),
        (
            "?%%22schema%22%3A%22Test%22%7D;",
            "the capsule is not JSON: invalid character (byte 0) "
            "(byte 0 of the query is a % without two hexadecimal digits after it)",
        ),
        ("?%5B1%5D;", "the capsule is JSON, but not an object"),
        ("?%7B%7D;", "the capsule has no field `schema`, which names its schema"),
        ("?%7B%22schema%22%3A7%7D;", "the capsule's field `schema` is not a string"),
        (
            encoded(capsule(schema="NotSupportedSchemaNameTest")),
            "legacy.schemas does not list the schema NotSupportedSchemaNameTest; "
            "it lists MediaWikiPingback, Test",
        ),
        ("?%ff%fe;", "the capsule is not JSON: invalid character (byte 0)"),
    ],
)
async def test_unconvertible_capsules_become_error_events(
    tmp_path: Path, query: str, message: str
) -> None:
    async with listening(tmp_path) as here:
        assert (await ping(here, query)).status_code == 204
        [error] = await here.errors(1)
        assert here.served.count("intake_events_total", stream="undeclared", outcome="invalid") == 1
        assert await here.documents(TEST) == []
    assert error["message"] == message
    assert error["raw_event"] == query.removeprefix("?")


async def test_invalid_converted_events_become_error_events(tmp_path: Path) -> None:
    async with listening(tmp_path) as here:
        assert (await ping(here, encoded(capsule(7)))).status_code == 204
        [error] = await here.errors(1)
    assert error["message"] == "'.event.OtherMessage' should be string"
    assert error["errored_stream_name"] == TEST
    assert error["errored_schema_uri"] == "/analytics/legacy/test/1.2.0"
    assert json.loads(error["raw_event"])["event"] == {"OtherMessage": 7}


@pytest.mark.parametrize("mode", ["strict", "eventgate"])
async def test_both_modes_report_unconvertible_capsules(tmp_path: Path, mode: str) -> None:
    async with listening(tmp_path, compatibility=mode) as here:
        await ping(here, "?no")
        assert len(await here.errors(1)) == 1


async def test_dt_is_the_time_of_receipt_and_client_dt_is_kept(tmp_path: Path) -> None:
    reported = "2020-04-02T19:11:20.942Z"
    async with listening(tmp_path) as here:
        await ping(here, encoded(capsule(client_dt=reported)))
        await taken(here)
        await ping(here, encoded(capsule(dt=reported)))
        events = await taken(here, 2)
    for event in events:
        assert event["client_dt"] == reported
        assert "2026" < event["dt"] <= event["meta"]["dt"]


async def test_the_capsules_user_agent_takes_precedence(tmp_path: Path) -> None:
    async with listening(tmp_path) as here:
        await ping(here, encoded(capsule(userAgent="Mozilla/5.0 (X11)")))
        [event] = await taken(here)
    assert event["http"]["request_headers"] == {"user-agent": "Mozilla/5.0 (X11)"}
    assert "userAgent" not in event


async def test_a_stream_that_keeps_no_user_agents_gets_none(tmp_path: Path) -> None:
    off = {"eventgate": {"enrich_fields_from_http_headers": {f"{_AGENT_FIELD}": False}}}
    streams = {**LEGACY_STREAMS, TEST: {**LEGACY_STREAMS[TEST], "producers": off}}
    async with listening(tmp_path, streams=streams) as here:
        await ping(here, encoded(capsule(userAgent="Mozilla/5.0 (X11)")))
        [event] = await taken(here)
    assert "request_headers" not in event.get("http", {})


_AGENT_FIELD = "http.request_headers.user-agent"


async def test_a_client_cannot_choose_schema_stream_or_address(tmp_path: Path) -> None:
    forged = capsule(
        **{"$schema": "/test/event/1.0.0"},
        meta={"stream": "eventstreams.test", "dt": "2001-01-01T00:00:00Z"},
        http={"client_ip": "192.0.2.9"},
        recvFrom="elsewhere",
        dt="2001-01-01T00:00:00Z",
        clientValidated=True,
        isTruncated=False,
    )
    async with listening(tmp_path) as here:
        await ping(here, encoded(forged))
        [event] = await taken(here)
        assert await here.documents("eventstreams.test") == []
    assert event["meta"]["dt"] > "2026"
    assert event["http"]["client_ip"] == "127.0.0.1"
    assert event["recvFrom"] == socket.gethostname()
    assert not event.keys() & {"clientValidated", "isTruncated"}


async def test_a_body_is_ignored_and_the_connection_is_kept(tmp_path: Path) -> None:
    """sendBeacon posts an empty body; other clients may post anything."""
    async with listening(tmp_path) as here, connected(here.served.port) as client:
        target = "/beacon/event" + encoded(capsule("hello"))
        for body in (b"", b"a=1&b=2", b"{"):
            await client.send("POST", target, {"Content-Length": str(len(body))})
            client.writer.write(body)
            head = await client.head()
            assert head.status == 204
            assert head.get("content-length") is None
        events = await taken(here, 3)
    assert {each["event"]["OtherMessage"] for each in events} == {"hello"}


async def test_plus_signs_and_unicode_are_preserved(tmp_path: Path) -> None:
    query = encoded(capsule("1+1 = 2, Héctor 🎉, & % ? ;")).replace("%2B", "+")
    async with listening(tmp_path) as here:
        await ping(here, query)
        [event] = await taken(here)
    assert event["event"] == {"OtherMessage": "1+1 = 2, Héctor 🎉, & % ? ;"}


async def test_ampersands_do_not_split_a_capsule(tmp_path: Path) -> None:
    """Other pages refuse queries with this many parameters."""
    message = "&" * 500
    async with listening(tmp_path) as here:
        await ping(here, encoded(capsule(message)).replace("%26", "&"))
        [event] = await taken(here)
    assert event["event"] == {"OtherMessage": message}


async def test_an_overlong_query_is_refused(tmp_path: Path) -> None:
    async with listening(tmp_path) as here:
        limit = LISTED.query_bytes_max
        assert (await ping(here, encoded(capsule("x" * limit)))).status_code == 204
        [error] = await here.errors(1)
        fits = encoded(capsule(""))
        room = limit - len(fits.removeprefix("?"))
        await ping(here, encoded(capsule("x" * room)))
        await taken(here)
    assert error["message"].endswith(f"the limit is {limit}")


async def test_deeply_nested_capsules_are_refused(tmp_path: Path) -> None:
    deep = "%7B%22schema%22%3A%22Test%22%2C%22event%22%3A" + "[" * 4000
    async with listening(tmp_path) as here:
        await ping(here, f"?{deep}")
        await ping(here, f"?{deep}{']' * 3900}")
        await ping(here, encoded(capsule([[[[0]] * 3] * 3], deep=_nested(70))))
        errors = await here.errors(3)
    kinds = [each["error_type"] for each in errors]
    assert kinds[-1] == "EventTooDeepError"
    assert kinds[:2] == ["CapsuleError"] * 2


def _nested(depth: int) -> Any:
    return [_nested(depth - 1)] if depth else 0


async def test_without_memory_in_the_intake_beacons_get_503(tmp_path: Path) -> None:
    """Memory, and the share of an address, are shared with POST /v1/events."""
    async with (
        listening(tmp_path, in_flight_bytes_max=100_000, client_bodies_max=2) as here,
        contextlib.AsyncExitStack() as posts,
    ):
        admission = here.parts.intake.admission if here.parts.intake else None
        assert admission is not None
        for _ in range(2):
            lease = posts.enter_context(admission.lease("192.0.2.1"))
            lease.cover(1)
        client = {"x-client-ip": "192.0.2.1"}
        refused = await ping(here, encoded(capsule("mine")), headers=client)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        other = await ping(here, encoded(capsule("other")), headers={"x-client-ip": "192.0.2.2"})
        assert other.status_code == 204
        await taken(here)
        posts.enter_context(admission.lease("192.0.2.3")).cover(99_000, always=True)
        full = await ping(here, encoded(capsule("late")), headers={"x-client-ip": "192.0.2.4"})
        assert full.status_code == 503
        events = await here.documents(TEST)
    assert [each["event"]["OtherMessage"] for each in events] == ["other"]


async def test_beacons_return_their_memory(tmp_path: Path) -> None:
    async with listening(tmp_path) as here:
        assert here.parts.intake is not None
        for query in (encoded(capsule()), "?no", encoded(capsule(7))):
            await ping(here, query)
        await here.errors(2)
        await taken(here)
        await here.parts.intake.promises.kept()
        assert here.parts.intake.admission.bytes == 0


async def test_converting_runs_in_turns_of_the_client(tmp_path: Path) -> None:
    async with listening(tmp_path) as here:
        intake, turns = here.parts.intake, here.parts.turns
        assert intake is not None
        took: list[str] = []
        turn = turns.turn

        def noting(client: str) -> Any:
            took.append(client)
            return turn(client)

        turns.turn = noting  # type: ignore[method-assign]
        converter = Converter(LISTED.schemas, configs=lambda: here.parts.catalogue_watcher.configs)
        beacon = Beacon(intake=intake, converter=converter, receiver="x", query_bytes_max=99)
        sender = Sender(header=lambda _: None, client_ip=None, site="192.0.2.7")
        with contextlib.ExitStack() as until_done:
            lease = until_done.enter_context(intake.admission.lease(sender.site))
            await beacon.take(b"?no", sender, lease, until_done.pop_all())
        assert took == ["192.0.2.7"] * 2
        assert len(await here.errors(1)) == 1


async def test_the_network_of_an_ipv6_client_is_charged(tmp_path: Path) -> None:
    async with listening(tmp_path) as here:
        charged: list[str] = []
        turns = here.parts.turns
        charge = turns.charge

        def noting(client: str, spent_s: float) -> None:
            charged.append(client)
            charge(client, spent_s)

        turns.charge = noting  # type: ignore[method-assign]
        await ping(here, encoded(capsule()), headers={"x-client-ip": "2001:db8::17"})
        await taken(here)
    assert "2001:db8::/64" in charged


async def test_without_listed_schemas_there_is_no_beacon(tmp_path: Path) -> None:
    async with listening(tmp_path, legacy=None) as here:
        assert (await ping(here, encoded(capsule()))).status_code == 404
        assert (await ping(here, encoded(capsule()), "GET")).status_code == 404


async def test_options_lists_the_methods_of_beacons(tmp_path: Path) -> None:
    async with listening(tmp_path) as here:
        for method in ("PUT", "DELETE", "HEAD"):
            assert (await ping(here, encoded(capsule()), method)).status_code == 404
        options = await ping(here, "", "OPTIONS")
        assert options.status_code == 200
        assert options.headers["allow"] == "GET, POST"
        assert options.headers.get_list("access-control-allow-methods") == ["GET, POST"]
        assert await here.documents(TEST) == []


async def test_listed_schemas_need_no_producer_key(tmp_path: Path) -> None:
    """These clients have no keys; listing a schema allows posts to its stream only."""
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"bot: {{keys_sha256: [{'ab' * 32}], streams: ['*']}}\n")
    access = AccessSettings(producer_keys=str(keys))
    async with listening(tmp_path, access=access) as here:
        assert (await here.post([{}])).status_code == 401
        await ping(here, encoded(capsule()))
        assert len(await taken(here)) == 1


async def test_errors_of_redacted_streams_quote_nothing(tmp_path: Path) -> None:
    redact = [{"domain": "a.org", "titles": ["x"], "title_fields": ["test"], "remove": ["y"]}]
    streams = {**LEGACY_STREAMS, "test.secret": {"schema_title": "test/event", "redact": redact}}
    async with listening(tmp_path, streams=streams) as here:
        await ping(here, encoded(capsule("sensitive", schema="Sensitive")))
        await ping(here, "?sensitive")
        errors = await here.errors(2)
    assert len(errors) == 2
    assert "ensitive" not in json.dumps(errors)
    assert ERRORS in json.dumps(errors)
