"""Materializing current.yaml is complete, repeatable, and never changes a release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventstreams.errors import ConfigError
from eventstreams.schemas.tools.config import CONFIG_NAME
from eventstreams.schemas.tools.folder import open_folders
from tests.support.schema_folders import (
    materialize,
    planned,
    problems,
    put,
    put_current,
    read,
    schema,
    snapshot,
)

FRAGMENT = schema("/fragment/common/1.0.0", properties={"dt": {"type": "string"}}, required=["dt"])
EVENT: dict[str, Any] = schema(
    "/app/event/1.0.0",
    allOf=[{"$ref": "/fragment/common/1.0.0#"}, {"properties": {"count": {"type": "integer"}}}],
    examples=[{"$schema": {"$ref": "#/$id"}, "dt": "2026-01-01T00:00:00Z"}],
)


def _said(base: Path, **options: Any) -> list[str]:
    return [str(problem) for problem in planned(base, **options).problems]


def test_a_version_has_every_content_type_and_its_symlinks(tmp_path: Path) -> None:
    put_current(tmp_path, FRAGMENT, EVENT)
    written = materialize(tmp_path)
    assert written[:6] == [
        "app/event/1.0.0.yaml",
        "app/event/1.0.0.json",
        "app/event/latest.yaml -> 1.0.0.yaml",
        "app/event/latest.json -> 1.0.0.json",
        "app/event/latest -> 1.0.0.yaml",
        "app/event/1.0.0 -> 1.0.0.yaml",
    ]
    assert len(written) == 12
    document = read(tmp_path, "app/event/latest")
    assert document == read(tmp_path, "app/event/1.0.0.json")
    assert document["required"] == ["dt"]
    assert document["examples"][0]["$schema"] == "/app/event/1.0.0"
    assert document["properties"]["count"] == {
        "type": "integer",
        "minimum": -(2**53) + 1,
        "maximum": 2**53 - 1,
    }
    assert problems(tmp_path) == []


def test_materializing_again_writes_nothing(tmp_path: Path) -> None:
    put_current(tmp_path, FRAGMENT, EVENT)
    materialize(tmp_path)
    before = snapshot(tmp_path)
    assert materialize(tmp_path) == []
    assert materialize(tmp_path, force=True) == []
    assert snapshot(tmp_path) == before


def test_a_release_with_another_layout_is_kept(tmp_path: Path) -> None:
    put_current(tmp_path, FRAGMENT)
    materialize(tmp_path)
    document = read(tmp_path, "fragment/common/1.0.0.yaml")
    put(tmp_path, "fragment/common/1.0.0.yaml", dict(reversed(document.items())))
    assert materialize(tmp_path) == []


@pytest.mark.parametrize("content", [{"title": "other"}, "not: [yaml"])
def test_a_release_is_replaced_only_with_force(tmp_path: Path, content: object) -> None:
    put_current(tmp_path, FRAGMENT)
    materialize(tmp_path)
    good = snapshot(tmp_path)
    put(tmp_path, "fragment/common/1.0.0.yaml", content)
    changed = snapshot(tmp_path)
    [said] = _said(tmp_path)
    assert said.startswith("fragment/common/1.0.0.yaml: is released with different content")
    assert snapshot(tmp_path) == changed
    assert materialize(tmp_path, force=True) == ["fragment/common/1.0.0.yaml"]
    assert snapshot(tmp_path) == good


def test_latest_links_to_the_newest_version(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        put_current(tmp_path, schema(f"/a/{version}"))
        materialize(tmp_path)
    names = {p.name: str(p.readlink()) for p in tmp_path.rglob("*") if p.is_symlink()}
    assert names == {
        "1.9.0": "1.9.0.yaml",
        "1.10.0": "1.10.0.yaml",
        "1.2.0": "1.2.0.yaml",
        "latest": "1.10.0.yaml",
        "latest.yaml": "1.10.0.yaml",
        "latest.json": "1.10.0.json",
    }


def test_references_work_in_any_order_of_files(tmp_path: Path) -> None:
    names = ["z", "m", "a"]
    put_current(tmp_path, schema("/z/1.0.0", description="the end of the chain"))
    for name, other in zip(names[1:], names, strict=False):
        ref = {"$ref": f"/{other}/1.0.0"}
        put_current(tmp_path, schema(f"/{name}/1.0.0", properties={other: ref}))
    materialize(tmp_path)
    a = read(tmp_path, "a/1.0.0.yaml")
    assert a["properties"]["m"]["properties"]["z"]["description"] == "the end of the chain"


def test_older_versions_are_referenced_by_their_release(tmp_path: Path) -> None:
    put_current(tmp_path, schema("/f/1.0.0", description="old"))
    materialize(tmp_path)
    put_current(tmp_path, schema("/f/1.1.0", description="new"))
    put_current(tmp_path, schema("/e/1.0.0", properties={"f": {"$ref": "/f/1.0.0"}}))
    materialize(tmp_path)
    assert read(tmp_path, "e/1.0.0.yaml")["properties"]["f"]["description"] == "old"


def test_references_are_looked_up_in_further_folders(tmp_path: Path) -> None:
    primary, secondary = tmp_path / "primary", tmp_path / "secondary"
    put_current(primary, FRAGMENT)
    materialize(primary)
    put_current(secondary, EVENT)
    [said] = _said(secondary)
    assert "/fragment/common/1.0.0: the schema does not exist" in said
    materialize(secondary, bases=(primary,))
    assert read(secondary, "app/event/1.0.0.yaml")["required"] == ["dt"]
    assert not (secondary / "fragment").exists()


def test_circular_references_are_reported_as_a_chain(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        put_current(
            tmp_path, schema(f"/{name}/1.0.0", properties={"x": {"$ref": f"/{other}/1.0.0"}})
        )
    said = _said(tmp_path)
    assert any("circular references: a -> b -> c -> a" in line for line in said)
    assert all("/properties/x/$ref" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"$id": 1}, "a/current.yaml#/$id: is not a string; it should be /a/X.Y.Z"),
        ({"$id": "/a/1"}, "a/current.yaml#/$id: the schema URI does not end in a full version"),
        ({"$id": "/b/1.0.0"}, "a/current.yaml#/$id: is /b/1.0.0, but the directory says /a/"),
        ({"$id": "http://x/a/1.0.0"}, "a/current.yaml#/$id: the schema URI is absolute"),
        ({"type": "strnig"}, 'a/current.yaml#/type: "strnig" is not valid'),
        ({"properties": {"x": {"pattern": "("}}}, "a/current.yaml#/properties/x/pattern: "),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "a/current.yaml#/$schema: "),
        ({"allOf": [{"type": "null"}]}, "a/current.yaml#/type: allOf combines types"),
    ],
)
def test_problems_are_reported_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    put(tmp_path, "a/current.yaml", {**schema("/a/1.0.0"), **changes})
    put_current(tmp_path, schema("/ok/1.0.0"))
    [problem] = _said(tmp_path)
    assert problem.startswith(said)


def test_all_invalid_files_are_reported(tmp_path: Path) -> None:
    put(tmp_path, "a/current.yaml", "a: [")
    put(tmp_path, "b/current.yaml", "title: b")
    put(tmp_path, "c/1.0.0.yaml", schema("/c/1.0.0"))
    assert _said(tmp_path) == [
        "a/current.yaml:2:1: not YAML: did not find expected node content",
        "b/current.yaml#/$id: is missing; it should be /b/X.Y.Z",
        "c: there is no current.yaml",
    ]


def test_a_file_is_not_replaced_by_a_symlink(tmp_path: Path) -> None:
    put_current(tmp_path, schema("/a/1.0.0"))
    put(tmp_path, "a/latest", "mine")
    assert _said(tmp_path, force=True) == ["a/latest: is in the way of a symlink"]


def test_a_symlink_is_not_followed_when_writing(tmp_path: Path) -> None:
    put_current(tmp_path, schema("/a/1.0.0"))
    (tmp_path / "a" / "1.0.0.yaml").symlink_to(tmp_path / "elsewhere")
    assert _said(tmp_path, force=True) == ["a/1.0.0.yaml: is not a plain file"]


def test_the_configuration_determines_the_output(tmp_path: Path) -> None:
    put(tmp_path, CONFIG_NAME, {
        "schemaBasePath": "./jsonschema/",
        "contentTypes": ["json"],
        "shouldSymlinkLatest": False,
        "enforcedNumericBounds": [0, 100],
        "ignoreSchemas": ["^/old/"],
    })  # fmt: skip
    put_current(tmp_path / "jsonschema", schema("/a/1.0.0", properties={"n": {"type": "number"}}))
    put_current(tmp_path / "jsonschema", schema("/old/1.0.0", type="nonsense"))
    assert materialize(tmp_path) == ["a/1.0.0.json", "a/1.0.0 -> 1.0.0.json"]
    document = read(tmp_path, "jsonschema/a/1.0.0.json")
    assert document["properties"]["n"] == {"type": "number", "minimum": 0, "maximum": 100}
    assert problems(tmp_path) == []


def test_generated_examples_of_other_tools_are_kept(tmp_path: Path) -> None:
    put(tmp_path, CONFIG_NAME, {"shouldGenerateExample": True})
    put_current(
        tmp_path, schema("/a/1.0.0"), schema("/b/1.0.0", properties={"a": {"$ref": "/a/1.0.0"}})
    )
    materialize(tmp_path)
    for kind in ("yaml", "json"):
        document = read(tmp_path, f"a/1.0.0.{kind}")
        put(tmp_path, f"a/1.0.0.{kind}", {**document, "examples": [{"$schema": "/a/1.0.0"}]})
    assert all(write.startswith("b/") for write in map(str, planned(tmp_path, force=True).writes))
    assert not [said for said in _said(tmp_path) if said.startswith("a/")]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("schemaBaseUris: ['https://example.org/']", "is remote; name a local copy with --base"),
        ("schemaBasePath: nowhere", "nowhere: the folder does not exist"),
        ("contentTypes: []", "must list yaml, json or both"),
        ("contentTypes: [xml]", "contentTypes[0]: 'xml' is not one of: yaml, json"),
        ("currentName: newest", "currentName"),
        ("shouldDereference: false", "shouldDereference"),
        ("skipSchemaTestCases: {'(': [x]}", "'(' is not a regular expression"),
        ("unknownKey: 1", "unknownKey"),
        ("[", "not YAML"),
    ],
)
def test_a_bad_configuration_is_refused(tmp_path: Path, config: str, said: str) -> None:
    put(tmp_path, CONFIG_NAME, config)
    with pytest.raises(ConfigError) as raised:
        open_folders(tmp_path)
    assert said in str(raised.value)


def test_hidden_folders_and_other_files_are_ignored(tmp_path: Path) -> None:
    put(tmp_path, ".git/a/current.yaml", "[")
    put(tmp_path, "a/README.md", "[")
    put(tmp_path, "a/1.0.yaml", "[")
    assert open_folders(tmp_path)[0].titles == {}
