"""Limits and keys are reloaded while streams stay open; invalid ones change nothing."""

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

from eventstreams.config.settings import AccessSettings, LimitSettings, LogSettings, Settings
from eventstreams.errors import ConfigError
from eventstreams.gateway import running
from eventstreams.model.catalogue import Catalogue
from tests.support.fixtures import _no_blocking, anyio_backend
from tests.support.gateway import Served, run_gateway, stream_of
from tests.support.process import running_workers
from tests.support.waiting import PATIENCE_S

__all__ = ["_no_blocking", "anyio_backend"]

pytestmark = pytest.mark.anyio

OLD, NEW = "o" * 32, "n" * 32
ONE = {"X-Client-IP": "192.0.2.1"}


def keys(folder: Path, key: str) -> AccessSettings:
    """Return settings with one key for a producer and the operator."""
    admin, producers = folder / "admin", folder / "producers.yaml"
    admin.write_text(key)
    digest = hashlib.sha256(key.encode()).hexdigest()
    producers.write_text(json.dumps({"p": {"keys_sha256": [digest], "streams": ["*"]}}))
    return AccessSettings(admin_key_file=str(admin), producer_keys=str(producers))


class SettingsFile:
    """Settings that a test changes, as if in a file."""

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
async def place(
    settings: Settings,
) -> AsyncIterator[tuple[Served, SettingsFile, Callable[[str], Any]]]:
    settings = replace(settings, log=LogSettings(backend="memory"), demo=replace(settings.demo))
    file = SettingsFile(settings)
    catalogue = Catalogue({"s": stream_of("s", ["s"])})
    async with run_gateway(settings, catalogue, reread=file.read) as served:
        counts: dict[str, int] = {}

        async def reloaded(outcome: str) -> None:
            counts[outcome] = counts.get(outcome, 0) + 1
            served.parts.reload()
            await served.until("settings_reloads_total", counts[outcome], outcome=outcome)

        yield served, file, reloaded


async def test_limits_change_while_streams_stay_open() -> None:
    few, more = (LimitSettings(client_ip_connections=n) for n in (1, 2))
    async with place(Settings(limits=few)) as (gateway, file, reloaded):
        async with gateway.stream("s", ONE) as stream:
            await stream.opened()
            assert (await gateway.get("/v2/stream/s", ONE)).status == 429
            file.settings = replace(file.settings, limits=more)
            await reloaded("taken")
            async with gateway.stream("s", ONE):
                assert (await gateway.get("/v2/stream/s", ONE)).status == 429
        await gateway.until("clients", 0)


async def test_keys_are_reloaded_from_their_files(tmp_path: Path) -> None:
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


async def test_invalid_settings_are_reported_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    access = await asyncio.to_thread(keys, tmp_path, OLD)
    async with place(Settings(access=access)) as (gateway, file, reloaded):
        operator = {"Authorization": f"Bearer {OLD}"}
        (tmp_path / "admin").write_text("short")
        (tmp_path / "producers.yaml").write_text("p: {}")
        await reloaded("refused")
        assert "access.admin_key_file" in caplog.text
        assert "producers.yaml: p" in caplog.text
        file.problems = ["settings.yaml: limits.streams_max: expected a whole number"]
        await reloaded("refused")
        assert (
            "cannot use the new settings, keeping the previous one: settings.yaml: limits"
            in caplog.text
        )
        assert (await gateway.get("/v2/admin/clients", operator)).status == 200
        assert "short" not in caplog.text.replace("fewer", "")


async def test_an_error_while_reloading_ends_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    async with place(Settings()) as (gateway, file, reloaded), gateway.stream("s") as stream:
        await stream.opened()
        file.fault = ValueError("of ours")
        await reloaded("refused")
        assert "could not read the settings" in caplog.text
        file.fault = None
        await reloaded("taken")
        assert len(gateway.parts.hub.subscriptions) == 1


async def test_settings_that_need_a_restart_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with place(Settings()) as (_, file, reloaded):
        limits = LimitSettings(connections_max=7, streams_max=9)
        http = replace(file.settings.http, port=1)
        file.settings = replace(file.settings, limits=limits, http=http)
        with caplog.at_level(logging.WARNING):
            await reloaded("taken")
        reported = {
            record.message.split()[0] for record in caplog.records if "next" in record.message
        }
        assert reported == {"http.port", "limits.connections_max"}


def test_sighup_reloads_settings_and_flags_take_precedence(tmp_path: Path) -> None:
    (tmp_path / "streams.yaml").write_text("streams: {s: {}}")
    config = tmp_path / "settings.yaml"
    settings: dict[str, Any] = {"http": {"port": 1}, "log": {"backend": "memory"}}

    def write(limits: dict[str, Any]) -> None:
        config.write_text(yaml.safe_dump({**settings, "limits": limits}))

    write({"streams_max": 1})
    with (
        running_workers(config, "--port", "0") as (process, url),
        httpx.Client(base_url=url, timeout=PATIENCE_S) as client,
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
        assert process.wait(PATIENCE_S) == 0


def test_all_problems_of_named_files_are_reported_at_start(tmp_path: Path) -> None:
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
