"""Relays of a scripted upstream: their requests, their records, and errors."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import pytest

from eventstreams.errors import RelayFault, UpstreamRefused
from eventstreams.log.memory import MemoryLog
from eventstreams.model.gap_marker import is_gap_marker
from eventstreams.relay.answers import Backoff
from tests.relay.scripted import (
    OK,
    PATIENCE_S,
    Request,
    Site,
    answer,
    entry,
    event,
    exact,
    frame,
    upstream,
)
from tests.support.tcp_server import tcp_server

pytestmark = pytest.mark.anyio

E, C = "eqiad.edits", "codfw.edits"
NOW = 1_800_000_000_000


def site() -> Site:
    return Site(MemoryLog())


def datas(*offsets: int, topic: str = E) -> list[bytes]:
    return [event(topic, offset) for offset in offsets]


async def test_events_are_appended_unchanged_with_their_time() -> None:
    here = site()
    odd = b'{ "n" : 1e2,\t"meta":{"topic":"eqiad.edits","partition":0,"offset":1,"stream":"edits"}}'
    two = frame(odd, [entry(E, offset=2, timestamp=7_000)])
    async with upstream(OK + exact(E, 0) + two) as up, here.relaying(up.url):
        assert await here.values(E, 2) == [event(E, 0), odd]
        assert [each.timestamp_ms for each in await here.events(E)] == [1_000, 7_000]
        assert here.count("events_total") == 2
        assert here.count("newest_event_seconds") == 7.0
        assert here.count("lag_seconds") == pytest.approx(time.time() - 7, abs=PATIENCE_S)


async def test_the_first_request_is_live_and_identifies_the_relay() -> None:
    here = site()
    async with upstream(OK) as up, here.relaying(up.url, contact="ops@example.org"):
        request = await up.request()
        assert request.path == "/v2/stream/edits"
        assert request.query == {"heartbeat": "checkpoint", "caught_up": "event"}
        assert request.headers["user-agent"].startswith("eventstreams-relay/")
        assert request.headers["user-agent"].endswith(" (ops@example.org)")
        assert request.headers["accept"] == "text/event-stream"
        assert request.last_event_id is None


async def test_since_filter_and_canaries_are_passed_on() -> None:
    here = site()
    options = {"since_ms": 0, "filter_": "event.n > 1 && true", "canaries": False}
    async with upstream(OK) as up, here.relaying(up.url, **options):
        query = (await up.request()).query
        assert query["since"] == "1970-01-01T00:00:00.001Z"
        assert (query["filter"], query["canary"]) == ("event.n > 1 && true", "false")


async def test_events_during_an_early_disconnect_are_requested() -> None:
    here = site()
    async with upstream(OK, OK + exact(E, 5)) as up, here.relaying(up.url, now_ms=NOW):
        assert "since" not in (await up.request()).query
        assert (await up.request()).query["since"] == "2027-01-15T07:59:00.000Z"
        assert await here.values(E, 1) == datas(5)


async def test_a_relay_resumes_with_the_last_id() -> None:
    here = site()
    later = [entry(E, offset=4, timestamp=1_003)]
    async with upstream(OK + exact(E, 0) + exact(E, 1), OK + exact(E, 2)) as up:
        async with here.relaying(up.url):
            await up.request()
            assert (await up.request()).last_event_id == [entry(E, offset=2, timestamp=1_001)]
            assert await here.values(E, 3) == datas(0, 1, 2)
            await up.send(exact(E, 3))
            await here.values(E, 4)
        async with here.relaying(up.url):
            assert (await up.request()).last_event_id == later
            await up.send(exact(E, 4))
            assert await here.values(E, 5) == datas(0, 1, 2, 3, 4)


async def test_an_incomplete_event_is_not_appended() -> None:
    here = site()
    torn = exact(E, 1)[:-1]
    async with upstream(OK + exact(E, 0) + torn, OK + exact(E, 1)) as up, here.relaying(up.url):
        assert await here.values(E, 2) == datas(0, 1)


async def test_a_checkpoint_advances_the_progress() -> None:
    here = site()
    moved = json.dumps([entry(E, offset=900, timestamp=5)])
    async with (
        upstream(OK + exact(E, 0) + f"id: {moved}\n\n".encode(), OK) as up,
        here.relaying(up.url, filter_="event.n == 0"),
    ):
        await up.request()
        assert (await up.request()).last_event_id == json.loads(moved)
        await up.send(exact(E, 950))
        assert await here.values(E, 2) == datas(0, 950)


async def test_ids_with_times_repeat_a_millisecond_without_duplicates() -> None:
    """Return an id in Wikimedia's form: the time after the last event, -1 for quiet partitions."""
    here = site()

    def wikimedia(offset: int, time: int) -> bytes:
        return frame(event(E, offset), [entry(E, timestamp=time + 1), entry(C, offset=-1)])

    again = OK + wikimedia(7, 50) + wikimedia(8, 50) + wikimedia(9, 50)
    async with (
        upstream(OK + wikimedia(7, 50) + wikimedia(8, 50), again) as up,
        here.relaying(up.url, now_ms=NOW),
    ):
        await up.request()
        asked = (await up.request()).last_event_id
        assert asked == [entry(E, timestamp=50), entry(C, timestamp=NOW)]
        assert await here.values(E, 3) == datas(7, 8, 9)
        assert [each.timestamp_ms for each in await here.events(E)] == [50, 50, 50]
        assert here.count("duplicates_total") == 2


