"""Converted schemas of draft 3 have the same meaning, or the conversion reports a difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft3Validator

from eventstreams.cli import main
from eventstreams.cli.config import shipped_config
from eventstreams.errors import SchemaError
from eventstreams.legacy.draft3 import convert
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.validation import Validator, Validators
from tests.support.schema_folders import materialize, problems

SCHEMAS = shipped_config().with_name("schemas")
CAPSULE_URI = "/fragment/analytics/legacy/eventcapsule/1.0.0"

EDIT: dict[str, Any] = {
    "title": "Edit",
    "description": "Logs edits",
    "properties": {
        "action": {"type": "string", "required": True, "enum": ["init", "save"]},
        "articleId": {"type": "integer", "required": True, "minimum": 0},
        "when": {"type": "string", "format": "date-time"},
        "editor": {
            "type": "object",
            "properties": {"name": {"type": "string", "required": True, "maxLength": 99}},
        },
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}

NAMES = st.sampled_from(["a", "b", "c"])
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "array", "object", "null"])
SMALL = st.integers(0, 3)
LEAVES = st.none() | st.booleans() | st.integers(-2, 6) | st.sampled_from(["", "x", "xy", "xyz"])
INSTANCES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def _with_some(keywords: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keywords)


def _bounds(low: str) -> st.SearchStrategy[dict[str, Any]]:
    exclusive = f"exclusive{low.capitalize()}"
    return st.one_of(
        st.just({}),
        st.fixed_dictionaries({low: SMALL}, optional={exclusive: st.booleans()}),
    )


def _schemas(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    union = st.lists(TYPES | inner, min_size=1, max_size=3)
    keywords = _with_some(
        {
            "type": TYPES | st.just("any") | union,
            "disallow": TYPES | union,
            "extends": inner | st.lists(inner, min_size=1, max_size=2),
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, max_size=2),
            "additionalProperties": st.booleans() | inner,
            "items": inner | st.lists(inner, min_size=1, max_size=2),
            "additionalItems": st.booleans() | inner,
            "dependencies": st.dictionaries(
                NAMES, NAMES | st.lists(NAMES, unique=True, max_size=2) | inner, max_size=2
            ),
            "required": st.booleans(),
            "enum": st.lists(st.sampled_from(["x", "xy", 1, 2, None]), min_size=1, unique=True),
            "divisibleBy": st.integers(1, 3),
            "minLength": SMALL,
            "maxLength": SMALL,
            "minItems": SMALL,
            "maxItems": SMALL,
        }
    )
    return st.builds(
        lambda *parts: {key: value for part in parts for key, value in part.items()},
        keywords,
        _bounds("minimum"),
        _bounds("maximum"),
    )


DRAFT_3 = st.recursive(
    _with_some({"type": TYPES, "required": st.booleans()}), _schemas, max_leaves=5
)


def event_schema(document: dict[str, Any]) -> dict[str, Any]:
    converted = convert(
        document, name="Edit", version="1.0.0", capsule_uri=CAPSULE_URI, place="edit.json"
    )
    event: dict[str, Any] = converted.document["allOf"][1]["properties"]["event"]
    return event


def notes_of(document: dict[str, Any]) -> list[str]:
    converted = convert(
        document, name="Edit", version="1.0.0", capsule_uri=CAPSULE_URI, place="edit.json"
    )
    return [str(note) for note in converted.notes]


@given(st.dictionaries(NAMES, DRAFT_3, max_size=3), st.dictionaries(NAMES, INSTANCES, max_size=3))
def test_converted_schemas_accept_the_same_values(
    properties: dict[str, Any], instance: dict[str, Any]
) -> None:
    """Compare with an implementation of draft 3, with schemas that allow no other properties."""
    document = {"type": "object", "properties": properties, "additionalProperties": False}
    expected = Draft3Validator(document).is_valid(instance)
    validator = Validator(event_schema(document), "edit.json")
    assert validator.accepts(instance) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"type": "any"}, {}),
        ({"type": ["string", "null", "string"]}, {"type": ["string", "null"]}),
        (
            {"type": ["string", {"type": "integer", "maximum": 3}]},
            {"allOf": [{"anyOf": [{"type": "string"}, {"type": "integer", "maximum": 3}]}]},
        ),
        ({"minimum": 3, "exclusiveMinimum": True}, {"exclusiveMinimum": 3}),
        ({"exclusiveMaximum": True, "maximum": 3}, {"exclusiveMaximum": 3}),
        ({"maximum": 3, "exclusiveMaximum": False}, {"maximum": 3}),
        ({"divisibleBy": 0.5}, {"multipleOf": 0.5}),
        (
            {"disallow": ["string", "null"]},
            {"not": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        ),
        (
            {"type": ["null", {"type": "string"}], "extends": [{"minLength": 1}, {"maxLength": 2}]},
            {
                "allOf": [
                    {"anyOf": [{"type": "null"}, {"type": "string"}]},
                    {"minLength": 1},
                    {"maxLength": 2},
                ]
            },
        ),
        ({"extends": {"minLength": 1}}, {"allOf": [{"minLength": 1}]}),
        ({"dependencies": {"a": "b", "c": ["d"]}}, {"dependencies": {"a": ["b"], "c": ["d"]}}),
        ({"format": "ip-address", "maxLength": 9}, {"format": "ipv4", "maxLength": 9}),
        ({"format": "host-name", "maxLength": 9}, {"format": "hostname", "maxLength": 9}),
        ({"id": "x", "$schema": "http://json-schema.org/draft-03/schema#"}, {}),
        (
            {"patternProperties": {"^a": {"type": "string"}}},
            {
                "patternProperties": {"^a": {"type": "string"}},
                "propertyNames": {"maxLength": 8192},
            },
        ),
        (
            {"properties": {"a": {"required": True}, "b": {"required": False}, "c": {}}},
            {"properties": {"a": {}, "b": {}, "c": {}}, "required": ["a"]},
        ),
    ],
)
def test_each_keyword_is_converted_to_draft_7(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert event_schema({"properties": {"field": old}})["properties"]["field"] == new


def test_every_change_that_the_conversion_makes_is_noted() -> None:
    document = {
        "properties": {
            "ms": {"type": "number", "format": "utc-millisec"},
            "text": {"type": "string", "pattern": "^x"},
            "odd": {"type": "string", "identity": True},
            "any": {"type": "any"},
            "new": {"type": "timestamp"},
            "either": {"type": ["string", "null"]},
            "set": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
            "pair": {"type": "array", "items": [{"type": "string"}]},
        }
    }
    at = "edit.json#/properties"
    assert notes_of(document) == [
        f"{at}/ms/format: 'utc-millisec' is left out, because draft 7 does not have this format",
        f"{at}/text: got maxLength 8192",
        f"{at}/odd/identity: is left out, because draft 7 does not have this keyword",
        f"{at}/any/type: any type is allowed, which `schemas check` refuses",
        f"{at}/new/type: 'timestamp' is not a type, so any type is allowed, which `schemas check` "
        "refuses",
        f"{at}/either/type: stays a union of types, which `schemas check` refuses",
        f"{at}/set: got maxItems 8192",
        f"{at}/pair/items: stays a list of schemas, which `schemas check` refuses",
    ]


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"properties": {"a": {"$ref": "#"}}}, "#/properties/a/$ref: refers to another schema"),
        ({"properties": []}, "#/properties: is not an object"),
        ({"properties": {"a": 1}}, "#/properties/a: is not a schema"),
        ({"properties": {"a": {"required": ["b"]}}}, "#/properties/a/required: is neither true"),
        ({"properties": {"a": {"type": 7}}}, "#/properties/a/type: is neither the name"),
        ({"properties": {"a": {"divisibleBy": 0}}}, "/divisibleBy: is not a number above 0"),
        ({"properties": {"a": {"minLength": -1}}}, "#/properties/a/minLength"),
        ({"type": "array"}, "#/type: is not object"),
        ({"disallow": "any"}, "#/disallow: disallows everything"),
    ],
)
def test_unconvertible_schemas_are_refused_with_the_place(
    document: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SchemaError) as raised:
        event_schema(document)
    assert problem in str(raised.value)


def test_additional_fields_are_refused_by_default() -> None:
    assert event_schema(EDIT)["additionalProperties"] is False
    assert event_schema({**EDIT, "additionalProperties": True})["additionalProperties"] is True


# The command.


def _convert(*arguments: object, given: bytes | None = None) -> Result:
    command = ["eventlogging", "convert-schema", *map(str, arguments)]
    return CliRunner().invoke(main, command, input=given)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with the shipped fragments and settings."""
    base = tmp_path / "schemas"
    shutil.copytree(SCHEMAS, base, symlinks=True)
    shutil.rmtree(base / "analytics")
    return base


