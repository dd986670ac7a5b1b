"""`export` as a process of its own, against running and scripted gateways."""

from __future__ import annotations

import gzip
import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cramjam
import pytest
from click.testing import CliRunner

from eventstreams.cli import main
from tests.support.upstream import (
    OK,
    PATIENCE_S,
    QUICK,
    Gateway,
    frame,
    gateway,
    refusal,
    upstream,
)

DONE = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
COUNT = 500


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("gateway") / "data", "--no-demo") as running:
        lines = "".join(
            f'{{"n":{n},"meta":{{"dt":"2026-01-31T12:00:00.{n:03}Z","stream":"eventstreams.test"}}}}\n'
            for n in range(COUNT)
        )
        done = CliRunner().invoke(
            main, ["produce", "--stream", "test", "--data-dir", str(running.data)], input=lines
        )
        assert done.exit_code == 0, done.output
        yield running


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "eventstreams", "export", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def export(*arguments: object) -> tuple[int, str, str]:
    with start(*arguments) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    return process.returncode, stdout, stderr


def unpack(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    return bytes(cramjam.zstd.decompress(data)) if path.suffix == ".zst" else data


@pytest.mark.parametrize("name", ["a.ndjson", "a.ndjson.gz", "a.ndjson.zst"])
def test_a_file_holds_every_event_once_in_order(served: Gateway, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    code, stdout, stderr = export("test", "--url", served.url, "-o", path)
    assert (code, stderr) == (0, "")
    assert f"exported {COUNT} events to {path}" in stdout
    assert [json.loads(line)["n"] for line in unpack(path).splitlines()] == [*range(COUNT)]
    assert [*tmp_path.iterdir()] == [path]


def test_options_choose_the_time_the_events_and_their_fields(
    served: Gateway, tmp_path: Path
) -> None:
    path = tmp_path / "a.ndjson"
    code, _, _ = export(
        *("test", "--url", served.url, "-o", path, "--fields", "n"),
        *("--since", "2026-01-31T12:00:00.100Z", "--until", "2026-01-31T12:00:00.105Z"),
        *("--filter", "event.n % 2 == 0"),
    )
    assert code == 0
    assert path.read_bytes() == b'{"n":100}\n{"n":102}\n{"n":104}\n'


def test_a_time_without_events_is_an_empty_file(served: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    until = "2026-01-01"
    assert export("test", "--url", served.url, "-o", path, "--until", until)[0] == 0
    assert path.read_bytes() == b""


def test_a_field_that_no_schema_declares_gets_a_warning(served: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    code, _, stderr = export("test", "--url", served.url, "-o", path, "--fields", "tset")
    assert (code, stderr) == (0, "Warning: the schema has no field tset; did you mean test?\n")


def test_a_cut_connection_is_resumed(tmp_path: Path) -> None:
    answers = (
        OK + QUICK + frame('{"n":1}', "a") + frame('{"n":2}', "b")[:-9],
        OK + frame('{"n":2}', "b") + b"id: c\n\n",
        DONE,
    )
    path = tmp_path / "a.ndjson"
    with upstream(*answers) as server:
        code, _, stderr = export("s", "--url", server.url, "-o", path)
        heads = [server.requests.get(timeout=PATIENCE_S).headers for _ in answers]
    assert code == 0, stderr
    assert [head.get("last-event-id") for head in heads] == [None, "a", "c"]
    assert {head["user-agent"].partition("/")[0] for head in heads} == {"eventstreams-export"}
    assert path.read_bytes() == b'{"n":1}\n{"n":2}\n'


def test_a_partial_file_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    path, part = tmp_path / "a.ndjson", tmp_path / "a.ndjson.part"
    for number in (signal.SIGINT, signal.SIGKILL):
        with (
            upstream(OK + frame('{"n":1}', "a")) as server,
            start("s", "--url", server.url, "-o", path) as process,
        ):
            server.requests.get(timeout=PATIENCE_S)  # which is sent when the file is open
            process.send_signal(number)
            _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode != 0
        assert not path.exists()
        if number is signal.SIGINT:
            assert f"Error: interrupted; {path} was not written" in stderr
            assert not part.exists()
    with upstream(OK + frame('{"n":2}', "a"), DONE) as server:
        assert export("s", "--url", server.url, "-o", path)[0] == 0, "over what was left"
    assert path.read_bytes() == b'{"n":2}\n'
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_that_exists_is_kept_without_force(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text("old")
    code, _, stderr = export("s", "--url", "http://127.0.0.1:9", "-o", path)
    assert (code, path.read_text()) == (1, "old")
    assert f"{path}: exists; --force replaces it" in stderr
    with upstream(OK + frame('{"n":1}', "a"), DONE) as server:
        assert export("s", "--url", server.url, "-o", path, "--force")[0] == 0
    assert path.read_text() == '{"n":1}\n'


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    big = frame(json.dumps({"n": "x" * 100_000}), "a")
    with upstream(OK + big, DONE) as server:
        command = f"ulimit -f 40; exec {sys.executable} -m eventstreams export s"
        done = subprocess.run(
            ["bash", "-c", f"{command} --url {server.url} -o {path}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    assert done.returncode == 1
    assert f"Error: {path}: File too large" in done.stderr
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("s", "-o", "a.csv"), 2, "'a.csv' ends with none of .ndjson, .ndjson.gz"),
        (("s",), 2, "Missing option '-o'"),
        (("s", "-o", "nowhere/a.ndjson"), 1, "nowhere/a.ndjson: No such file or directory"),
        (("s", "-o", "a.ndjson"), 1, "cannot connect to 127.0.0.1:9"),
        (("s", "-o", "a.ndjson"), 1, "`eventstreams serve` starts one"),
        (
            ("s", "-o", "a.ndjson", "--token-file", "nope"),
            1,
            "--token-file: nope: No such file or directory",
        ),
    ],
)
def test_a_mistake_is_one_clear_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["export", "--url", "http://127.0.0.1:9", *arguments])
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert [*tmp_path.iterdir()] == []


def test_the_refusal_of_a_gateway_is_reported(tmp_path: Path) -> None:
    body = b'{"title":"Invalid Filter","detail":"write == to compare"}'
    with upstream(refusal("400 Bad Request", body)) as server:
        code, _, stderr = export("s", "--url", server.url, "-o", tmp_path / "a.ndjson")
    assert code == 1
    assert "400 Invalid Filter: write == to compare" in stderr
    assert [*tmp_path.iterdir()] == []


def test_without_pyarrow_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = CliRunner().invoke(main, ["export", "s", "-o", str(tmp_path / "a.parquet")])
    assert result.exit_code == 1
    assert "pip install 'eventstreams[parquet]'" in result.stderr


def test_parquet_has_the_place_of_each_event_and_its_json(served: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    code, _, stderr = export("test", "--url", served.url, "-o", path)
    assert code == 0, stderr
    table = importlib.import_module("pyarrow.parquet").read_table(path)
    assert table.column_names == ["dt", "stream", "topic", "partition", "offset", "event"]
    rows = table.to_pylist()
    assert [row["offset"] for row in rows] == [*range(COUNT)]
    assert [json.loads(row["event"])["n"] for row in rows] == [*range(COUNT)]
    assert rows[7]["dt"].isoformat() == "2026-01-31T12:00:00.007000+00:00"
    assert {(row["stream"], row["topic"], row["partition"]) for row in rows} == {
        ("eventstreams.test", "eventstreams.test", 0)
    }