async def test_another_cluster_may_serve_times_with_lower_offsets() -> None:
    here = site()

    def of(offset: int, time: int) -> bytes:
        return frame(event(E, offset), [entry(E, timestamp=time + 1)])

    async with upstream(OK + of(700, 50), OK + of(3, 60) + of(4, 61)) as up, here.relaying(up.url):
        assert await here.values(E, 3) == datas(700, 3, 4)


async def test_resuming_too_late_is_recorded_as_a_gap() -> None:
    here = site()

    def of(offset: int, time: int) -> bytes:
        return frame(event(E, offset), [entry(E, timestamp=time + 1)])

    async with (
        upstream(OK + of(7, 50), OK + of(20, 90) + of(22, 91)) as up,
        here.relaying(up.url),
    ):
        await here.values(E, 4)
        kept = await here.events(E)
        assert [is_gap_marker(each) for each in kept] == [False, True, False, False]
        assert json.loads(kept[1].value or b"")["upstream"]["partitions"][0]["skipped"] == 12


async def test_a_gap_of_the_upstream_is_recorded_between_its_events() -> None:
    here = site()
    reported = {
        "message": "gone",
        "partitions": [{**entry(E), "requested": 1, "resumed": 10, "cause": "retention"}],
    }
    gap = frame(json.dumps(reported).encode(), [entry(E, offset=10, timestamp=9)], "gap")
    async with upstream(OK + exact(E, 0) + gap + exact(E, 10)) as up, here.relaying(up.url):
        await here.values(E, 3)
        before, marker, after = await here.events(E)
        assert (before.value, after.value) == (event(E, 0), event(E, 10))
        assert is_gap_marker(marker)
        assert json.loads(marker.value or b"")["upstream"] == reported
        assert here.count("gaps_total") == 1
        assert await here.events(C) == []


async def test_a_gap_may_lead_to_an_earlier_offset() -> None:
    here = site()
    reported = {"partitions": [{**entry(E), "requested": 9, "resumed": 3, "cause": "truncation"}]}
    gap = frame(json.dumps(reported).encode(), [entry(E, offset=3, timestamp=9)], "gap")
    async with upstream(OK + exact(E, 8) + gap + exact(E, 3, 5)) as up, here.relaying(up.url):
        values = await here.values(E, 3)
        assert [values[0], values[2]] == datas(8, 3)


async def test_two_data_centres_and_streams_keep_their_topics() -> None:
    here = site()
    ids = [entry(E, offset=1, timestamp=1), entry(C, offset=3, timestamp=1)]
    moved = frame(event("their.moves", 0, stream="their.moves"), [entry("their.moves", offset=1)])
    async with (
        upstream(OK + frame(event(E, 0), ids) + frame(event(C, 2), ids) + moved) as up,
        here.relaying(up.url, streams={"edits": "edits", "their.moves": "moves"}),
    ):
        assert (await up.request()).path == "/v2/stream/edits,their.moves"
        assert await here.values(E, 1) == datas(0)
        assert await here.values(C, 1) == datas(2, topic=C)
        assert len(await here.values("moves", 1)) == 1


