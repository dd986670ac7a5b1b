"""Verdicts on schemas, documents and texts equal AJV 6's; each difference is a documented row.

verdicts/make.mjs writes the corpus: formats, keywords, and whole events with their mutations.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from eventstreams.errors import SchemaError
from eventstreams.intake.document import read
from eventstreams.model.steps import finished
from eventstreams.schemas.defaults import Defaults
from eventstreams.schemas.dereference import dereference
from eventstreams.schemas.tools.config import RepositoryConfig
from eventstreams.schemas.tools.robustness import CHECKS
from eventstreams.schemas.validation import Validator

CORPUS = Path(__file__).parent / "verdicts" / "ajv.ndjson"
DOCS = Path(__file__).parents[2] / "docs" / "compatibility.md"
VERDICTS_MIN = 2000

PATTERNS = "Patterns with look-around or back-references work"
DIALECT = "Patterns are JavaScript's without its `u` flag"
UNITS = "`.` and lengths of patterns count UTF-16 units"
REGEX = "The format `regex` takes whatever JavaScript takes"
UNKNOWN = "A schema with `iri`, `iri-reference`, `idn-email` or `idn-hostname` cannot be used"
FIRST = "Defaults are filled in while the schema is checked"
REF_PATH = "`schemaPath` of a schema behind a `$ref` begins there"
TIMES = "`2021-19-39T29:59:59Z`, `2026-01-31 12:00:00Z` and zones without minutes pass"
BIG = "Integers beyond 2^53 are rounded"

SELF = "A schema that refers to itself is compiled"

SCHEMAS_REFUSED_HERE = {
    "keywords properties, type": SELF,
    'schema {"pattern":"(?=a)a","maxLength":9}': PATTERNS,
    'schema {"pattern":"(a)\\\\1","maxLength":9}': PATTERNS,
    'schema {"pattern":"[^]","maxLength":9}': DIALECT,
    'schema {"pattern":"a{,2}","maxLength":9}': DIALECT,
}
SCHEMAS_REFUSED_THERE = {
    f"format {name}": UNKNOWN for name in ("iri", "iri-reference", "idn-email", "idn-hostname")
}
OTHER_VERDICT = {
    "format regex": REGEX,
    "keywords pattern, maxLength": UNITS,
    'schema {"pattern":"\\\\p{L}","maxLength":9}': DIALECT,
    "job": FIRST,
}
OTHER_TEXT = {"job": FIRST}
OTHER_PATH = {"keywords definitions, properties": REF_PATH, "keywords properties": REF_PATH}
STRICT_VERDICT = {
    **OTHER_VERDICT,
    "format date": TIMES,
    "format date in draft 4": TIMES,
    "format date without maxLength": TIMES,
    "format time": TIMES,
    "format time in draft 4": TIMES,
    "format time without maxLength": TIMES,
    "format date-time": TIMES,
    "format date-time in draft 4": TIMES,
    "keywords multipleOf": BIG,
}
COUNTS = {"eventgate": 30, "strict": 66}
"""The numbers of differing verdicts. A change of these must be examined."""


@cache
def _corpus() -> tuple[str, list[dict[str, Any]]]:
    lines = [json.loads(line) for line in CORPUS.read_text("utf-8").strip().split("\n")]
    return lines[0]["head"], lines[1:]


META = {
    "type": "object",
    "required": ["stream"],
    "properties": {"stream": {"type": "string", "minLength": 1}, "dt": {"type": "string"}},
}


def _schema(draft: str, value: Any) -> dict[str, Any]:
    """Return the schema that make.mjs builds."""
    return {
        "title": "test/verdict",
        "id" if draft == "draft-04" else "$id": "/test/verdict/1.0.0",
        "$schema": f"http://json-schema.org/{draft}/schema#",
        "type": "object",
        "required": ["$schema", "meta"],
        "properties": {"$schema": {"type": "string"}, "meta": META, "value": value},
    }


def _no_other(uri: object) -> dict[str, Any]:
    raise AssertionError(uri)


class Judge:
    """The validator and defaults of a schema, as in the intake."""

    def __init__(self, line: dict[str, Any], *, lenient: bool) -> None:
        """Raises SchemaError."""
        schema = dereference(
            _schema(line["draft"], line["value"]), "/test/verdict/1.0.0", _no_other
        )
        self._validator = Validator(schema, "f", lenient_formats=lenient)
        self._defaults = Defaults(schema, compile_test=self._validator.test_of)
        self._lenient = lenient

    def judge(self, value: Any) -> tuple[list[list[Any]], Any]:
        """Return AJV's error objects, and the value with defaults filled in."""
        text = _corpus()[0] + json.dumps(value, ensure_ascii=False) + "}"
        event = finished(
            read(
                text.encode(),
                bytes_max=10**6,
                values_max=10**4,
                depth_max=50,
                lenient=self._lenient,
            )
        )
        self._defaults.fill(event)
        problems = self._validator.validate(event)
        errors = [
            [p.keyword, p.data_path, p.schema_path, dict(p.params), p.message] for p in problems
        ]
        return errors, event["value"]


