"""Limits and keys are read again while streams stay open; bad ones change nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from msgspec.structs import replace

from eventstreams.errors import ConfigError
from eventstreams.gateway import running
from eventstreams.model.stream import Catalogue
from eventstreams.settings import AccessSettings, LimitSettings, LogSettings, Settings
from tests.intake.conftest import _no_blocking, anyio_backend
from tests.test_workers import serving
from tests.web.gateway import Served, listening, stream_of

__all__ = ["_no_blocking", "anyio_backend"]

pytestmark = pytest.mark.anyio

OLD, NEW = "o" * 32, "n" * 32
ONE = {"X-Client-IP": "192.0.2.1"}


def keys(folder: Path, key: str) -> AccessSettings:
    """Of producer and operator alike."""
    admin, producers = folder / "admin", folder / "producers.yaml"
    admin.write_text(key)
    digest = hashlib.sha256(key.encode()).hexdigest()
    producers.write_text(json.dumps({"p": {"keys_sha256": [digest], "streams": ["*"]}}))
    return AccessSettings(admin_key_file=str(admin), producer_keys=str(producers))


class Desk:
    """The settings as a file would hold them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.problems: list[str] = []
        self.fault: Exception | None = None

    def read(self) -> Settings:
        if self.fault:
            raise self.fault
        if self.problems:
            raise ConfigError(self.problems)
        return self.settings


@asynccontextmanager
async def place(settings: Settings) -> AsyncIterator[tuple[Served, Desk, Callable[[str], Any]]]:
    settings = replace(settings, log=LogSettings(backend="memory"), demo=replace(settings.demo))
    desk = Desk(settings)
    catalogue = Catalogue({"s": stream_of("s", ["s"])})
    async with (
        running(settings, catalogue, reread=desk.read) as parts,
        listening(settings, parts) as served,
    ):
        counts: dict[str, int] = {}

        async def reloaded(outcome: str) -> None:
            counts[outcome] = counts.get(outcome, 0) + 1
            parts.reload()
            await served.until("settings_reloads_total", counts[outcome], outcome=outcome)

        yield served, desk, reloaded


async def test_limits_change_while_streams_stay_open() -> None:
    few, more = (LimitSettings(client_ip_connections=n) for n in (1, 2))
    async with place(Settings(limits=few)) as (gateway, desk, reloaded):
        async with gateway.stream("s", ONE) as stream:
            await stream.opened()
            assert (await gateway.get("/v2/stream/s", ONE)).status == 429
            desk.settings = replace(desk.settings, limits=more)
            await reloaded("taken")
            async with gateway.stream("s", ONE):
                assert (await gateway.get("/v2/stream/s", ONE)).status == 429
        await gateway.until("clients", 0)


async def test_keys_change_with_what_their_files_hold(tmp_path: Path) -> None:
    access = await asyncio.to_thread(keys, tmp_path, OLD)
    async with place(Settings(access=access)) as (gateway, _, reloaded):

        async def statuses(key: str) -> tuple[int, int]:
            bearer = {"Authorization": f"Bearer {key}"}
            listed = await gateway.get("/v2/admin/clients", bearer)
            posted = await gateway.ask("POST", "/v1/events", bearer)
            return listed.status, posted.status

        assert (await statuses(OLD))[0] == 200
        assert await statuses(NEW) == (401, 401)
        await asyncio.to_thread(keys, tmp_path, NEW)
        await reloaded("taken")
        assert await statuses(OLD) == (401, 401)
        listed, posted = await statuses(NEW)
        assert listed == 200
        assert posted != 401


async def test_bad_settings_are_refused_loudly_and_the_old_ones_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    access = await asyncio.to_thread(keys, tmp_path, OLD)
    async with place(Settings(access=access)) as (gateway, desk, reloaded):
        operator = {"Authorization": f"Bearer {OLD}"}
        (tmp_path / "admin").write_text("short")
        (tmp_path / "producers.yaml").write_text("p: {}")
        await reloaded("refused")
        assert "access.admin_key_file" in caplog.text
        assert "producers.yaml: p" in caplog.text
        desk.problems = ["settings.yaml: limits.streams_max: expected `int`"]
        await reloaded("refused")
        assert "the settings are not taken, the old ones stay: settings.yaml: limits" in caplog.text
        assert (await gateway.get("/v2/admin/clients", operator)).status == 200
        assert "short" not in caplog.text.replace("fewer", "")


async def test_a_fault_in_reading_them_cuts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with place(Settings()) as (gateway, desk, reloaded), gateway.stream("s") as stream:
        await stream.opened()
        desk.fault = ValueError("of ours")
        await reloaded("refused")
        assert "the settings could not be read" in caplog.text
        desk.fault = None
        await reloaded("taken")
        assert len(gateway.parts.hub.subscriptions) == 1


async def test_what_takes_effect_at_the_next_start_only_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with place(Settings()) as (_, desk, reloaded):
        limits = LimitSettings(connections_max=7, streams_max=9)
        http = replace(desk.settings.http, port=1)
        desk.settings = replace(desk.settings, limits=limits, http=http)
        with caplog.at_level(logging.WARNING):
            await reloaded("taken")
        told = {record.message.split()[0] for record in caplog.records if "next" in record.message}
        assert told == {"http.port", "limits.connections_max"}


def test_sighup_has_a_process_read_its_settings_again_and_flags_win(tmp_path: Path) -> None:
    (tmp_path / "streams.yaml").write_text("streams: {s: {}}")
    config = tmp_path / "settings.yaml"
    settings: dict[str, Any] = {"http": {"port": 1}, "log": {"backend": "memory"}}

    def write(limits: dict[str, Any]) -> None:
        config.write_text(yaml.safe_dump({**settings, "limits": limits}))

    write({"streams_max": 1})
    with (
        serving(config, "--port", "0") as (process, url),
        httpx.Client(base_url=url) as client,
        client.stream("GET", "/v2/stream/s") as first,
    ):
        assert first.status_code == 200
        assert client.get("/v2/stream/s").status_code == 503
        for limits, level in (({"streams_max": -1}, "error"), ({"streams_max": 2}, "info")):
            write(limits)
            process.send_signal(signal.SIGHUP)
            assert process.stderr is not None
            line = next(line for line in process.stderr if "settings" in line)
            assert json.loads(line)["level"].lower() == level
        with client.stream("GET", "/v2/stream/s") as second:
            assert second.status_code == 200
        process.terminate()
        assert process.wait(20) == 0


def test_every_problem_of_files_that_settings_name_is_told_at_start_at_once(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("x")
    (tmp_path / "keys.json").write_text('{"keys": []}')
    access = AccessSettings(
        jwks_file=str(tmp_path / "keys.json"),
        hs256_secret_file=str(tmp_path / "short"),
        admin_key_file=str(tmp_path / "absent"),
        producer_keys=str(tmp_path / "absent.yaml"),
    )
    settings = replace(Settings(access=access), demo=replace(Settings().demo, stream="nope"))

    async def start() -> None:
        async with running(settings, Catalogue({"s": stream_of("s", ["s"])})):
            raise AssertionError

    with pytest.raises(ConfigError) as caught:
        asyncio.run(start())
    for name in ("jwks_file", "hs256_secret_file", "admin_key_file"):
        assert sum(f"access.{name}: " in problem for problem in caught.value.problems) == 1
    assert len(caught.value.problems) == 5