async def test_canaries_are_relayed_or_dropped() -> None:
    canary = frame(event(E, 0, domain="canary"), [entry(E, offset=1, timestamp=1)])
    for canaries in (True, False):
        here = site()
        async with (
            upstream(OK + canary + exact(E, 1)) as up,
            here.relaying(up.url, canaries=canaries),
        ):
            assert len(await here.values(E, 1 + canaries)) == 1 + canaries
            assert here.count("canaries_total") == (not canaries)


async def test_heartbeats_keep_the_connection_and_silence_ends_it() -> None:
    here = site()
    async with (
        upstream(OK + b":\n", OK + exact(E, 0)) as up,
        here.relaying(up.url, stall_timeout_s=0.2),
    ):
        assert await here.values(E, 1) == datas(0)
        for _ in range(3):  # the last connection is silent and times out repeatedly
            await up.request()


async def test_catching_up_is_detected() -> None:
    here = site()
    reported = frame(b'{"message":"all"}', [entry(E, offset=1, timestamp=1_000)], "caught-up")
    async with upstream(OK + exact(E, 0) + reported) as up, here.relaying(up.url):
        await here.until("caught_up", 1)
        assert here.count("connected") == 1
        assert await here.values(E, 1) == datas(0)
        up.cut()
        await here.until("caught_up", 0)


PASSING = [
    answer("503 Service Unavailable", b"", "retry-after: 0"),
    answer("429 Too Many Requests"),
    answer("500 Internal Server Error", b"<html>"),
    b"HTTP/1.1 200 OK\r\nconten",
    b"",
    OK,
    OK + b'event: error\ndata: {}\nid: [{"topic":"eqiad.edits","partition":0,"offset":0}]\n\n',
]


async def test_temporary_errors_are_retried() -> None:
    here = site()
    async with upstream(*PASSING, OK + exact(E, 0)) as up, here.relaying(up.url):
        assert await here.values(E, 1) == datas(0)
        assert up.count == len(PASSING) + 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (answer("400 Bad Request", b'{"title":"Stream Not Found","detail":"Invalid"}'), "Invalid"),
        (answer("404 Not Found", b"<html>"), "404"),
        (answer("403 Forbidden", b"no agent"), "no agent"),
        (answer("200 OK", b"{}", "content-type: application/json"), "application/json"),
        (answer("301 Moved", b"", "location: ftp://elsewhere/"), "ftp"),
        (answer("302 Found", b"", "location: /v2/stream/edits"), "redirects"),
        (OK + frame(event(E, 0), "1234"), "the id '1234'"),
        (OK + b"id: {nope\n\n", "the id '{nope'"),
        (OK + b"data: {}\n\n", "its id does not give its place"),
        (OK + b"data: " + event(E, 1) + b"\n\n", "its id names 1 as the next offset"),
        (OK + frame(b"\xff\xfe", [entry(E, offset=1)]), "not JSON in UTF-8"),
        (OK + frame(b"{}", [entry(E, offset=2), entry(C, offset=1)]), "meta.topic"),
        (OK + frame(b'{"n":"' + b"x" * 5000 + b'"}', [entry(E, offset=1)]), "event_bytes_max"),
    ],
)
async def test_a_permanent_error_ends_the_relay_and_keeps_its_bookmark(
    given: bytes, said: str
) -> None:
    here = site()
    async with upstream(OK + exact(E, 0), *([given] * 40)) as up:
        async with here.relaying(up.url, ends_when_refused=True, event_bytes_max=4000) as task:
            with pytest.raises(RelayFault, match=said.replace("{", r"\{")):
                await task
        assert await here.values(E, 1) == datas(0)
        bookmark = await here.log.claim("relay.r")
        assert json.loads(bookmark.state or b"")["id"] == json.dumps(
            [entry(E, offset=1, timestamp=1_000)], separators=(",", ":")
        )


async def test_events_before_an_invalid_one_are_kept() -> None:
    here = site()
    bad = frame(b"nonsense", [entry(E, offset=3)])
    async with upstream(OK + exact(E, 0) + exact(E, 1) + bad + exact(E, 3)) as up:
        async with here.relaying(up.url, ends_when_refused=True) as task:
            with pytest.raises(RelayFault, match="not JSON"):
                await task
        assert await here.values(E, 2) == datas(0, 1)