def _differences(*, lenient: bool) -> dict[str, Counter[str]]:
    """Maps kinds of differences to names in the corpus and their counts."""
    found: dict[str, Counter[str]] = {
        kind: Counter()
        for kind in ("refused here", "refused there", "verdict", "text", "path", "written")
    }
    for line in _corpus()[1]:
        name = line["name"]
        try:
            judge = Judge(line, lenient=lenient)
        except SchemaError:
            found["refused here"][name] += "refused" not in line
            continue
        found["refused there"][name] += "refused" in line
        for value, verdict, *written in line.get("cases", ()):
            errors, after = judge.judge(value)
            theirs = verdict or []
            if bool(errors) != bool(theirs):
                found["verdict"][name] += 1
                continue
            as_written = json.dumps(written[0] if written else value)
            found["written"][name] += json.dumps(after) != as_written and lenient
            if [(e[1], e[4]) for e in errors] != [(e[1], e[4]) for e in theirs]:
                found["text"][name] += 1
            elif errors != theirs:
                found["path"][name] += 1
    return {kind: +counter for kind, counter in found.items()}


def test_the_corpus_has_the_documented_size() -> None:
    lines = _corpus()[1]
    assert sum(len(line.get("cases", [0])) for line in lines) >= VERDICTS_MIN
    assert len({line["name"] for line in lines}) > 100


def test_in_compatibility_mode_results_equal_ajvs() -> None:
    found = _differences(lenient=True)
    assert found["refused here"].keys() == SCHEMAS_REFUSED_HERE.keys()
    assert found["refused there"].keys() == SCHEMAS_REFUSED_THERE.keys()
    assert found["verdict"].keys() == OTHER_VERDICT.keys()
    assert found["text"].keys() == OTHER_TEXT.keys()
    assert found["path"].keys() == OTHER_PATH.keys()
    assert not found["written"]
    assert found["verdict"].total() == COUNTS["eventgate"]


def test_by_default_only_times_and_large_integers_differ() -> None:
    found = _differences(lenient=False)
    assert found["verdict"].keys() == STRICT_VERDICT.keys()
    assert found["verdict"].total() == COUNTS["strict"]
    assert found["text"].keys() == OTHER_TEXT.keys()
    assert found["path"].keys() == OTHER_PATH.keys()


@pytest.mark.parametrize(
    "table",
    [SCHEMAS_REFUSED_HERE, SCHEMAS_REFUSED_THERE, STRICT_VERDICT, OTHER_TEXT, OTHER_PATH],
)
def test_every_difference_has_a_row_in_the_docs(table: dict[str, str]) -> None:
    text = DOCS.read_text("utf-8")
    assert {row for row in table.values() if f"| {row} |" not in text} == set()


def test_schemas_are_secure_if_ajv_says_so() -> None:
    for line in _corpus()[1]:
        schema = _schema(line["draft"], line["value"])
        findings = list(CHECKS["schema-is-secure"](schema, RepositoryConfig(), False))
        assert bool(findings) != bool(line["secure"]), line["name"]
