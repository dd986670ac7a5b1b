"""The commands as a whole: help, exit codes, `check`, and the configuration that is shipped."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eventstreams.cli import main
from eventstreams.cli.config import read_config, shipped_config

COMMANDS = ("serve", "tail", "produce", "import", "check")


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    result = _run(command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert f"eventstreams {command}" in result.stdout
    assert command in _run("--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_a_usage_error(command: str) -> None:
    result = _run(command, "--nope")
    assert result.exit_code == 2
    assert "Error: No such option" in result.stderr


def test_what_the_commands_need_is_loaded_only_when_they_are_called() -> None:
    code = (
        "import sys, eventstreams.cli.tail; "
        "print([m for m in ('aiokafka', 'starlette', 'uvicorn') if m in sys.modules])"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.strip() == "[]"


@pytest.mark.parametrize("name", ["eventstreams.yaml", "kafka.yaml"])
def test_the_shipped_configuration_is_valid(name: str) -> None:
    file = shipped_config().with_name(name)
    result = _run("check", "--config", file)
    assert result.exit_code == 0, result.output
    assert "The configuration is valid." in result.stdout
    assert "mediawiki.recentchange (recentchange)" in result.stdout


def test_check_without_a_file_takes_the_shipped_one() -> None:
    assert _run("check").stdout == _run("check", "--config", shipped_config()).stdout
    settings, catalogue = read_config(None)
    assert settings.demo.stream in catalogue.names


def test_check_says_every_problem_of_both_files_at_once(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(
        "catalogue: cat.yaml\nhttp: {port: 70000, prot: 1}\nlog: {backend: paper}\n"
    )
    (tmp_path / "cat.yaml").write_text("streams: {a: {topics: ['b c']}, d: {topic: [x]}}\n")
    result = _run("check", "--config", tmp_path / "settings.yaml")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert all(line.startswith("Error: ") for line in lines)
    for part in ("http.port", "http.prot", "log.backend", "streams.a", "streams.d"):
        assert sum(part in line for line in lines) == 1, part


def test_check_says_problems_of_every_kind_at_once_and_each_once(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("x")
    (tmp_path / "settings.yaml").write_text(
        "limits: {streams_max: 0}\n"
        "http: {trusted_proxies: [x], tls_certfile: 7, tls_keyfile: none}\n"
        f"access: {{jwks_file: {tmp_path}/none, producer_keys: {tmp_path}/none, "
        f"admin_key_file: {tmp_path}/short}}\nintake: {{error_stream: nowhere}}\n"
    )
    (tmp_path / "streams.yaml").write_text("streams: {a: {}}\n")
    result = _run("check", "--config", tmp_path / "settings.yaml")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    expected = (
        *("limits.streams_max", "http.trusted_proxies[0]", "http.tls_certfile", "access.jwks_file"),
        *("access.producer_keys", "access.admin_key_file", "intake.error_stream"),
    )
    for part in expected:
        assert sum(f"settings.yaml: {part}: " in line for line in lines) == 1, (part, lines)
    assert len(lines) == len(expected), "and none that only follows from another"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No such file or directory"),
        ("a: [", "not YAML"),
        ("- 1", "expected a mapping"),
        ("demo: {stream: nope}", "demo.stream: nope is not in the catalogue"),
        ("catalogue: 5", "catalogue: "),
    ],
)
def test_a_wrong_configuration_is_one_line_and_exit_code_2(
    text: str | None, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    if text is not None:
        file.write_text(text)
    (tmp_path / "streams.yaml").write_text("streams: {a: {topics: [b]}}")
    for command in ("check", "serve"):
        result = _run(command, "--config", file)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert problem in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-demo", "--demo-rate", "5"], "contradict"),
        (["--port", "99999"], "--port"),
        (["--workers", "0"], "--workers"),
        (["--demo-rate", "-1"], "--demo-rate"),
    ],
)
def test_serve_refuses_flags_that_make_no_sense(arguments: list[str], message: str) -> None:
    result = _run("serve", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--config", "a\0b"],
        ["serve", "--data-dir", "a\0b"],
        ["produce", "--stream", "test", "--data-dir", "a\0b", "{}"],
        ["import", "a\0b", "--stream", "test"],
        ["tail", "test", "--state", "a\0b"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_path_that_can_not_be_is_a_usage_error(arguments: list[str]) -> None:
    result = _run(*arguments)
    assert result.exit_code == 2
    assert r"'a\x00b' is no path: it holds a NUL" in result.stderr


def test_a_path_in_the_settings_that_can_not_be_is_told(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(r'{catalogue: "a\0b", log: {data_dir: "c\0d"}}')
    for command in ("check", "serve"):
        result = _run(command, "--config", file)
        assert result.exit_code == 2
        for place in ("catalogue", "log.data_dir"):
            assert f"Error: {file}: {place}: holds a NUL\n" in result.stderr


def test_a_value_that_is_no_date_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("http:\n  homepage: 2024-13-45\n")
    result = _run("check", "--config", file)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {file}:2:13: not YAML: the value is no timestamp")


def test_the_embedded_logs_folder_has_no_use_with_kafka() -> None:
    kafka = shipped_config().with_name("kafka.yaml")
    result = _run("serve", "--config", kafka, "--data-dir", "x")
    assert result.exit_code == 2
    assert "--data-dir has no use: log.backend is kafka" in result.stderr


def _readme_commands() -> list[list[str]]:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    found: list[list[str]] = []
    for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL):
        for line in block.splitlines():
            if match := re.match(r"\.venv/bin/eventstreams (.+?)(?:\s*[>#].*)?$", line):
                found.append([part.strip("'") for part in re.findall(r"'[^']*'|\S+", match[1])])
    return found


@pytest.mark.parametrize("arguments", _readme_commands(), ids=" ".join)
def test_every_command_of_the_readme_is_understood(arguments: list[str]) -> None:
    with main.make_context("eventstreams", [*arguments]) as context:
        command = main.get_command(context, arguments[0])
        assert command is not None
        with command.make_context(arguments[0], arguments[1:], parent=context):
            pass


def test_the_readme_names_every_command_and_no_file_that_is_not_there() -> None:
    root = Path(__file__).parents[2]
    readme = (root / "README.md").read_text()
    assert len(_readme_commands()) >= len(COMMANDS)
    for command in COMMANDS:
        assert f"`eventstreams {command}" in readme
    for target in re.findall(r"\]\((?!http)([^)]+)\)", readme):
        file, _, heading = target.partition("#")
        assert (root / file).exists(), target
        headings = (
            re.findall(r"^#+ (.*)", (root / file).read_text(), re.MULTILINE) if heading else []
        )
        assert not heading or heading in {h.lower().replace(" ", "-") for h in headings}, target
    for script in re.findall(r"^scripts/\w+", readme, re.MULTILINE):
        assert (root / script).exists(), script


def test_the_changelog_names_this_version() -> None:
    import eventstreams  # noqa: PLC0415

    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    (newest, *_) = re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    assert newest == eventstreams.__version__