async def test_a_redirect_is_followed_with_the_same_request() -> None:
    here = site()
    async with upstream(OK + exact(E, 0)) as there:
        moved = answer("302 Found", b"", f"location: {there.url}/v2/stream/edits?x=1")
        async with upstream(moved) as up, here.relaying(up.url, contact="me"):
            assert await here.values(E, 1) == datas(0)
            assert (await there.request()).headers["user-agent"].endswith("(me)")


async def test_a_complete_stream_ends_the_relay() -> None:
    here = site()
    async with (
        upstream(OK + exact(E, 0), answer("204 No Content")) as up,
        here.relaying(up.url) as task,
    ):
        await task
        assert await here.values(E, 1) == datas(0)


async def test_a_retry_field_determines_the_pause() -> None:
    here = site()
    backoff = Backoff(base_s=3600, max_s=3600)
    async with (
        upstream(OK + b"retry: 0\n", OK) as up,
        here.relaying(up.url, backoff=backoff),
    ):
        await up.request()
        await up.request()


async def test_a_bookmark_of_other_streams_is_refused() -> None:
    here = site()
    async with upstream(OK) as up:
        async with here.relaying(up.url):
            await up.request()
        both = {"edits": "edits", "moves": "moves"}
        async with here.relaying(up.url, streams=both, ends_when_refused=True) as task:
            with pytest.raises(UpstreamRefused, match="of the streams edits, not edits, moves"):
                await task


async def test_a_second_relay_of_the_same_name_takes_over() -> None:
    here = site()
    numbers = iter(range(100))

    def following(request: Request) -> bytes:
        """Respond like a gateway, with the event after the id."""
        last = request.last_event_id
        offset = last[0]["offset"] if last else next(numbers)
        return OK + exact(E, offset)

    async with (
        upstream(following) as up,
        here.relaying(up.url, ends_when_refused=True) as first,
    ):
        assert await here.values(E, 1) == datas(0)
        async with here.relaying(up.url):
            assert await here.values(E, 2) == datas(0, 1)
            up._open[0].write(exact(E, 1))
            with pytest.raises(Exception, match="another owner"):
                await first
            await asyncio.sleep(0)
            assert await here.values(E, 2) == datas(0, 1)


@pytest.mark.parametrize(
    "meta", [{"offset": 2**64 - 1}, {"offset": -3}, {"partition": 2**40}, {"partition": -7}]
)
async def test_an_impossible_place_is_an_error(
    meta: dict[str, int],
) -> None:
    here = site()
    bad = frame(event(E, 1), [entry(E, timestamp=5_000)])
    for name, value in meta.items():
        bad = re.sub(
            rb'"%b":\d+' % name.encode(), b'"%b":%d' % (name.encode(), value), bad, count=1
        )
    async with (
        upstream(OK + exact(E, 0) + bad) as up,
        here.relaying(up.url, ends_when_refused=True) as task,
    ):
        with pytest.raises(RelayFault, match="which no log can have"):
            await task
        assert await here.values(E, 1) == datas(0)


@pytest.mark.parametrize("status", ["302 Found\r\nlocation: /v2/stream/edits", "404 Not Found"])
async def test_endless_bodies_of_refusals_and_redirects_are_not_read(
    status: str,
) -> None:
    here = site()
    head = f"HTTP/1.1 {status}\r\nconnection: close\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        while True:  # until the relay disconnects
            writer.write(b"x" * 16_384)
            await writer.drain()

    async with tcp_server(serve) as port:
        url = f"http://127.0.0.1:{port}"
        async with here.relaying(url, ends_when_refused=True) as endless:
            with pytest.raises(UpstreamRefused):
                async with asyncio.timeout(PATIENCE_S):
                    await endless


async def test_an_invalid_token_is_refused_and_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    (tmp_path / "token").write_bytes(b"secret\nsecond")
    async with (
        upstream(OK) as up,
        here.relaying(up.url, token_file=tmp_path / "token", ends_when_refused=True) as task,
    ):
        with pytest.raises(RelayFault, match="visible ASCII") as raised:
            async with asyncio.timeout(PATIENCE_S):
                await task
    assert "secret" not in str(raised.value) + caplog.text
