"""The shipped schemas are valid, materialized, and accept real events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eventstreams.cli.config import read_config, shipped_config
from eventstreams.demo.recent_changes import RecentChanges, page_created
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.validation import Validators, errors_text
from tests.support.schema_folders import planned, problems

SCHEMAS = shipped_config().with_name("schemas")
REAL = Path(__file__).parents[3] / "shared" / "data" / "recentchange-2023-07-29.ndjson"
RECENT_CHANGE = "/mediawiki/recentchange/1.0.0"


@pytest.fixture(scope="module")
def validators() -> Validators:
    return Validators(SchemaRepository([SCHEMAS]))


def test_shipped_schemas_are_materialized_and_valid() -> None:
    made = planned(SCHEMAS)
    assert (made.writes, made.problems) == ([], [])
    assert problems(SCHEMAS, strict=True) == []


def test_every_version_has_an_example_that_is_valid(validators: Validators) -> None:
    files = sorted(SCHEMAS.rglob("[0-9]*.json"))
    assert len(files) >= 6
    for file in files:
        document = json.loads(file.read_text())
        assert document["examples"], file
        validator = validators.get(document["$id"])
        for example in document["examples"]:
            assert errors_text(validator.validate(example)) == ""


def test_every_stream_of_the_catalogue_has_a_schema() -> None:
    _, catalogue = read_config(None)
    for stream in catalogue.streams.values():
        assert (SCHEMAS / str(stream.schema_title) / "latest").is_file(), stream.name


def test_synthetic_events_are_valid(validators: Validators) -> None:
    changes = RecentChanges(stream="mediawiki.recentchange", seed=1)
    kinds: set[str] = set()
    for n in range(500):
        event = changes.event(1_769_860_800_000 + n)
        kinds.add(event["type"])
        assert errors_text(validators.get(event["$schema"]).validate(event)) == ""
        if event["type"] == "new":
            created = page_created(event, stream="mediawiki.page-create")
            assert errors_text(validators.get(created["$schema"]).validate(created)) == ""
    assert kinds == {"edit", "new", "categorize", "log"}


@pytest.mark.shared
def test_real_events_are_valid(validators: Validators) -> None:
    if not REAL.exists():
        pytest.skip(f"the real events are not at {REAL}")
    lines = REAL.read_text("utf-8").splitlines()
    assert len(lines) > 50
    for line in lines:
        event = json.loads(line)
        assert errors_text(validators.get(event["$schema"]).validate(event)) == ""


@pytest.mark.parametrize(
    ("uri", "change", "text"),
    [
        (RECENT_CHANGE, {"timestamp": "now"}, "'.timestamp' should be integer"),
        (RECENT_CHANGE, {"meta": {}}, "'.meta' should have required property 'dt', "
                                      "'.meta' should have required property 'stream'"),
        ("/error/2.1.0", {"message": None}, "'.message' should be string"),
        ("/error/2.1.0", {"other": 1}, "'' should NOT have additional properties"),
        ("/test/event/1.0.0", {"test_map": {"a": 1}}, "'.test_map['a']' should be string"),
        ("/mediawiki/revision/create/2.0.0", {"page_id": -1}, "'.page_id' should be >= 0"),
    ],
)  # fmt: skip
def test_wrong_events_are_invalid(
    validators: Validators, uri: str, change: dict[str, Any], text: str
) -> None:
    document = SchemaRepository([SCHEMAS]).get(uri).document
    event = {**document["examples"][0], **change}
    assert errors_text(validators.get(uri).validate(event)) == text
