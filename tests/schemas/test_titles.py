"""`eventstreams check` finds streams that cannot accept events, and incomplete schemas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eventstreams.cli import main
from eventstreams.schemas.fields import meta_advice
from tests.support.schema_folders import materialize, put, put_current, schema

TEXT = {"type": "string"}
META = {"type": "object", "properties": {"stream": TEXT, "id": TEXT, "dt": TEXT}}


def _check(folder: Path, title: object, *, only: str | None = None, key: str = "a.b") -> Result:
    """Check a stream with this schema_title, and the schemas test/event and other/thing."""
    for name in ("test/event", "other/thing"):
        put(
            folder,
            f"schemas/{name}/1.0.0.yaml",
            schema(f"/{name}/1.0.0", properties={"meta": META}),
        )
    part = {} if only is None else {"only": only}
    settings = {"schemas": ["schemas"], "intake": {"error_stream": None}, **part}
    put(folder, "settings.yaml", {**settings, "demo": {"stream": None}})
    streams = {"plain": {}, key: {"schema_title": title}}
    put(folder, "streams.yaml", json.dumps({"streams": streams}))
    return CliRunner().invoke(main, ["check", "--config", str(folder / "settings.yaml")])


@pytest.mark.parametrize("key", ["a.b", "/^a\\..+/"])
@pytest.mark.parametrize(
    ("title", "meant"),
    [
        ("/test/event", "test/event"),
        ("test/event/", "test/event"),
        ("test/event/1.0.0", "test/event"),
        ("/test/event/latest", "test/event"),
        ("test/evnet", "test/event"),
        ("Test/Event", "test/event"),
        ("other/thin", "other/thing"),
    ],
)
def test_an_unknown_title_is_an_error_with_the_nearest_one(
    tmp_path: Path, title: str, meant: str, key: str
) -> None:
    result = _check(tmp_path, title, key=key)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert f": streams.{key}.schema_title: no schema has the title {title!r}" in line
    assert f"did you mean {meant!r}?" in line


def test_without_a_near_title_none_is_suggested(tmp_path: Path) -> None:
    result = _check(tmp_path, "zzz")
    assert result.exit_code == 2
    assert "did you mean" not in result.stderr


def test_a_title_with_a_schema_is_valid(tmp_path: Path) -> None:
    assert (_check(tmp_path, "test/event").exit_code, _check(tmp_path, None).exit_code) == (0, 0)


def test_a_gateway_alone_needs_no_schemas(tmp_path: Path) -> None:
    assert _check(tmp_path, "test/evnet", only="gateway").exit_code == 0


def test_a_schema_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "schemas/odd/1.0.0.yaml", schema("/odd/1.0.0", format="nonsense"))
    result = _check(tmp_path, "odd")
    assert result.exit_code == 2
    assert "its newest schema cannot be used: /odd/1.0.0#/format: " in result.stderr


def test_a_schema_with_another_title_than_its_directory_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "schemas/odd/1.0.0.yaml", schema("/odd/1.0.0", title="even"))
    result = _check(tmp_path, "odd")
    assert result.exit_code == 2
    assert "/odd/1.0.0 has the title 'even'" in result.stderr


LINES = """\
  meta:
    type: object
    properties:
      id: {type: string}
      dt: {type: string, format: date-time, maxLength: 128}
"""


def test_a_schema_without_meta_fields_gets_a_warning_with_the_lines_to_add(tmp_path: Path) -> None:
    bare = schema("/bare/1.0.0", properties={"meta": {"properties": {"stream": TEXT}}})
    put(tmp_path, "schemas/bare/1.0.0.yaml", bare)
    result = _check(tmp_path, "bare")
    assert result.exit_code == 0
    assert "Warning: " in result.stderr
    assert "streams.a.b: /bare/1.0.0: does not declare meta.id, meta.dt; " in result.stderr
    assert result.stderr.endswith(LINES)


def test_schemas_check_warns_of_events_without_meta_but_not_of_fragments(tmp_path: Path) -> None:
    put_current(tmp_path, schema("/bare/1.0.0"), schema("/fragment/bare/1.0.0"))
    put_current(tmp_path, schema("/full/1.0.0", properties={"meta": META}))
    materialize(tmp_path)
    result = CliRunner().invoke(main, ["schemas", "check", str(tmp_path)])
    assert result.exit_code == 0
    warned = [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]
    assert len(warned) == 1
    assert "bare/1.0.0.yaml: does not declare meta.stream, meta.id, meta.dt; " in warned[0]


def test_fields_are_found_through_all_of() -> None:
    whole = {"properties": {"meta": META}}
    assert meta_advice(whole) is None
    assert meta_advice({"allOf": [{"properties": {"meta": {}}}, whole]}) is None
    assert meta_advice({"properties": {"meta": {"allOf": [META]}}}) is None
    assert meta_advice({"anyOf": [whole]}) is not None
