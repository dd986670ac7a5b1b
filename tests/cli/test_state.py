"""The state file of `tail`: what is refused at start, and that it always holds a whole id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from eventstreams.cli import main
from eventstreams.cli.state import StateFile
from eventstreams.errors import ConfigError
from tests.support.upstream import OK, TailProcess, frame, refusal, upstream

WHOLE_IDS = (
    '[{"topic":"a","partition":0,"offset":42,"timestamp":1769860800123}]',
    '{"left":3,"id":[{"topic":"a","partition":0,"offset":42}]}',
    "an id of another server",
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # no content at all is what a crash may leave of a file that is written in place
        (b"", "is empty; remove the file to start from now"),
        (b"\n", "contains only white space"),
        (b" \t\r\n\n", "contains only white space"),
        (b"\0" * 67, "does not contain an event id"),
        (b"one\ntwo\n", "does not contain an event id"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x" * (2 * 2**20 + 1), "does not contain an event id"),
        (b'[{"topic":"a","parti', "contains a damaged id"),
        (b'{"left":3,"id":[{"topic"', "contains a damaged id"),
        (b"v1.BmNk", "contains a damaged id"),
        (b"[]\n", "contains a damaged id"),
    ],
    ids=range(11),
)
def test_a_state_file_without_an_id_is_an_error_not_now(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.write_bytes(content)
    monkeypatch.setattr("eventstreams.cli.tail._stdout_fd", lambda: 1)
    with upstream(refusal("404 Not Found", b"")) as server:
        arguments = ["tail", "x", "--url", server.url, "--state", str(state)]
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert f"--state: {state} {message}" in result.stderr
    assert state.read_bytes() == content, "the file is left as it was"
    assert list(tmp_path.iterdir()) == [state]


def test_an_empty_state_file_stops_tail_before_it_connects(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.touch()
    with upstream(OK + frame('{"n":1}', "a")) as server:
        tail = TailProcess("x", "--url", server.url, "-n", 1, "--state", state)
        stdout, stderr = tail.end()
        assert server.requests.empty()
    assert (tail.code, stdout) == (2, b"")
    assert "is empty" in stderr


@pytest.mark.parametrize("event_id", WHOLE_IDS)
def test_an_id_that_was_saved_is_loaded(event_id: str, tmp_path: Path) -> None:
    StateFile(tmp_path / "state").save(event_id)
    assert StateFile(tmp_path / "state").load() == event_id


def test_no_file_means_no_id(tmp_path: Path) -> None:
    assert StateFile(tmp_path / "state").load() is None
    assert not list(tmp_path.iterdir())


def test_a_state_file_must_be_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(ConfigError, match="is not a regular file"):
            StateFile(path)
    with pytest.raises(ConfigError, match="is a directory"):
        StateFile(tmp_path)


def test_a_link_keeps_its_target_and_a_file_its_mode(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("first\n")
    target.chmod(0o600)
    link.symlink_to(target)
    state = StateFile(link)
    assert state.load() == "first"
    state.save("second")
    assert link.is_symlink()
    assert target.read_text() == "second\n"
    assert target.stat().st_mode & 0o777 == 0o600


_AS_ANOTHER_USER = """
import os, sys
from eventstreams.cli.state import StateFile
from pathlib import Path
if os.getuid() == 0:
    os.setuid(65534)
try:
    StateFile(Path(sys.argv[1])).load()
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "message"),
    [(0o000, 0o777, "cannot be read"), (0o644, 0o555, "no file can be written")],
)
def test_a_state_file_without_permission_is_reported_at_start(
    file_mode: int, folder_mode: int, message: str, tmp_path: Path
) -> None:
    for parent in tmp_path.parents[:3]:  # pytest lets no other user in
        parent.chmod(0o755)
    tmp_path.chmod(0o755)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "state").write_text("a\n")
    (folder / "state").chmod(file_mode)
    folder.chmod(folder_mode)
    command = [sys.executable, "-c", _AS_ANOTHER_USER, str(folder / "state")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    folder.chmod(0o777)
    assert f"--state: {folder}" in output or "--state: no file" in output
    assert message in output
    assert "Permission denied" in output


def test_an_id_is_on_disk_before_it_replaces_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateFile(tmp_path / "state")
    state.save("first")
    synced: list[bytes] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        [temporary] = tmp_path.glob(".*.tmp")
        synced.append(temporary.read_bytes())
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        assert synced == [self.read_bytes()] == [b"second\n"]
        assert target.read_bytes() == b"first\n"
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    state.save("second")
    assert (tmp_path / "state").read_bytes() == b"second\n"


_SAVES_FOR_EVER = """
import sys
from itertools import count
from pathlib import Path
from eventstreams.cli.state import StateFile
state = StateFile(Path(sys.argv[1]))
for n in count():
    state.save(f"{n}" + "x" * 5000)
    print(n, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_id(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for run in range(8):
        command = [sys.executable, "-c", _SAVES_FOR_EVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(run + 1):
                process.stdout.readline()
            time.sleep(0.0007 * run)  # the moment within a save is chance
            process.send_signal(signal.SIGKILL)
        loaded = StateFile(path).load()
        assert loaded is not None
        assert loaded.endswith("x" * 5000)


def test_a_disk_that_is_full_leaves_the_old_id(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("first\n")
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from eventstreams.cli.state import StateFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "state = StateFile(Path(sys.argv[1])); state.load()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3, 3))\n"
        "state.save('second')"
    )
    failed = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert "OSError" in failed.stderr
    assert path.read_text() == "first\n"
    assert list(tmp_path.iterdir()) == [path]
