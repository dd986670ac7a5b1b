"""The catalogue is read again while all goes on; a bad one changes nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from eventstreams.fanout.start import Starter
from eventstreams.settings import AccessSettings
from tests.access.issuer import SECRET, secret_token
from tests.intake.conftest import _no_blocking, anyio_backend
from tests.intake.place import ERRORS, SHIPPED, TEST, Place, event, place
from tests.test_workers import serving
from tests.web.client import Stream, connected
from tests.web.gateway import SSE

__all__ = ["_no_blocking", "anyio_backend"]

pytestmark = pytest.mark.anyio
FIRST: dict[str, Any] = {TEST: {"schema_title": "test/event"}, ERRORS: {"schema_title": "error"}}
SECOND: dict[str, Any] = {**FIRST, "second": {"schema_title": "test/event"}}


def declare(folder: Path, streams: Any) -> None:
    """In one step, as editors do."""
    text = (
        streams
        if isinstance(streams, str)
        else yaml.safe_dump({"streams": streams}, sort_keys=False)
    )
    (folder / "new").write_text(text)
    os.replace(folder / "new", folder / "streams.yaml")


async def reloaded(here: Place, outcome: str, count: int = 1) -> None:
    await here.served.until("catalogue_reloads_total", count, outcome=outcome)


async def test_a_stream_that_is_added_is_readable_and_postable_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    async with place(tmp_path, streams=FIRST, catalogue_refresh_s=0.02) as here:
        assert (await here.post(event("refused", stream="second"))).status_code == 400
        async with here.served.stream(TEST) as open_stream:
            declare(tmp_path, SECOND)
            await reloaded(here, "taken")
            async with asyncio.timeout(20):  # its topic is made after the catalogue was taken
                while (await here.http.head("/v2/stream/second")).status_code != 200:
                    await asyncio.sleep(0.01)
            async with asyncio.timeout(20), here.served.stream("second") as second:
                assert (await here.post(event("two", stream="second"))).status_code == 201
                assert (await here.post(event("one"))).status_code == 201
                [two] = await second.documents(1)
                [one] = await open_stream.documents(1)
        assert (one["test"], two["test"]) == ("one", "two")
        assert list((await here.http.get("/v1/stream-configs")).json()) == [TEST, ERRORS, "second"]
        assert "/v2/stream/second" in (await here.http.get("/?spec")).json()["paths"]


async def test_a_stream_that_is_taken_away_is_refused_and_who_reads_it_goes_on(
    tmp_path: Path,
) -> None:
    async with (
        place(tmp_path, streams=SECOND, catalogue_refresh_s=0.02) as here,
        here.served.stream(TEST) as open_stream,
        here.served.stream("second"),
    ):
        declare(tmp_path, FIRST)
        await reloaded(here, "taken")
        assert (await here.post(event(stream="second"))).status_code == 400
        assert (await here.http.get("/v2/stream/second")).status_code == 400
        assert (await here.post(event("still"))).status_code == 201
        assert (await open_stream.documents(1))[0]["test"] == "still"


async def test_a_scope_that_a_stream_is_given_ends_those_who_have_it_not(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    access = AccessSettings(hs256_secret_file=str(secret))
    guarded: dict[str, Any] = {**SECOND, "second": {**SECOND["second"], "scope": "read"}}
    token = {"Authorization": f"Bearer {secret_token(scope='read')}"}
    async with (
        place(tmp_path, streams=guarded, catalogue_refresh_s=0.02, access=access) as here,
        here.served.stream("second", token) as let_in,
        here.served.stream(TEST) as public,
    ):
        declare(tmp_path, SECOND)
        await reloaded(here, "taken")
        async with here.served.stream("second") as stranger:
            await stranger.opened()
            declare(tmp_path, guarded)
            error = await stranger.frame()
            assert error.event == "error"
            assert error.document["name"] == "Forbidden"
            await stranger.rest()
        await here.served.until("streams_ended_total", 1, reason="revoked")
        for stream in (let_in, public):
            await stream.opened()
        assert (await here.post(event("1", stream="second"))).status_code == 201
        assert (await here.post(event("2"))).status_code == 201
        assert [(await s.documents(1))[0]["test"] for s in (let_in, public)] == ["1", "2"]


GUARD = {"scope": "read"}


async def test_a_topic_that_gets_a_scope_by_another_name_ends_its_readers(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    access = AccessSettings(hs256_secret_file=str(secret))
    entry = {"schema_title": "test/event", "topics": ["t"]}
    async with (
        place(
            tmp_path, streams={**FIRST, "old": entry}, catalogue_refresh_s=0.02, access=access
        ) as here,
        here.served.stream("old") as stranger,
    ):
        await stranger.opened()
        declare(tmp_path, {**FIRST, "new": {**entry, **GUARD}})
        assert (await stranger.frame()).document["name"] == "Forbidden"
        await stranger.rest()


async def test_who_is_being_let_in_while_a_scope_is_added_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    access = AccessSettings(hs256_secret_file=str(secret))
    asked, go_on = asyncio.Event(), asyncio.Event()
    start = Starter.start

    async def held_up(*arguments: Any, **more: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await start(*arguments, **more)

    async with place(tmp_path, streams=SECOND, catalogue_refresh_s=0.02, access=access) as here:
        await here.parts.hub.feed.well.wait()
        monkeypatch.setattr(Starter, "start", held_up)
        async with connected(here.served.port) as client:
            await client.send("GET", "/v2/stream/second", SSE)
            await asked.wait()
            declare(tmp_path, {**FIRST, "second": {**SECOND["second"], **GUARD}})
            await reloaded(here, "taken")
            go_on.set()
            stream = Stream(client, await client.head())
            assert (await stream.frame()).document["name"] == "Forbidden"
            await stream.rest()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("streams: [", "not YAML"),
        ("", "streams"),
        (
            "streams: {a: {topics: 7}}",
            "streams.a: Expected `array | null`, got `int` - at `$.topics`",
        ),
        ("streams: {'/^(/': {}}", "not a regular expression"),
        ("streams: {}\nfoo: 1\n", "foo"),
        (
            "streams: {eventstreams.test: {}}",
            "intake.error_stream: eventstreams.error is not in the catalogue",
        ),
        (None, "streams.yaml"),
    ],
)
async def test_a_bad_catalogue_is_refused_loudly_and_the_old_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: str | None, said: str
) -> None:
    async with place(tmp_path, streams=FIRST, catalogue_refresh_s=0.02) as here:
        with caplog.at_level(logging.ERROR):
            if bad is None:
                (tmp_path / "streams.yaml").unlink()
            else:
                declare(tmp_path, bad)
            await reloaded(here, "refused")
        assert "the catalogue is not taken, the old one stays: " in caplog.text
        assert said in caplog.text
        assert (await here.post(event())).status_code == 201
        assert list((await here.http.get("/v1/stream-configs")).json()) == [TEST, ERRORS]
        declare(tmp_path, SECOND)
        await reloaded(here, "taken")
        assert (await here.post(event(stream="second"))).status_code == 201


async def test_it_is_read_at_once_when_asked_for_and_otherwise_not(tmp_path: Path) -> None:
    async with place(tmp_path, streams=FIRST, catalogue_refresh_s=3600) as here:
        declare(tmp_path, SECOND)
        assert (await here.post(event(stream="second"))).status_code == 400
        here.parts.declarations.poke()
        await reloaded(here, "taken")
        assert (await here.post(event(stream="second"))).status_code == 201


def test_sighup_has_a_process_read_it_again(tmp_path: Path) -> None:
    declare(tmp_path, FIRST)
    config = tmp_path / "settings.yaml"
    config.write_text(
        f"http: {{port: 0}}\nlog: {{data_dir: {tmp_path}}}\ncatalogue_refresh_s: 3600\n"
        f"schemas: [{SHIPPED}]\nintake: {{}}\n"
    )
    with serving(config) as (process, url), httpx.Client(base_url=url) as client:

        def post() -> int:
            return client.post("/v1/events", json=event(stream="second")).status_code

        assert post() == 400
        for document, level in (("streams: [", "error"), (SECOND, "info")):
            declare(tmp_path, document)
            process.send_signal(signal.SIGHUP)
            assert process.stderr is not None
            line = next(line for line in process.stderr if "catalogue" in line)
            assert json.loads(line)["level"].lower() == level
        assert post() == 201
        process.terminate()
        assert process.wait(20) == 0
