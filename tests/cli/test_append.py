"""`import` and `produce` as a user calls them, over a real embedded log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eventstreams.cli import main
from eventstreams.cli.progress import Progress
from eventstreams.model.event import Partition
from tests.cli.logs import documents_in, events_in, make_topic
from tests.support.waiting import PATIENCE_S

TEST = "eventstreams.test"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def _run(*arguments: object, given: bytes | str | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=given)


def _import(data: Path, text: bytes, *options: object, stream: str = "test") -> Result:
    file = data.parent / "events.ndjson"
    file.write_bytes(text)
    return _run("import", file, "--stream", stream, "--data-dir", data, *options)


def test_an_imported_file_is_in_the_log_byte_for_byte_and_in_order(data: Path) -> None:
    lines = [json.dumps({"n": n, "s": "é\u2028 x"}, ensure_ascii=n % 2 == 0) for n in range(5000)]
    result = _import(data, "\n".join(lines).encode())
    assert result.exit_code == 0, result.output
    events = events_in(data, TEST)
    assert [event.value for event in events] == [line.encode() for line in lines]
    assert "appended 5,000 events" in result.stdout
    assert f"{TEST}/0: 5,000" in result.stdout


def test_an_import_names_the_log_that_it_creates_or_appends_to(data: Path) -> None:
    assert _import(data, b'{"n":1}\n').stderr == f"created the log in {data}\n"
    assert _import(data, b'{"n":2}\n').stderr == f"appending to the log in {data}\n"


def test_an_import_uses_the_log_of_the_settings_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run("import", "-", "--stream", "test", given='{"n":1}')
    assert result.exit_code == 0
    assert result.stderr == f"created the log in {tmp_path}/data\n"
    assert documents_in(tmp_path / "data", TEST) == [{"n": 1}]


def test_an_alias_imports_to_the_first_topic_and_another_topic_can_be_named(data: Path) -> None:
    assert _import(data, b'{"n":1}\n', stream="recentchange").exit_code == 0
    other = "codfw.mediawiki.recentchange"
    assert _import(data, b'{"n":2}\n', "--topic", other, stream="recentchange").exit_code == 0
    assert documents_in(data, "eqiad.mediawiki.recentchange") == [{"n": 1}]
    assert documents_in(data, other) == [{"n": 2}]


def test_events_go_to_the_partition_named(data: Path) -> None:
    make_topic(data, TEST, 3)
    result = _import(data, b'{"n":1}\n{"n":2}\n', "--partition", 2)
    assert result.exit_code == 0
    assert {event.partition for event in events_in(data, TEST)} == {Partition(TEST, 2)}


def test_a_missing_partition_is_reported_in_one_line(data: Path) -> None:
    result = _import(data, b'{"n":1}\n', "--partition", 7)
    assert result.exit_code == 1
    assert "events.ndjson:1: not appended: topic eventstreams.test has no partition 7" in (
        result.stderr
    )
    assert events_in(data, TEST) == []


def test_a_record_has_the_time_of_its_event_by_default(data: Path) -> None:
    line = b'{"meta":{"dt":"1970-01-01T00:00:09.123Z"}}\n{"meta":{}}\n'
    before_ms = time.time_ns() // 1_000_000
    assert _import(data, line).exit_code == 0
    assert _import(data, line, "--timestamp", "now").exit_code == 0
    stamps = [event.timestamp_ms for event in events_in(data, TEST)]
    assert stamps[0] == 9123
    assert all(stamp >= before_ms for stamp in stamps[1:])


def test_an_import_stops_at_a_bad_line_and_can_continue_there(data: Path) -> None:
    text = b'{"n":1}\n\n{"n":2}\n[3]\n{"n":4}\n'
    result = _import(data, text)
    assert result.exit_code == 1
    assert "events.ndjson:4: not a JSON object but a list" in result.stderr
    assert "--from-line 4" in result.stderr
    assert documents_in(data, TEST) == [{"n": 1}, {"n": 2}]

    mended = text.replace(b"[3]", b'{"n":3}')
    assert _import(data, mended, "--from-line", 4).exit_code == 0
    assert documents_in(data, TEST) == [{"n": n} for n in (1, 2, 3, 4)]


def test_skipped_bad_lines_are_each_reported(data: Path) -> None:
    result = _import(data, b'{"n":1}\nno\n\xff\n{"n":2}', "--skip-bad")
    assert result.exit_code == 0
    assert "events.ndjson:2: not JSON" in result.stderr
    assert "events.ndjson:3: not UTF-8" in result.stderr
    assert "skipped 2 invalid lines" in result.stdout
    assert documents_in(data, TEST) == [{"n": 1}, {"n": 2}]


def test_a_dry_run_reports_bad_lines_and_creates_no_log(data: Path) -> None:
    result = _import(data, b'{"n":1}\n1\n{"n":2}\n2\n', "--dry-run", "--skip-bad")
    assert result.exit_code == 0
    assert "checked 2 events without appending" in result.stdout
    assert result.stderr.splitlines() == [
        f"{data.parent}/events.ndjson:2: not a JSON object but a number",
        f"{data.parent}/events.ndjson:4: not a JSON object but a number",
    ]
    assert not data.exists()


def test_standard_input_is_imported_with_a_dash(data: Path) -> None:
    result = _run("import", "-", "--stream", "test", "--data-dir", data, given=b'{"n":1}\nx')
    assert result.exit_code == 1
    assert "Error: stdin:2: not JSON" in result.stderr
    assert documents_in(data, TEST) == [{"n": 1}]


def test_produce_takes_documents_or_lines(data: Path) -> None:
    base = ("produce", "--stream", "test", "--data-dir", data)
    assert _run(*base, '{"n":1}', '{"n":2}').exit_code == 0
    assert _run(*base, given='{"n":3}\n{"n":4}').exit_code == 0
    assert documents_in(data, TEST) == [{"n": n} for n in (1, 2, 3, 4)]


def test_one_bad_argument_prevents_any_append(data: Path) -> None:
    result = _run("produce", "--stream", "test", "--data-dir", data, '{"n":1}', "{")
    assert result.exit_code == 2
    assert "argument 2: not JSON" in result.stderr
    assert not data.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope.ndjson", "--stream", "test"], "nope.ndjson: No such file or directory"),
        ([".", "--stream", "test"], ". is a directory"),
        (["-", "--stream", "recentchang"], "did you mean recentchange"),
        (["-", "--stream", "zzzz"], "there are: eventlogging_Test, eventstreams.error"),
        (["-", "--stream", "test", "--topic", "x"], "has no topic 'x'; there are:"),
        (["-", "--stream", "test", "--kafka", "localhost"], "'localhost' is not HOST:PORT"),
        (["-", "--stream", "test", "--kafka", "a:1", "--data-dir", "x"], "cannot be used together"),
        (["-"], "Missing option '--stream'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run("import", *arguments, given=b"{}")
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_log_is_reported_in_one_line(data: Path) -> None:
    data.mkdir()
    (data / "log.sqlite3").write_bytes(b"not a database" * 1000)
    result = _run("produce", "--stream", "test", "--data-dir", data, "{}")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.output


def test_unreachable_brokers_are_reported_in_one_line() -> None:
    result = _run("produce", "--stream", "test", "--kafka", "127.0.0.1:1", "{}")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.output


def test_piped_lines_are_appended_at_once_and_ctrl_c_reports_progress(
    data: Path,
) -> None:
    command = [sys.executable, "-m", "eventstreams", "produce", "--stream", "test"]
    process = subprocess.Popen(
        [*command, "--data-dir", data],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b'{"n":1}\n{"n":')
    process.stdin.flush()
    deadline = time.monotonic() + PATIENCE_S
    while not (data.exists() and documents_in(data, TEST)) and time.monotonic() < deadline:
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    # before the pipe is closed, which would be an end of its own
    assert process.wait(PATIENCE_S) == 1
    stdout, stderr = process.communicate()
    assert b"appended 1 event " in stdout
    assert stderr.splitlines()[1:] == [
        b"Error: interrupted",
        b"Everything before line 2 is appended",
    ]
    assert documents_in(data, TEST) == [{"n": 1}]


def test_ctrl_c_before_the_first_line_reports_no_line(data: Path) -> None:
    command = [sys.executable, "-m", "eventstreams", "produce", "--stream", "test"]
    with subprocess.Popen(
        [*command, "--data-dir", data],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 1
        rest = process.stderr.read()
    assert first.startswith(b"created the log")
    assert rest in (b"Error: interrupted; nothing was appended\n", b"Error: interrupted\n")


def test_an_interrupt_while_a_command_starts_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eventstreams.cli.produce.find_destination", interrupted)
    result = _run("produce", "--stream", "test", "--data-dir", "d", "{}")
    assert (result.exit_code, result.stderr) == (1, "Error: interrupted\n")


def test_progress_counts_one_event_in_the_singular(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for count in (1, 2):
        Progress(size=None).show(count, 0)
    shown = capsys.readouterr().err.split("\r")
    assert shown[1].startswith("1 event  ")
    assert shown[2].startswith("2 events  ")
