"""Two gateways never use one embedded log by mistake."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any, Literal

import pytest

from eventstreams.config.settings import (
    DemoSettings,
    LogSettings,
    RelaySettings,
    Settings,
    SqliteSettings,
)
from eventstreams.errors import LogUnavailable
from eventstreams.server.sole import sole_user
from tests.support.gateway import Site
from tests.support.process import configured, exit_status, serving, started
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

Only = Literal["gateway", "intake"] | None
READS = SqliteSettings(retention_age_s=None, retention_bytes=None)
RELAY = {"up": RelaySettings(url="https://example.org/v2/stream/a")}


def settings_of(folder: Path, only: Only = None, **more: Any) -> Settings:
    log = LogSettings(data_dir=str(folder), sqlite=more.pop("sqlite", SqliteSettings()))
    return Settings(log=log, only=only, **more)


@pytest.mark.parametrize(
    ("first", "second", "part"),
    [
        (None, None, "gateway"),
        (None, "gateway", "gateway"),
        (None, "intake", "intake"),
        ("gateway", "gateway", "gateway"),
        ("intake", None, "intake"),
    ],
)
def test_a_second_process_with_the_same_part_is_refused(
    tmp_path: Path, first: Only, second: Only, part: str
) -> None:
    said = f"another {part} (process {os.getpid()}) uses the embedded log in {tmp_path}"
    with sole_user(settings_of(tmp_path, first)):
        with (
            pytest.raises(LogUnavailable, match=re.escape(said)),
            sole_user(settings_of(tmp_path, second)),
        ):
            pass
        with sole_user(settings_of(tmp_path / "other", second)):
            pass
    with sole_user(settings_of(tmp_path, second)):
        pass


def test_a_gateway_and_an_intake_share_a_log(tmp_path: Path) -> None:
    with sole_user(settings_of(tmp_path, "gateway")), sole_user(settings_of(tmp_path, "intake")):
        pass


@pytest.mark.parametrize("more", [{"demo": DemoSettings(stream="a")}, {"relays": RELAY}])
def test_only_a_gateway_that_changes_nothing_takes_no_lock(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    with sole_user(settings_of(tmp_path)):
        with sole_user(settings_of(tmp_path, "gateway", sqlite=READS)):
            pass
        changing = settings_of(tmp_path, "gateway", sqlite=READS, **more)
        with pytest.raises(LogUnavailable), sole_user(changing):
            pass


def test_a_directory_that_cannot_be_made_is_left_to_the_log(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with sole_user(settings_of(tmp_path / "file" / "data")):
        pass


async def test_a_second_gateway_ends_with_1_until_the_first_is_killed(
    embedded: Site, tmp_path: Path
) -> None:
    config = configured(tmp_path, embedded, "t")
    async with serving(config) as (first, _):
        second = await started("--config", str(config), "--port", "0")
        async with asyncio.timeout(PATIENCE_S):
            _, said = await second.communicate()
        assert second.returncode == 1
        assert f"another gateway (process {first.pid}) uses the embedded log".encode() in said
        assert b"Traceback" not in said
        first.kill()
        await exit_status(first)
        async with serving(config):
            pass
