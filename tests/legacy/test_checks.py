"""Listed EventLogging schemas need a suitable stream and schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from eventstreams.config.catalogue import load_catalogue
from eventstreams.config.settings import LegacySettings, Settings
from eventstreams.legacy.checks import schema_problems, stream_problems
from eventstreams.model.stream_config import StreamConfigs
from eventstreams.problems import problems_between
from eventstreams.schemas.repository import SchemaRepository
from tests.support.legacy_schemas import LEGACY_STREAMS, LISTED, TEST, write_legacy_schemas
from tests.support.schema_folders import put, schema

RIGHT: dict[str, Any] = {"schema_title": "analytics/legacy/test", "topics": [TEST]}
WHERE = "legacy.schemas.Test"


def test_matching_settings_have_no_problems(tmp_path: Path) -> None:
    write_legacy_schemas(tmp_path)
    repository = SchemaRepository([tmp_path / "schemas"])
    assert list(stream_problems({"Test": "1.2.0"}, StreamConfigs({TEST: RIGHT}))) == []
    assert list(schema_problems(LISTED.schemas, repository)) == []


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (None, f"{WHERE}: its stream {TEST} is not in the catalogue"),
        (
            {"schema_title": "test/event", "topics": [TEST]},
            f"{WHERE}: schema_title of its stream {TEST} must be analytics/legacy/test, "
            "but is test/event",
        ),
        (
            {"topics": [TEST]},
            f"{WHERE}: schema_title of its stream {TEST} must be analytics/legacy/test, "
            "but is missing",
        ),
        (
            {**RIGHT, "topics": [f"eqiad.{TEST}"]},
            f"{WHERE}: the topic of its stream must be {TEST}, without a prefix, "
            f"but is eqiad.{TEST}",
        ),
    ],
)
def test_an_unsuitable_stream_is_a_problem(stream: dict[str, Any] | None, problem: str) -> None:
    declared = {} if stream is None else {TEST: stream}
    assert list(stream_problems({"Test": "1.0.0"}, StreamConfigs(declared))) == [problem]


def test_a_schema_that_no_event_can_match_is_a_problem(tmp_path: Path) -> None:
    uri = "/analytics/legacy/test/1.0.0"
    properties = {"$schema": {}, "meta": {}, "event": {}, "dt": {}, "schema": {}}
    document = schema(uri, properties=properties, additionalProperties=False)
    put(tmp_path, f"{uri[1:]}.json", document)
    [problem] = schema_problems({"Test": "1.0.0"}, SchemaRepository([tmp_path]))
    assert problem.startswith(f"{WHERE}: {uri} allows no field that it does not declare")
    assert "declare client_dt, recvFrom, uuid, " in problem


def test_a_missing_or_invalid_schema_is_a_problem(tmp_path: Path) -> None:
    broken = put(tmp_path, "analytics/legacy/test/1.0.0.json", "{")
    repository = SchemaRepository([tmp_path])
    [problem] = schema_problems({"Test": "1.0.0"}, repository)
    assert problem.startswith(f"{WHERE}: /analytics/legacy/test/1.0.0 cannot be used: ")
    broken.unlink()
    [problem] = schema_problems({"Test": "1.0.1"}, repository)
    assert problem == f"{WHERE}: there is no schema /analytics/legacy/test/1.0.1"


@pytest.mark.parametrize(("only", "count"), [(None, 1), ("intake", 1), ("gateway", 0)])
def test_a_missing_legacy_stream_is_refused(tmp_path: Path, only: Any, count: int) -> None:
    """A gateway without an intake has no beacon and no such check."""
    streams = {name: each for name, each in LEGACY_STREAMS.items() if name != TEST}
    file = tmp_path / "streams.yaml"
    file.write_text(yaml.safe_dump({"streams": streams}))
    settings = Settings(only=only, legacy=LegacySettings(schemas={"Test": "1.2.0"}))
    found = [each for each in problems_between(settings, load_catalogue(file)) if "legacy" in each]
    assert len(found) == count
