"""The catalogue is reloaded while streams stay open; an invalid one changes nothing."""

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

from eventstreams.config.settings import AccessSettings
from eventstreams.fanout.start import StartResolver
from tests.support.client import Stream, connected
from tests.support.fixtures import _no_blocking, anyio_backend
from tests.support.gateway import SSE
from tests.support.intake import ERRORS, SHIPPED, TEST, Place, event, place
from tests.support.issuer import SECRET, secret_token
from tests.support.process import running_workers
from tests.support.waiting import PATIENCE_S

__all__ = ["_no_blocking", "anyio_backend"]

pytestmark = pytest.mark.anyio
FIRST: dict[str, Any] = {TEST: {"schema_title": "test/event"}, ERRORS: {"schema_title": "error"}}
SECOND: dict[str, Any] = {**FIRST, "second": {"schema_title": "test/event"}}


def declare(folder: Path, streams: Any) -> None:
    """Replace the file atomically, as editors do."""
    text = (
        streams
        if isinstance(streams, str)
        else yaml.safe_dump({"streams": streams}, sort_keys=False)
    )
    (folder / "new").write_text(text)
    os.replace(folder / "new", folder / "streams.yaml")


async def reloaded(here: Place, outcome: str, count: int = 1) -> None:
    await here.served.until("catalogue_reloads_total", count, outcome=outcome)


async def test_an_added_stream_can_be_read_and_posted_to(
    tmp_path: Path,
) -> None:
    async with place(tmp_path, streams=FIRST, catalogue_refresh_s=0.02) as here:
        assert (await here.post(event("refused", stream="second"))).status_code == 400
        async with here.served.stream(TEST) as open_stream:
            declare(tmp_path, SECOND)
            await reloaded(here, "taken")
            async with asyncio.timeout(PATIENCE_S):  # its topic is created after the reload
                while (await here.http.head("/v2/stream/second")).status_code != 200:
                    await asyncio.sleep(0.01)
            async with asyncio.timeout(PATIENCE_S), here.served.stream("second") as second:
                assert (await here.post(event("two", stream="second"))).status_code == 201
                assert (await here.post(event("one"))).status_code == 201
                [two] = await second.documents(1)
                [one] = await open_stream.documents(1)
        assert (one["test"], two["test"]) == ("one", "two")
        assert list((await here.http.get("/v1/stream-configs")).json()) == [TEST, ERRORS, "second"]
        assert "/v2/stream/second" in (await here.http.get("/?spec")).json()["paths"]


async def test_a_removed_stream_is_refused_but_open_streams_continue(
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


async def test_an_added_scope_ends_streams_without_it(tmp_path: Path) -> None:
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


async def test_a_scope_on_a_shared_topic_ends_its_streams(tmp_path: Path) -> None:
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


async def test_a_scope_added_during_a_request_ends_its_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    access = AccessSettings(hs256_secret_file=str(secret))
    asked, go_on = asyncio.Event(), asyncio.Event()
    start = StartResolver.start

    async def held_up(*arguments: Any, **more: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await start(*arguments, **more)

    async with place(tmp_path, streams=SECOND, catalogue_refresh_s=0.02, access=access) as here:
        await here.parts.hub.reachable.wait()
        monkeypatch.setattr(StartResolver, "start", held_up)
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
            "streams.a.topics: expected a list or null, got a whole number",
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
async def test_an_invalid_catalogue_is_reported_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: str | None, said: str
) -> None:
    async with place(tmp_path, streams=FIRST, catalogue_refresh_s=0.02) as here:
        with caplog.at_level(logging.ERROR):
            if bad is None:
                (tmp_path / "streams.yaml").unlink()
            else:
                declare(tmp_path, bad)
            await reloaded(here, "refused")
        assert "cannot use the new catalogue, keeping the previous one: " in caplog.text
        assert said in caplog.text
        assert (await here.post(event())).status_code == 201
        assert list((await here.http.get("/v1/stream-configs")).json()) == [TEST, ERRORS]
        declare(tmp_path, SECOND)
        await reloaded(here, "taken")
        assert (await here.post(event(stream="second"))).status_code == 201


async def test_the_catalogue_is_reloaded_on_request(tmp_path: Path) -> None:
    async with place(tmp_path, streams=FIRST, catalogue_refresh_s=3600) as here:
        declare(tmp_path, SECOND)
        assert (await here.post(event(stream="second"))).status_code == 400
        here.parts.catalogue_watcher.request_reload()
        await reloaded(here, "taken")
        assert (await here.post(event(stream="second"))).status_code == 201


def test_sighup_reloads_the_catalogue(tmp_path: Path) -> None:
    declare(tmp_path, FIRST)
    config = tmp_path / "settings.yaml"
    config.write_text(
        f"http: {{port: 0}}\nlog: {{data_dir: {tmp_path}}}\ncatalogue_refresh_s: 3600\n"
        f"schemas: [{SHIPPED}]\nintake: {{}}\n"
    )
    with (
        running_workers(config) as (process, url),
        httpx.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):

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
        assert process.wait(PATIENCE_S) == 0
