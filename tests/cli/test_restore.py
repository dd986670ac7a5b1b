"""`restore` puts a backup in place, and refuses what is no backup or would overwrite a log."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eventstreams.cli import main
from tests.cli.logs import events_in

TOPIC = "eventstreams.test"


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Return a backup of a log with two events."""
    data, copy = tmp_path / "data", tmp_path / "backup.sqlite3"
    for n in range(2):
        assert (
            _run("produce", "--stream", "test", "--data-dir", data, f'{{"n":{n}}}').exit_code == 0
        )
    with (
        closing(sqlite3.connect(data / "log.sqlite3")) as log,
        closing(sqlite3.connect(copy)) as target,
    ):
        log.backup(target)
    return copy


def test_a_backup_is_restored_and_the_log_can_be_used(tmp_path: Path, backup: Path) -> None:
    folder = tmp_path / "restored"
    result = _run("restore", backup, "--data-dir", folder)
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        f"restored the log in {folder}, with a gap at the end of 1 partition\n"
    )
    appended = _run("produce", "--stream", "test", "--data-dir", folder, '{"n":2}')
    assert appended.exit_code == 0, appended.output
    values = [event.value for event in events_in(folder, TOPIC) if event.key is None]
    assert values == [b'{"n":%d}' % n for n in range(3)]


def test_a_log_is_never_overwritten(tmp_path: Path, backup: Path) -> None:
    before = (tmp_path / "data" / "log.sqlite3").read_bytes()
    result = _run("restore", backup, "--data-dir", tmp_path / "data")
    assert result.exit_code == 1
    assert "has a log already (log.sqlite3); stop every process that uses it" in result.stderr
    assert (tmp_path / "data" / "log.sqlite3").read_bytes() == before


def _shortened(backup: Path) -> None:
    backup.write_bytes(backup.read_bytes()[:-4096])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda backup: backup.write_bytes(b""), "is empty"),
        (lambda backup: backup.write_bytes(b"no log" * 1000), "is not a database"),
        (_shortened, "is damaged"),
    ],
)
def test_a_file_that_is_no_backup_leaves_nothing_behind(
    tmp_path: Path, backup: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(backup)
    folder = tmp_path / "restored"
    result = _run("restore", backup, "--data-dir", folder)
    assert result.exit_code == 1
    assert said in result.stderr
    assert str(backup) in result.stderr
    assert list(folder.iterdir()) == []


def test_wrong_usage_is_named(tmp_path: Path, backup: Path) -> None:
    missing = _run("restore", tmp_path / "nowhere")
    assert missing.exit_code == 2
    assert "does not exist" in missing.stderr
    kafka = tmp_path / "kafka.yaml"
    kafka.write_text("log: {backend: kafka, kafka: {bootstrap_servers: ['b:9092']}}\n")
    result = _run("restore", backup, "--config", kafka)
    assert result.exit_code == 2
    assert "log.backend is kafka; --data-dir names the directory of a log" in result.stderr
