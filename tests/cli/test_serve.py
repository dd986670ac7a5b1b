"""What `serve` shows on a terminal, and what it writes elsewhere."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eventstreams.server.logs import TerminalFormatter
from tests.support.upstream import PATIENCE_S

SERVE = (sys.executable, "-m", "eventstreams", "serve", "--port", "0")


def _shown(fd: int, pattern: str) -> str:
    """Return what the terminal shows once it matches."""
    text = ""
    while not re.search(pattern, text):
        text += os.read(fd, 4096).decode().replace("\r\n", "\n")
    return text


@pytest.mark.parametrize(
    ("options", "tries"),
    [
        (
            (),
            r"  Page   http://127\.0\.0\.1:\d+/\n  Log    sqlite, in .*/data\n"
            r"  Try    curl -N http://.+/recentchange",
        ),
        (("--only", "intake"), r"  Try    .+ -m eventstreams produce --url http://127.+ --stream "),
        (("--host", "0.0.0.0"), r"  Page   http://localhost:\d+/\n"),  # noqa: S104 - brief
    ],
)
def test_a_terminal_shows_a_banner_and_readable_lines(
    tmp_path: Path, options: tuple[str, ...], tries: str
) -> None:
    ours, theirs = pty.openpty()
    command = [*SERVE, "--data-dir", str(tmp_path / "data"), *options]
    try:
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            shown = _shown(ours, r"Try .*\n")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
    finally:
        os.close(ours)
    assert "Ctrl-C stops it" in shown
    assert re.search(tries, shown), shown
    assert '{"' not in shown, "no JSON"


def test_a_pipe_gets_json(tmp_path: Path) -> None:
    command = [*SERVE, "--data-dir", str(tmp_path / "data"), "--no-demo"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(PATIENCE_S) == 0
    assert (first["message"], first["level"]) == ("listening", "info")
    assert "Ctrl-C" not in rest


def test_log_lines_contain_no_control_characters() -> None:
    record = logging.makeLogRecord(
        {"msg": "stream \x1b[2J ended\n", "levelno": logging.WARNING, "levelname": "WARNING"}
        | {"user_agent": "\u202eevil", "streams": ["a", "b"]}
    )
    line = TerminalFormatter(None, colours=False).format(record)
    assert line.isprintable()
    assert "warning stream \\x1b[2J ended\\x0a user_agent=\\u202eevil streams=a,b" in line
    coloured = TerminalFormatter(None, colours=True).format(record)
    assert coloured.count("\x1b") == 2, "around the level alone"
