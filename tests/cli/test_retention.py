"""Tools that append leave retention to the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventstreams.cli.destination import log_settings
from eventstreams.settings import LogSettings, SqliteSettings

STRICT = LogSettings(sqlite=SqliteSettings(retention_age_s=1, retention_bytes=1))


@pytest.mark.parametrize("data_dir", [None, "elsewhere"])
def test_a_tool_that_appends_drops_nothing_of_the_log(data_dir: str | None, tmp_path: Path) -> None:
    log = log_settings(STRICT, data_dir and str(tmp_path / data_dir), None)
    assert log.sqlite.retention_age_s is None
    assert log.sqlite.retention_bytes is None
