"""`eventstreams schemas`: its output, files and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eventstreams.cli import main
from tests.support.schema_folders import materialize, put, put_current, schema, snapshot

COMMANDS = ("materialize", "check", "diff")


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["schemas", *map(str, arguments)])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    result = _run(command, "--help")
    assert result.exit_code == 0
    assert f"eventstreams schemas {command}" in result.stdout
    assert command in _run("--help").stdout


def test_schemas_is_a_command() -> None:
    assert "schemas" in CliRunner().invoke(main, ["--help"]).stdout


@pytest.mark.parametrize("arguments", [("--nope", "."), (), ("nowhere",)])
@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_usage_is_exit_code_2(command: str, arguments: tuple[str, ...]) -> None:
    title = ("a",) if command == "diff" and arguments == ("nowhere",) else ()
    result = _run(command, *arguments, *title)
    assert result.exit_code == 2
    assert "Error: " in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_configuration_is_exit_code_2(tmp_path: Path, command: str) -> None:
    put(tmp_path, ".jsonschema-tools.yaml", "contentTypes: [xml]")
    result = _run(command, tmp_path, *(["a"] if command == "diff" else []))
    assert result.exit_code == 2
    assert "contentTypes" in result.stderr


def test_materialize_is_idempotent_and_lists_files(tmp_path: Path) -> None:
    put_current(tmp_path, schema("/a/1.0.0"))
    before = snapshot(tmp_path)
    would = _run("materialize", tmp_path, "--dry-run").stdout.splitlines()
    assert snapshot(tmp_path) == before
    wrote = _run("materialize", tmp_path).stdout.splitlines()
    assert wrote[0] == "wrote a/1.0.0.yaml"
    assert "wrote a/latest -> 1.0.0.yaml" in wrote
    assert [line.replace("would write", "wrote") for line in would] == wrote
    assert _run("materialize", tmp_path).stdout == "nothing to write: 1 schema, all materialized\n"


def test_materialize_changes_a_release_only_with_force(tmp_path: Path) -> None:
    put_current(tmp_path, schema("/a/1.0.0"))
    materialize(tmp_path)
    put_current(tmp_path, schema("/a/1.0.0", description="changed"), schema("/b/1.0.0"))
    before = snapshot(tmp_path)
    result = _run("materialize", tmp_path)
    assert result.exit_code == 1
    assert "a/1.0.0.yaml: is released with different content" in result.stderr
    assert snapshot(tmp_path) == before, "not even the valid files"
    assert _run("materialize", tmp_path, "--force").exit_code == 0
    assert _run("check", tmp_path).exit_code == 0


def test_an_unwritable_file_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_current(tmp_path, schema("/a/1.0.0"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    result = _run("materialize", tmp_path)
    assert result.exit_code == 1
    assert "Error: a/1.0.0.yaml: cannot be written: No space left on device" in result.stderr
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["current.yaml"]


def test_check_reports_all_problems_and_exits_1(tmp_path: Path) -> None:
    put_current(tmp_path, schema("/a/1.0.0", properties={"aB": {"type": "string"}}))
    materialize(tmp_path)
    put(tmp_path, "b/current.yaml", "a: [")
    result = _run("check", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-4:] == [
        "a/1.0.0.yaml#/properties/aB: is not in snake_case [schema-snake-case-properties]",
        "a/current.yaml#/properties/aB: is not in snake_case [schema-snake-case-properties]",
        "b/current.yaml:2:1: not YAML: did not find expected node content",
        "Error: 3 problems",
    ]


def test_check_can_be_strict(tmp_path: Path) -> None:
    for version, required in (("1.0.0", []), ("1.1.0", ["name"])):
        put_current(
            tmp_path, schema(f"/a/{version}", **({"required": required} if required else {}))
        )
        materialize(tmp_path)
    assert _run("check", tmp_path).stdout == "1 schema, no problems\n"
    strict = _run("check", tmp_path, "--strict")
    assert strict.exit_code == 1
    assert "a/1.1.0#/required: was added since 1.0.0" in strict.stderr


def test_references_may_name_another_folder(tmp_path: Path) -> None:
    put_current(tmp_path / "1", schema("/f/1.0.0"))
    materialize(tmp_path / "1")
    put_current(tmp_path / "2", schema("/a/1.0.0", allOf=[{"$ref": "/f/1.0.0"}]))
    assert _run("materialize", tmp_path / "2").exit_code == 1
    assert _run("materialize", tmp_path / "2", "--base", tmp_path / "1").exit_code == 0
    assert _run("check", tmp_path / "2", "--base", tmp_path / "1").exit_code == 0
    assert "the same schema" in _run("diff", tmp_path / "2", "a", "--base", tmp_path / "1").stdout


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    for version, field in (("1.0.0", "string"), ("1.0.1", "integer"), ("2.0.0", "null")):
        put_current(tmp_path, schema(f"/a/b/{version}", properties={"x": {"type": field}}))
        materialize(tmp_path)
    return tmp_path


def test_diff_shows_changes_and_their_compatibility(versions: Path) -> None:
    assert _run("diff", versions, "a/b", "1.0.0", "1.0.1").stdout.splitlines() == [
        "a/b/1.0.0 -> a/b/1.0.1",
        '  ~ /$id  "/a/b/1.0.0" -> "/a/b/1.0.1"',
        '  ~ /properties/x/type  "string" -> "integer"',
        "  + /properties/x/maximum  9007199254740991",
        "  + /properties/x/minimum  -9007199254740991",
        "compatible: no",
        "  /properties/x/type was changed",
        "strictly: no",
        "  /properties/x/type was changed",
        "  /properties/x/maximum was added",
        "  /properties/x/minimum was added",
    ]


def test_diff_compares_current_with_the_latest(versions: Path) -> None:
    assert _run("diff", versions, "/a/b/").stdout.splitlines() == [
        "a/b/2.0.0 (latest) -> a/b/2.0.0 (current)",
        "the same schema",
    ]
    put_current(versions, schema("/a/b/2.1.0", properties={"x": {"type": "null"}, "y": {}}))
    assert _run("diff", versions, "a/b").stdout.splitlines()[-3:] == [
        "  + /properties/y  {}",
        "compatible: yes",
        "strictly: yes",
    ]


def test_diff_ignores_compatibility_of_major_versions(versions: Path) -> None:
    last = _run("diff", versions, "a/b", "1.0.1", "2.0.0").stdout.splitlines()[-1]
    assert last == "a different major version, which need not be compatible"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nope",), "nope: the schema does not exist"),
        (("a/b", "7.0.0"), "a/b: there is no version 7.0.0; there are: 1.0.0, 1.0.1, 2.0.0"),
        (("a/b", "newest"), "a/b: there is no version newest"),
        (("a/b", "1.0.0", "../../x"), "a/b: there is no version ../../x"),
    ],
)
def test_diff_of_a_missing_schema_is_exit_code_1(
    versions: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = _run("diff", versions, *arguments)
    assert result.exit_code == 1
    assert f"Error: {said}" in result.stderr