@pytest.mark.parametrize("indent", [None, "\t"])
def test_a_wiki_page_becomes_a_schema_that_can_be_materialized(
    tmp_path: Path, folder: Path, indent: str | None
) -> None:
    page = tmp_path / "edit.json"
    page.write_text("\ufeff" + json.dumps(EDIT, indent=indent))
    result = _convert("Edit", page, folder)
    assert result.exit_code == 0, result.output
    target = folder / "analytics/legacy/edit/current.yaml"
    assert result.stdout == f"wrote {target}\n"
    assert f"Note: {page}#/properties/when: got maxLength" in result.stderr
    made = materialize(folder)
    assert "analytics/legacy/edit/1.0.0.yaml" in made
    assert problems(folder, strict=True) == []
    validator = Validators(SchemaRepository([folder])).get("/analytics/legacy/edit/1.0.0")
    event = json.loads((folder / "analytics/legacy/edit/1.0.0.json").read_text())["examples"][0]
    assert validator.accepts(event)
    assert event["meta"]["stream"] == "eventlogging_Edit"
    assert not validator.accepts({**event, "event": {"action": "init"}})


def test_standard_input_is_converted_and_a_dry_run_only_prints(folder: Path) -> None:
    result = _convert("Edit", "-", folder, "--dry-run", given=json.dumps(EDIT).encode())
    assert result.exit_code == 0
    assert result.stdout.startswith("title: analytics/legacy/edit\n")
    assert not (folder / "analytics").exists()


