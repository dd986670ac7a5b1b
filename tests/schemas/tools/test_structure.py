"""Missing, misplaced and wrong files are found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.schema_folders import (
    materialize,
    planned,
    problems,
    put,
    put_current,
    read,
    schema,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for version in ("1.0.0", "1.1.0"):
        put_current(tmp_path, schema(f"/a/b/{version}"))
        materialize(tmp_path)
    assert problems(tmp_path) == []
    return tmp_path


def _relink(base: Path, name: str, target: str) -> None:
    (base / "a" / "b" / name).unlink(missing_ok=True)
    (base / "a" / "b" / name).symlink_to(target)


def _change(base: Path, name: str, **keywords: object) -> None:
    put(base, f"a/b/{name}", {**read(base, f"a/b/{name}"), **keywords})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda b: os.unlink(b / "a/b/current.yaml"), "a/b/current.yaml: is missing"),
        (lambda b: _relink(b, "current", "current.yaml"), "a/b/current: should not exist"),
        (lambda b: os.unlink(b / "a/b/1.0.0.json"), "a/b/1.0.0.json: is missing"),
        (lambda b: os.unlink(b / "a/b/1.0.0"), "a/b/1.0.0: is missing; it should be a symlink"),
        (lambda b: _relink(b, "1.0.0", "1.1.0.yaml"), "a/b/1.0.0: leads to 1.1.0.yaml, not to"),
        (lambda b: _relink(b, "latest", "1.0.0.yaml"), "a/b/latest: leads to 1.0.0.yaml, not to"),
        (lambda b: os.unlink(b / "a/b/latest.json"), "a/b/latest.json: is missing"),
        (lambda b: _change(b, "1.0.0.json", description="x"), "a/b/1.0.0.yaml: is not the same"),
        (lambda b: _change(b, "1.1.0.yaml", description="x"), "a/b/1.1.0.yaml: is not what"),
        (lambda b: _change(b, "current.yaml", description="x"), "a/b/1.1.0.yaml: is not what"),
        (lambda b: _change(b, "current.yaml", title="x"), "a/b/current.yaml#/title: is 'x'"),
        (lambda b: put(b, "a/b/current.yaml", {"$id": "/a/b/1.1.0"}), "#/title: is missing"),
        (lambda b: put_current(b, schema("/a/b/1.2.0")), "version 1.2.0 is not materialized"),
        (lambda b: put_current(b, schema("/a/b/1.0.0")), "but 1.1.0 already exists"),
        (lambda b: put(b, "a/b/current.yaml", {"title": "a/b"}), "#/$id: is missing"),
        (lambda b: _change(b, "1.0.0.yaml", **{"$id": "/a/b/1.0.1"}), "the file's name says"),
        (lambda b: _change(b, "1.0.0.yaml", **{"$id": "/a/c/1.0.0"}), "the directory says /a/b/"),
        (lambda b: put(b, "a/b/1.0.0.yaml", "a: ["), "a/b/1.0.0.yaml:2:1: not YAML"),
        (lambda b: put(b, "a/b/1.0.0.json", "{"), "a/b/1.0.0.json:1:2: not JSON"),
    ],
)
def test_each_defect_is_reported_with_its_file(
    base: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(base)
    assert [line for line in problems(base) if said in line], problems(base)


def test_all_defects_are_reported_once(base: Path) -> None:
    put(base, "a/b/1.0.0.json", "{")
    os.unlink(base / "a/b/latest")
    put_current(base, schema("/c/1.0.0", properties={"x": {"$ref": "/none/1.0.0"}}))
    said = problems(base)
    assert len(said) == len(set(said)) == 3


keywords = st.sampled_from(
    ["$ref", "title", "$id", "$schema", "type", "required", "properties", "items", "allOf", "oneOf",
     "enum", "examples", "additionalProperties", "patternProperties", "dependencies", "minimum",
     "pattern", "format", "not", "definitions", "uniqueItems", "propertyNames", "default"]
)  # fmt: skip
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from(["string", "object", "array", "#/properties", "/a/1.0.0#", "", "a", "("]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keywords, inner, max_size=4),
    max_leaves=8,
)
drafts = st.sampled_from(["draft-04", "draft-07", "draft/2019-09", "draft/2020-12"]).map(
    "http://json-schema.org/{}/schema#".format
)


@given(st.dictionaries(keywords, anything, max_size=6), drafts, st.booleans())
def test_any_schema_yields_a_list_of_problems(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], draft: str, sound: bool
) -> None:
    base = tmp_path_factory.mktemp("schemas")
    whole = {"$schema": draft, **document, "title": "a", "$id": "/a/1.0.0"} if sound else document
    put(base, "a/current.yaml", whole)
    put(base, "a/1.0.0.yaml", whole)
    put(base, "a/1.1.0.json", {**whole, "$id": "/a/1.1.0"})
    for strict in (False, True):
        assert problems(base, strict=strict)
    assert planned(base, force=True).schemas == 1


def test_a_title_may_be_the_end_of_the_path(tmp_path: Path) -> None:
    put(tmp_path, "dev/a/current.yaml", {**schema("/a/1.0.0"), "title": "dev/a"})
    materialize(tmp_path)
    assert problems(tmp_path) == []
