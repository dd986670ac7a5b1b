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

COMMANDS = ("serve", "tail", "produce", "import", "restore", "relay", "check", "propagate")


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


def test_modules_of_commands_are_imported_on_use() -> None:
    code = (
        "import sys, eventstreams.cli.tail; "
        "print([m for m in ('aiokafka', 'starlette', 'uvicorn') if m in sys.modules])"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.strip() == "[]"


@pytest.mark.parametrize(
    ("command", "module", "code", "printed"),
    [
        ("tail", "asyncio", 1, "Error: interrupted\n"),
        ("tail", "click", 1, "Error: interrupted\n"),
        ("tail", "eventstreams.cli.tail", 1, "Error: interrupted\n"),
        ("serve", "asyncio", 0, ""),
        ("serve", "eventstreams.cli.serve", 0, ""),
    ],
)
def test_ctrl_c_while_modules_are_imported_prints_no_traceback(
    command: str, module: str, code: int, printed: str
) -> None:
    program = f"""if True:
        import signal, sys

        class Interruption:
            def find_spec(self, name, path=None, target=None):
                if name == {module!r}:
                    signal.raise_signal(signal.SIGINT)

        sys.meta_path.insert(0, Interruption())
        sys.argv = ["eventstreams", {command!r}, "--help"]
        from eventstreams.__main__ import run
        run()"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", printed)


@pytest.mark.parametrize("name", ["eventstreams.yaml", "kafka.yaml"])
def test_the_shipped_configuration_is_valid(name: str) -> None:
    file = shipped_config().with_name(name)
    result = _run("check", "--config", file)
    assert result.exit_code == 0, result.output
    assert "The configuration is valid." in result.stdout
    assert "mediawiki.recentchange (recentchange)" in result.stdout


def test_check_uses_the_shipped_configuration_by_default() -> None:
    default = _run("check").stdout.replace("shipped with eventstreams; --config names another", "-")
    named = _run("check", "--config", shipped_config()).stdout.replace("--config", "-")
    log = shipped_config().with_name("data")
    assert default == named.replace(f"in {log}", f"in {Path.cwd() / 'data'}")
    settings, catalogue = read_config(None)
    assert {settings.demo.stream, settings.demo.new_pages_stream} <= {*catalogue.names}


def test_check_reports_all_problems_of_both_files(tmp_path: Path) -> None:
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


def test_check_reports_problems_of_every_kind_once(tmp_path: Path) -> None:
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
        place = re.compile(rf"settings\.yaml:\d: {re.escape(part)}: ")
        assert sum(place.search(line) is not None for line in lines) == 1, (part, lines)
    assert len(lines) == len(expected), "and none that only follows from another"


MISTAKES = [
    ("http:\n  prot: 80\n", "s.yaml:2: http.prot: unknown setting; did you mean port?"),
    ("streams:\n  a: {}\n", "s.yaml:1: streams: unknown setting; this looks like a catalogue"),
    ("metrics:\n  port: 8092\n", "s.yaml:2: metrics.port: 8092 is the port of http"),
    ("schemas:\n- .\n- nope\n", "s.yaml:3: schemas[1]: there is no folder"),
    ("catalogue: other.yaml\n", "s.yaml:1: catalogue: /"),
]


@pytest.mark.parametrize(("text", "problem"), MISTAKES)
def test_check_names_the_file_and_line_of_a_mistake(
    text: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text + "intake: {error_stream: null}\n")
    (tmp_path / "streams.yaml").write_text("streams: {a: {schema_title: a}}\n")
    result = _run("check", "--config", file)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f"Error: {tmp_path}/{problem}" in line


def test_a_misspelt_command_gets_a_suggestion() -> None:
    result = _run("tial")
    assert result.exit_code == 2
    assert "No such command 'tial'; did you mean tail?" in result.stderr


def test_summaries_of_commands_fit_80_columns() -> None:
    result = CliRunner().invoke(main, ["--help"], terminal_width=80)
    assert "..." not in result.stdout.partition("Commands:")[2]


def test_check_suggests_the_nearest_schema_title(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    schemas = shipped_config().with_name("schemas")
    file.write_text(f"schemas: [{schemas}]\nintake: {{error_stream: null}}\n")
    catalogue = tmp_path / "streams.yaml"
    catalogue.write_text("my.changes:\n  topics: [t]\n  schema_title: test/evnet\n")
    result = _run("check", "--config", file)
    assert result.exit_code == 2
    assert f"Error: {catalogue}:3: streams.my.changes.schema_title: " in result.stderr
    assert "did you mean 'test/event'?" in result.stderr
    catalogue.write_text(catalogue.read_text().replace("evnet", "event"))
    valid = _run("check", "--config", file)
    assert valid.exit_code == 0
    for source in (f"settings    {file} (--config)", f"catalogue   {catalogue}", str(schemas)):
        assert source in valid.stdout


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ("http: {host: 127.0.0.2}", 0),
        ("http: {host: 0.0.0.0}", 2),
        ("http: {host: '::'}\nonly: gateway", 1),
        ("http: {host: 192.0.2.1}\nlimits: {client_ip_connections: 5}", 1),
        ("http: {host: localhost}", 0),
    ],
)
def test_check_warns_of_a_public_address_without_limits_or_keys(
    text: str, warnings: int, tmp_path: Path
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"{text}\nintake: {{error_stream: null}}\n")
    (tmp_path / "streams.yaml").write_text("streams: {a: {}}\n")
    result = _run("check", "--config", file)
    assert result.exit_code == 0, result.output
    found = [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]
    assert len(found) == warnings
    assert all(f"{file}:1: http.host: " in line for line in found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No such file or directory"),
        ("a: [", "not YAML"),
        ("- 1", "expected a mapping"),
        ("demo: {stream: nope}", "demo.stream: nope is not in the catalogue"),
        ("demo: {new_pages_stream: n}", "demo.new_pages_stream: n is not in the catalogue"),
        ("catalogue: 5", "catalogue: "),
    ],
)
def test_an_invalid_configuration_is_one_line_and_exit_code_2(
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


def test_a_folder_as_configuration_names_the_settings_in_it(tmp_path: Path) -> None:
    (tmp_path / "eventstreams.yaml").write_text("")
    result = _run("check", "--config", tmp_path)
    assert result.exit_code == 2
    assert f"Is a directory; did you mean {tmp_path / 'eventstreams.yaml'}?" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-demo", "--demo-rate", "5"], "cannot be used together"),
        (["--port", "99999"], "--port"),
        (["--workers", "0"], "--workers"),
        (["--demo-rate", "-1"], "--demo-rate"),
    ],
)
def test_serve_refuses_contradictory_flags(arguments: list[str], message: str) -> None:
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
def test_an_impossible_path_is_a_usage_error(arguments: list[str]) -> None:
    result = _run(*arguments)
    assert result.exit_code == 2
    assert r"'a\x00b' is not a path: it contains a NUL character" in result.stderr


def test_an_impossible_path_in_the_settings_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(r'{catalogue: "a\0b", log: {data_dir: "c\0d"}}')
    for command in ("check", "serve"):
        result = _run(command, "--config", file)
        assert result.exit_code == 2
        for place in ("catalogue", "log.data_dir"):
            assert f"Error: {file}: {place}: contains a NUL character\n" in result.stderr


def test_only_the_settings_file_decides_where_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "streams.yaml").write_text("streams: {a: {}}")
    file = folder / "settings.yaml"
    file.write_text("access: {producer_keys: keys.yaml}\nlog: {data_dir: kept}")
    monkeypatch.chdir(tmp_path)
    assert "etc/keys.yaml" in _run("check", "--config", "etc/settings.yaml").stderr
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    (folder / "keys.yaml").write_text(f"a: {{keys_sha256: [{digest}], streams: [a]}}")
    checked = _run("check", "--config", "etc/settings.yaml")
    assert checked.exit_code == 0, checked.stderr
    assert f"sqlite, in {folder}/kept\n" in checked.stdout
    assert f"sqlite, in {tmp_path}/data\n" in _run("check").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tail", "x", "-n", "abc"), "'abc' is not a valid whole number"),
        (("serve", "--demo-rate", "fast"), "'fast' is not a valid number"),
    ],
)
def test_numbers_are_called_numbers(arguments: tuple[str, ...], said: str) -> None:
    result = _run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("command", ["tail", "export", "relay"])
def test_canary_events_are_left_out_by_one_option(command: str) -> None:
    options = re.findall(r"--[a-z-]*canar[a-z]*", _run(command, "--help").stdout)
    assert options == ["--no-canary"]


def test_a_problem_with_a_relay_names_the_option() -> None:
    result = _run("serve", "--relay", "http://127.0.0.1:1/v2/stream/x")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: --relay: x is not in the catalogue")


@pytest.mark.parametrize(("flag", "other"), [("cert", "key"), ("key", "cert")])
def test_a_problem_with_a_certificate_names_the_option(flag: str, other: str) -> None:
    result = _run("serve", f"--tls-{flag}file", "x.pem")
    assert result.exit_code == 2
    assert result.stderr == f"Error: --tls-{flag}file: needs --tls-{other}file\n"


def test_an_invalid_date_is_reported_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("http:\n  homepage: 2024-13-45\n")
    result = _run("check", "--config", file)
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"Error: {file}:2:13: not YAML: the value is not a valid timestamp"
    )


def test_data_dir_is_refused_with_kafka() -> None:
    kafka = shipped_config().with_name("kafka.yaml")
    result = _run("serve", "--config", kafka, "--data-dir", "x")
    assert result.exit_code == 2
    assert "--data-dir has no effect: log.backend is kafka" in result.stderr


def test_the_changelog_names_this_version() -> None:
    import eventstreams  # noqa: PLC0415

    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    (newest, *_) = re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    assert newest == eventstreams.__version__