def test_an_existing_schema_is_replaced_only_with_force(tmp_path: Path, folder: Path) -> None:
    page = tmp_path / "edit.json"
    page.write_text(json.dumps(EDIT))
    assert _convert("Edit", page, folder).exit_code == 0
    again = _convert("Edit", page, folder, "--version", "1.1.0")
    assert again.exit_code == 2
    assert "already exists; use --force to replace it" in again.stderr
    assert _convert("Edit", page, folder, "--version", "1.1.0", "--force").exit_code == 0
    written = (folder / "analytics/legacy/edit/current.yaml").read_text()
    assert "$id: /analytics/legacy/edit/1.1.0" in written


@pytest.mark.parametrize(
    ("arguments", "text", "message"),
    [
        (("a/b",), "{}", "NAME: 'a/b' is not a schema name"),
        (("Edit", "--version", "1"), "{}", "--version: '1' is not a version such as 1.0.0"),
        (("Edit",), "{", "not JSON"),
        (("Edit",), '{"properties": {"a": {"$ref": "#"}}}', "refers to another schema"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    tmp_path: Path, folder: Path, arguments: tuple[str, ...], text: str, message: str
) -> None:
    page = tmp_path / "edit.json"
    page.write_text(text)
    name, *options = arguments
    result = _convert(name, page, folder, *options)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert not (folder / "analytics").exists()


def test_a_folder_without_the_capsule_schema_needs_a_base(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    page = tmp_path / "edit.json"
    page.write_text(json.dumps(EDIT))
    result = _convert("Edit", page, empty)
    assert result.exit_code == 2
    assert "has no fragment/analytics/legacy/eventcapsule" in result.stderr
    assert _convert("Edit", page, empty, "--base", SCHEMAS).exit_code == 0
