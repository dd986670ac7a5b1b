"""`eventlogging process` and `replay` as a user calls them, over a real embedded log."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
import yaml
from click.testing import CliRunner, Result

from eventstreams.cli import main
from eventstreams.cli.config import shipped_config
from tests.cli.logs import documents_in, events_in
from tests.support.eventlogging import line

TEST = "eventlogging_Test"
ERRORS = "eventstreams.error"
FORMAT = "%q %{recvFrom}s %{seqId}d %D %o %u"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def _run(*arguments: object, given: bytes | str | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=given)


def process(data: Path, lines: list[str], *options: object, log_format: str = FORMAT) -> Result:
    file = data.parent / "raw.log"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    return _run("eventlogging", "process", log_format, file, "--data-dir", data, *options)


def messages(data: Path) -> list[Any]:
    return [each["event"]["OtherMessage"] for each in documents_in(data, TEST)]


def test_events_of_a_raw_log_are_validated_and_in_the_log_in_order(data: Path) -> None:
    count = 2500
    result = process(data, [line(str(n), n) for n in range(count)])
    assert result.exit_code == 0, result.output
    assert "appended 2,500 events" in result.stdout
    assert messages(data) == [str(n) for n in range(count)]
    first = events_in(data, TEST)[0]
    event = json.loads(first.value or b"")
    assert event.pop("uuid") == UUID(event["meta"].pop("id")).hex
    assert first.timestamp_ms == 1358637398000, "the time that the line says"
    assert event == {
        "$schema": "/analytics/legacy/test/1.0.0",
        "meta": {"stream": TEST, "dt": "2013-01-19T23:16:38Z"},
        "schema": "Test",
        "revision": 13,
        "event": {"OtherMessage": "0"},
        "recvFrom": "srv0.example.org",
        "seqId": 0,
        "dt": "2013-01-19T23:16:38Z",
        "client_dt": "2013-01-19T23:16:38Z",
        "http": {"request_headers": {"user-agent": "Mozilla/5.0 (X11)"}},
    }


def test_a_line_that_is_read_twice_has_the_same_id(data: Path) -> None:
    for _ in range(2):
        assert process(data, [line("a", 132073)]).exit_code == 0
    ids = [(each["uuid"], each["meta"]["id"]) for each in documents_in(data, TEST)]
    assert ids == [("749684341abf513186c71f74c6a09502", "74968434-1abf-5131-86c7-1f74c6a09502")] * 2


def test_bytes_on_standard_input_that_are_not_utf_8_are_a_bad_line(data: Path) -> None:
    good = line("é").encode()
    result = _run(
        *("eventlogging", "process", FORMAT, "-", "--data-dir", data),
        given=good + b"\n\xff\xfe\n",
    )
    assert result.exit_code == 1
    assert "stdin:2: the line does not fit the format" in result.stderr
    assert messages(data) == ["é"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("garbage", "the line does not fit the format"),
        ("?%7B%22a; h 1 2013-01-19T23:16:38 - u", "the URL was probably cut off"),
        (line("x", schema="Other"), "legacy.schemas does not list the schema Other; it lists Test"),
        (line(7), "'.event.OtherMessage' should be string"),
    ],
)
def test_the_first_bad_line_stops_after_appending_all_before_it(
    data: Path, bad: str, reason: str
) -> None:
    lines = [line("1"), "", line("3"), bad, line("5")]
    stopped = process(data, lines)
    assert stopped.exit_code == 1
    assert f"raw.log:4: {reason}" in stopped.stderr.replace(
        "the capsule is not JSON: it ", ""
    ).replace("ends too early, so ", "")
    assert "to continue, use --from-line 4" in stopped.stderr
    assert messages(data) == ["1", "3"]
    assert documents_in(data, ERRORS) == []
    assert process(data, lines, "--from-line", 5).exit_code == 0
    assert messages(data) == ["1", "3", "5"]


def test_bad_lines_that_are_skipped_are_on_the_error_stream(data: Path) -> None:
    lines = [line(7), "garbage", line("3"), line("x", schema="Other"), line("5"), line(8)]
    result = process(data, lines, "--skip-bad")
    assert result.exit_code == 0, result.output
    assert messages(data) == ["3", "5"]
    numbers = [each.split(":")[1] for each in result.stderr.splitlines() if "raw.log:" in each]
    assert numbers == ["1", "2", "4", "6"], "in their order"
    assert "skipped 4 invalid lines" in result.stdout
    errors = documents_in(data, ERRORS)
    raw = [each["raw_event"] for each in errors]
    assert lines[1] in raw
    assert lines[3] in raw
    invalid = [json.loads(each)["event"]["OtherMessage"] for each in raw if each.startswith("{")]
    assert invalid == [7, 8]


def test_every_bad_line_becomes_an_error_event(data: Path) -> None:
    """Although a gateway bounds its error events, which anyone can cause."""
    result = process(data, ["garbage"] * 300 + [line(n) for n in range(300)], "--skip-bad")
    assert result.exit_code == 0
    assert len(documents_in(data, ERRORS)) == 600


def test_a_dry_run_checks_and_appends_nothing(data: Path) -> None:
    lines = [line("1"), line(7), "garbage"]
    result = process(data, lines, "--dry-run", "--skip-bad")
    assert result.exit_code == 0
    assert "checked 1 event without appending" in result.stdout
    assert not data.exists()
    assert process(data, lines, "--dry-run").exit_code == 1


def test_print_writes_only_events_to_standard_output(data: Path) -> None:
    result = process(data, [line("1"), line("2"), line(7), line("4")], "--print")
    assert result.exit_code == 1
    printed = [json.loads(each) for each in result.stdout.splitlines()]
    assert [each["event"]["OtherMessage"] for each in printed] == ["1", "2"]
    assert "raw.log:3: '.event.OtherMessage' should be string" in result.stderr
    assert not data.exists()


def test_a_terminal_shows_progress(data: Path) -> None:
    file = data.parent / "raw.log"
    file.write_text("".join(f"{line(str(n), n)}\n" for n in range(3)))
    ours, theirs = os.openpty()
    try:
        command = [sys.executable, "-m", "eventstreams", "eventlogging", "process"]
        done = subprocess.run(
            [*command, FORMAT, str(file), "--data-dir", str(data)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=60,
            check=True,
        )
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert re.search(r"\[#+\] 100%  3 events  [\d,]+/s", shown)
    assert done.stdout.startswith(b"appended 3 events")


def test_an_invalid_format_is_a_usage_error(data: Path) -> None:
    result = process(data, [line("1")], log_format="%q %z")
    assert result.exit_code == 2
    assert "FORMAT: %z is not one of %q, %j" in result.stderr
    assert "     ^" in result.stderr


def test_a_file_in_place_of_the_format_is_recognized(data: Path) -> None:
    result = _run("eventlogging", "process", "raw.log", "%q", "--data-dir", data)
    assert result.exit_code == 2
    assert "FORMAT comes before FILE; FORMAT: a format needs %q or %j" in result.stderr


def test_missing_legacy_schemas_name_the_setting(tmp_path: Path, data: Path) -> None:
    config = _config(tmp_path, {})
    result = process(data, [line("1")], "--config", config)
    assert result.exit_code == 2
    assert "legacy.schemas is empty" in result.stderr


def test_replay_appends_refused_events_that_are_valid_now(tmp_path: Path, data: Path) -> None:
    """Errors of this gateway: events, queries and, of EventLogging, capsules."""
    fits = {"schema": "Test", "revision": 1, "event": {"OtherMessage": "capsule"}}
    event = {
        "$schema": "/analytics/legacy/test/1.0.0",
        "meta": {"stream": TEST, "dt": "2026-01-31T12:00:00Z"},
        "event": {"OtherMessage": "event"},
    }
    query = quote(json.dumps({**fits, "event": {"OtherMessage": "query"}})) + ";"
    raws: list[dict[str, Any]] = [
        {"raw_event": json.dumps(event)},
        {"raw_event": query},
        {"event": {"rawEvent": json.dumps(fits), "code": "validation"}, "schema": "EventError"},
        {"event": {"rawEvent": "?" + query}, "schema": "EventError"},
        {"message": "without what was refused"},
        {"raw_event": "?%7Bcut"},
    ]
    file = tmp_path / "errors.ndjson"
    file.write_text("".join(json.dumps(each) + "\n" for each in raws))
    arguments = ("eventlogging", "replay", file, "--data-dir", data)
    stopped = _run(*arguments)
    assert stopped.exit_code == 1
    assert f"{file}:5: not an error event that repeats what was refused" in stopped.stderr
    assert messages(data) == ["event", "query", "capsule", "query"]
    going_on = _run(*arguments, "--from-line", 5, "--skip-bad")
    assert going_on.exit_code == 0
    assert f"{file}:6: the capsule is not JSON" in going_on.stderr
    assert len(messages(data)) == 4


def test_error_events_of_raw_lines_can_be_replayed(tmp_path: Path, data: Path) -> None:
    """From end to end: refused for an unlisted schema, taken once it is listed."""
    refused = process(data, [line(7), "garbage"], "--skip-bad")
    assert refused.exit_code == 0
    file = tmp_path / "errors.ndjson"
    errors = documents_in(data, ERRORS)
    fixed = json.loads(errors[-1]["raw_event"])
    fixed["event"]["OtherMessage"] = "fixed"
    file.write_text(json.dumps({**errors[-1], "raw_event": json.dumps(fixed)}) + "\n")
    result = _run("eventlogging", "replay", file, "--data-dir", data)
    assert result.exit_code == 0, result.output
    [event] = documents_in(data, TEST)
    assert event == fixed, "with its id and its times"


def _config(folder: Path, schemas: dict[str, str]) -> Path:
    shipped = shipped_config()
    settings = yaml.safe_load(shipped.read_text())
    settings["catalogue"] = str(shipped.parent / settings["catalogue"])
    settings["schemas"] = [str(shipped.parent / each) for each in settings["schemas"]]
    settings["legacy"] = {"schemas": schemas}
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


@pytest.mark.parametrize(
    ("schemas", "problem"),
    [
        (
            {"Test": "1.0.1"},
            "legacy.schemas.Test: there is no schema /analytics/legacy/test/1.0.1; "
            "there are versions 1.0.0",
        ),
        (
            {"Edit": "1.0.0"},
            "legacy.schemas.Edit: its stream eventlogging_Edit is not in the catalogue",
        ),
        ({"Test": "1.0"}, "legacy.schemas"),
        ({"a/b": "1.0.0"}, "legacy.schemas"),
    ],
)
def test_check_reports_missing_fields_of_legacy_schemas(
    tmp_path: Path, schemas: dict[str, str], problem: str
) -> None:
    result = _run("check", "--config", _config(tmp_path, schemas))
    assert result.exit_code == 2
    assert problem in result.stderr
