"""systemd itself checks the unit, and its commands are executed."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from eventstreams.config.settings import FanoutSettings
from tests.support.process import exit_status, kill, logged
from tests.support.programs import needed

pytestmark = pytest.mark.anyio
CONFIG = Path(__file__).parents[2] / "config"
UNIT = CONFIG / "systemd" / "eventstreams.service"
PROGRAM = "/opt/eventstreams/bin/eventstreams"
SETTINGS = "/etc/eventstreams/eventstreams.yaml"
EXPOSURE_MAX = 20
"""The exposure in tenths that `systemd-analyze security` rates as OK."""

STARTER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
os.umask(int(sys.argv[1], 8))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Starts a program with a umask and, from Linux 6.3 on, without memory that is both writable and
executable, like MemoryDenyWriteExecute."""


def values(key: str) -> list[str]:
    lines = (line.partition("=") for line in UNIT.read_text().splitlines())
    return [value for name, _, value in lines if name == key]


def value(key: str) -> str:
    (one,) = values(key)
    return one


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [needed("systemd-analyze"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit as installed with the package."""
    program = tmp_path / "eventstreams"
    program.touch(0o755)
    text = UNIT.read_text()
    assert text.count(PROGRAM) == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(PROGRAM, str(program)))
    return copy


def test_systemd_accepts_every_line(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    unit.write_text(unit.read_text().replace("KillMode=mixed", "KillMode=most"))
    assert "kill mode" in analyze("verify", "--man=no", str(unit)).stderr


def test_the_service_is_sandboxed(unit: Path) -> None:
    judged = ("security", "--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager")
    done = analyze(*judged, str(unit))
    assert done.returncode == 0, done.stdout + done.stderr
    before, _, _ = unit.read_text().partition("NoNewPrivileges=")
    unit.write_text(before)
    assert analyze(*judged, str(unit)).returncode != 0


def test_the_service_has_time_to_drain_and_enough_files() -> None:
    assert float(value("TimeoutStopSec").removesuffix("s")) >= FanoutSettings().drain_s + 5
    assert value("KillMode") == "mixed"
    assert int(value("LimitNOFILE")) > 16000


@asynccontextmanager
async def started(state: Path, settings: Path) -> AsyncIterator[Process]:
    """Return the command of ExecStart, in its state directory."""
    program = shutil.which("eventstreams", path=str(Path(sys.executable).parent))
    assert program is not None
    places = {PROGRAM: program, SETTINGS: str(settings)}
    command = [places.get(word, word) for word in shlex.split(value("ExecStart"))]
    assert not {PROGRAM, SETTINGS} & set(command)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTER, value("UMask"), *command),
        cwd=state,
        stderr=PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    try:
        yield process
    finally:
        await kill(process)


@pytest.fixture
def settings(tmp_path: Path, state: Path) -> Path:
    """Write the shipped settings, with a free port and the log in the state directory."""
    folder = tmp_path / "etc"
    shutil.copytree(CONFIG, folder, symlinks=True)
    file = folder / "eventstreams.yaml"
    text = file.read_text()
    assert text.count("port: 8092") == 1
    assert text.count("data_dir: data ") == 1
    text = text.replace("data_dir: data ", f"data_dir: {state}/data ")
    file.write_text(text.replace("port: 8092", "port: 0"))
    return file


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir()
    return state


async def test_the_service_starts_reloads_and_stops(settings: Path, state: Path) -> None:
    assert value("WorkingDirectory") == f"/var/lib/{value('StateDirectory')}"
    async with started(state, settings) as process:
        await logged(process, "listening")
        reload = value("ExecReload").replace("$MAINPID", str(process.pid))
        reported = await asyncio.create_subprocess_exec(*shlex.split(reload))
        assert await reported.wait() == 0
        await logged(process, "read the catalogue again")
        process.send_signal(signal.SIGTERM)
        assert await exit_status(process) == 0
    log = state / "data" / "log.sqlite3"
    assert log.stat().st_mode & 0o077 == 0, "no other user can read it"


async def test_invalid_settings_prevent_restarts(settings: Path, state: Path) -> None:
    settings.write_text("nope: 1\n")
    async with started(state, settings) as process:
        assert await exit_status(process) == int(value("RestartPreventExitStatus"))
