"""Verdicts on schemas and pairs of versions equal the defaults of jsonschema-tools 1.3.0; each
difference is a documented row.

verdicts/jsonschema_tools.mjs writes the corpus.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from eventstreams.schemas.tools.compatibility import incompatibilities
from eventstreams.schemas.tools.config import RepositoryConfig
from eventstreams.schemas.tools.robustness import robustness_problems

CORPUS = Path(__file__).parents[1] / "verdicts" / "jsonschema_tools.ndjson"
DOCS = Path(__file__).parents[3] / "docs" / "compatibility.md"

DRAFT = "A schema of draft 4 is checked as one of draft 7"
UNUSABLE = "A pattern with look-around or an unknown format passes where there is no example"
CRASH = "A `oneOf` whose objects have no `required` ends the check with an exception"
NULL = "A `null` that stays `null` ends the comparison with an exception"
EMPTY = "An empty object that becomes `null` is compatible"
IDENTITY = "An `enum` that holds a list or an object is not compatible with itself"

VALID = "schema-is-valid"
OTHER_CHECKS = {
    "lookahead": (VALID, UNUSABLE),
    "back-reference": (VALID, UNUSABLE),
    "format nothing": (VALID, UNUSABLE),
    "format nothing, maxLength": (VALID, UNUSABLE),
    "oneOf without required": (None, CRASH),
    "draft 4 with its exclusiveMinimum": (None, DRAFT),
}
"""Maps schemas of fields to the check that replaces theirs, and the reason."""
OTHER_COMPARISONS = {
    ('{"type": "string", "enum": [["a"]]}', '{"type": "string", "enum": [["a"]]}'): IDENTITY,
    ('{"type": "string", "default": null}', '{"type": "string", "default": null}'): NULL,
    ('{"type": "string", "default": {}}', '{"type": "string", "default": null}'): EMPTY,
}
"""Older and newer schemas of fields with different verdicts."""


@cache
def _corpus() -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the envelope, the lines of checks and those of comparisons."""
    head, *lines = [json.loads(line) for line in CORPUS.read_text("utf-8").splitlines()]
    return (
        head["envelope"],
        [line for line in lines if "check" in line],
        [line for line in lines if "compare" in line],
    )


def _schema(value: Any, more: dict[str, Any] | None = None) -> dict[str, Any]:
    envelope = _corpus()[0]
    properties = {**envelope["properties"], "x": value}
    return {**envelope, "properties": properties, **(more or {})}


def _checks_here(line: dict[str, Any]) -> set[str]:
    schema = _schema(line.get("value", {"type": "string"}), line.get("more"))
    return {problem.check for problem in robustness_problems(schema, "f", RepositoryConfig())}


def test_the_corpus_has_the_documented_verdicts() -> None:
    _, checks, comparisons = _corpus()
    assert len(checks) > 1000
    assert sum(len(row) for line in comparisons for row in line["rows"]) > 10_000
    assert len([line for line in checks if "failed" in line]) > 400


def test_every_check_finds_what_jsonschema_tools_finds() -> None:
    seen: set[str] = set()
    for line in _corpus()[1]:
        theirs, ours = set(line.get("failed", ())), _checks_here(line)
        if VALID in theirs and VALID in ours:
            assert ours == {VALID}, line["check"]  # invalid schemas are not checked further
            continue
        name = line["check"].partition(": ")[2] or line["check"]
        if ours != theirs:
            check, _ = OTHER_CHECKS[name]
            assert ours == ({check} if check else set()), line["check"]
            seen.add(name)
    assert seen == OTHER_CHECKS.keys()


POSITIONS: dict[str, Callable[[Any], Any]] = {
    "field": lambda f: f,
    "item": lambda f: {"type": "array", "items": f},
    "part of oneOf": lambda f: {
        "type": "object",
        "oneOf": [{"type": "object", "properties": {"a": f}, "required": []}],
    },
}
"""Return the schemas that jsonschema_tools.mjs uses."""


@pytest.mark.parametrize("position", POSITIONS)
def test_compatibility_equals_jsonschema_tools(position: str) -> None:
    [line] = [line for line in _corpus()[2] if line["compare"] == position]
    schemas = [_schema(POSITIONS[position](field)) for field in line["fields"]]
    names = [json.dumps(field) for field in line["fields"]]
    different: set[tuple[str, str]] = set()
    for older, old, row in zip(names, schemas, line["rows"], strict=True):
        for newer, new, verdict in zip(names, schemas, row, strict=True):
            if bool(next(incompatibilities(new, old), None)) != (verdict != "0"):
                different.add((older, newer))
    assert different == OTHER_COMPARISONS.keys()


def test_every_difference_from_jsonschema_tools_has_a_row_in_the_docs() -> None:
    text = DOCS.read_text("utf-8")
    rows = {row for _, row in OTHER_CHECKS.values()} | set(OTHER_COMPARISONS.values())
    assert {row for row in rows if f"| {row} |" not in text} == set()
