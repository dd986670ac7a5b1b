"""Tools that append leave retention to the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventstreams.cli.destination import log_settings
from eventstreams.config.settings import LogSettings, SqliteSettings

STRICT = LogSettings(sqlite=SqliteSettings(retention_age_s=1, retention_bytes=1))


@pytest.mark.parametrize("data_dir", [None, "elsewhere"])
def test_commands_that_append_apply_no_retention(data_dir: str | None, tmp_path: Path) -> None:
    log = log_settings(STRICT, data_dir and str(tmp_path / data_dir), None)
    assert log.sqlite.retention_age_s is None
    assert log.sqlite.retention_bytes is None
