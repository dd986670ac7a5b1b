"""`init` and `new-stream`: what they write works, and they overwrite nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eventstreams.cli import main
from eventstreams.config.catalogue import load_catalogue
from tests.support.upstream import PATIENCE_S, TailProcess, gateway

ORDER = {"id": 7, "at": "2026-01-31T12:00:00Z", "items": [{"sku": "a"}], "who": {"name": "Ada"}}


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert _run("init", tmp_path / "w").exit_code == 0
    (tmp_path / "order.json").write_text(json.dumps(ORDER))
    return tmp_path / "w"


def _new(folder: Path, name: str, *options: object, sample: Path | None = None) -> Result:
    sample = sample or folder.parent / "order.json"
    config = folder / "eventstreams.yaml"
    return _run("new-stream", name, "--from", sample, "--config", config, *options)


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _produce(url: str, stream: str, event: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eventstreams", "produce", "--url", url, "--stream", stream]
    return subprocess.run(
        [*command, json.dumps(event)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_both_commands_declare_streams_that_work(folder: Path, tmp_path: Path) -> None:
    assert _new(folder, "shop.orders").exit_code == 0
    config = folder / "eventstreams.yaml"
    assert _run("check", "--config", config).exit_code == 0
    with gateway(tmp_path / "data", "--config", str(config)) as served:
        for stream, event in (("my.events", {"message": "hi", "count": 2}), ("shop.orders", ORDER)):
            done = _produce(served.url, stream, event)
            assert done.returncode == 0, done.stderr
            tail = TailProcess(*(stream, "--url", served.url, "--since", "earliest", "--limit", 1))
            received = json.loads(tail.end()[0])
            assert event.items() <= received.items()
        wrong = _produce(served.url, "shop.orders", ORDER | {"at": "soon"})
        assert "'.at' should match format \"date-time\"" in wrong.stderr


def test_the_next_commands_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["eventstreams"])
    result = _run("init", tmp_path / "x")
    serve = f"serve --config {tmp_path}/x/eventstreams.yaml"
    for command in (serve, "tail my.events", "produce --stream my.events"):
        assert f"\n  eventstreams {command}" in result.stdout


@pytest.mark.parametrize("called", ["bin/eventstreams", "./eventstreams"])
def test_printed_commands_name_the_program_as_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str
) -> None:
    monkeypatch.setattr(sys, "argv", [called, "init"])
    assert f"\n  {called} serve --config" in _run("init", tmp_path / "x").stdout


def test_the_settings_name_the_same_log_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run("init", "x").exit_code == 0
    monkeypatch.chdir("/")
    checked = _run("check", "--config", tmp_path / "x" / "eventstreams.yaml")
    assert f"sqlite, in {tmp_path}/x/data" in checked.stdout


def test_a_schema_accepts_decimals_and_keeps_the_order_of_the_sample(folder: Path) -> None:
    (folder.parent / "order.json").write_text('{"total": 1, "by": "Ada", "items": []}')
    made = _new(folder, "orders")
    text = (folder / "schemas/orders/current.yaml").read_text()
    assert "  total:\n    type: number\n  by:\n" in text
    assert '  display_fields: ["total", "by"]\n' in made.stdout


def test_nothing_that_exists_is_overwritten_without_force(folder: Path) -> None:
    (folder / "eventstreams.yaml").write_text("catalogue: streams.yaml\nschemas: [schemas]\n")
    assert _new(folder, "shop.orders").exit_code == 0
    before = _contents(folder)
    again = _run("init", folder)
    assert again.exit_code == 2
    assert f"{folder}/eventstreams.yaml: exists; --force replaces it" in again.stderr
    assert _new(folder, "shop.orders").exit_code == 2
    assert _new(folder, "shop/orders".replace("/", "."), "--title", "other").exit_code == 2
    assert _contents(folder) == before
    assert _new(folder, "shop.orders", "--force").exit_code == 0
    assert _run("init", folder, "--force").exit_code == 0
    assert "http:" in (folder / "eventstreams.yaml").read_text()


def test_a_changed_sample_replaces_the_schema_with_force(folder: Path) -> None:
    assert _new(folder, "orders").exit_code == 0
    (folder.parent / "order.json").write_text('{"total": 1}')
    assert _new(folder, "orders", "--force").exit_code == 0
    assert "total" in (folder / "schemas/orders/1.0.0.yaml").read_text()


CATALOGUES = [
    "# head\nstreams:\n  a: {topics: [a]}\n  # tail\n",
    "a:\n  topics: [a]  # kept\nb:",
    "streams:\n    a:\n        topics:\n        - a\n\n# about defaults\ndefaults:\n  topics: [d]",
]


@pytest.mark.parametrize("text", CATALOGUES)
def test_a_catalogue_keeps_its_text_and_gets_the_stream(folder: Path, text: str) -> None:
    catalogue = folder / "streams.yaml"
    catalogue.write_text(text)
    before = set(load_catalogue(catalogue).streams)
    assert _new(folder, "orders", "--description", "Orders: all of them").exit_code == 0
    after = load_catalogue(catalogue)
    assert set(after.streams) == before | {"orders"}
    assert after.get("orders").description == "Orders: all of them"
    lines = catalogue.read_text().splitlines()
    assert [line for line in text.splitlines() if line in lines] == text.splitlines()


@pytest.mark.parametrize("text", ["streams: {a: {topics: [a]}}", "- {stream: a, topics: [a]}"])
def test_a_catalogue_of_another_form_is_left_alone(folder: Path, text: str) -> None:
    (folder / "streams.yaml").write_text(text)
    before = _contents(folder)
    result = _new(folder, "orders")
    assert result.exit_code == 2
    assert "add this to its streams by hand:\n  orders:" in result.stderr
    assert _contents(folder) == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no event"),
        ("[]", "holds no event"),
        ("[1]", "event 1 is not a JSON object"),
        ('{"a":1}\n{"a":\n', "order.json:2: not JSON"),
        (None, "No such file or directory"),
    ],
)
def test_a_sample_that_is_no_event_is_a_usage_error(
    folder: Path, text: str | None, problem: str
) -> None:
    sample = folder.parent / "order.json"
    sample.unlink()
    if text is not None:
        sample.write_text(text)
    before = _contents(folder)
    result = _new(folder, "orders")
    assert result.exit_code == 2
    assert problem in result.stderr
    assert _contents(folder) == before


@pytest.mark.parametrize("name", ["a b", "../x", "", "a/b"])
def test_a_name_that_no_stream_can_have_is_a_usage_error(folder: Path, name: str) -> None:
    result = _new(folder, name)
    assert result.exit_code == 2
    assert "is not the name of a stream" in result.stderr


def test_without_settings_it_names_init(folder: Path) -> None:
    result = _run(
        "new-stream", "a", "--from", folder.parent / "order.json", "--config", folder / "no.yaml"
    )
    assert result.exit_code == 2
    assert "`eventstreams init` makes one" in result.stderr


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is not a directory" in _run("init", tmp_path / "file").stderr
    result = _run("init", tmp_path / "file" / "below")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "Not a directory" in line
