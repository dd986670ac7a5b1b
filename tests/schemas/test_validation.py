"""Documents are validated by their schema, in AJV's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import SchemaError, SchemaNotFound
from eventstreams.schemas.ajv import dynamic_step, static_step
from eventstreams.schemas.cost import without_branches
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.validation import (
    HALF_A_PAIR,
    IN_A_BRANCH,
    PROBLEMS_MAX,
    Validator,
    Validators,
    errors_text,
)
from tests.support.effort import least_quiet_s
from tests.support.schema_folders import put, schema
from tests.support.strategies import documents


def _problems(keywords: dict[str, Any], document: Any) -> list[Any]:
    return Validator(keywords, "f").validate(document)


def _text(keywords: dict[str, Any], document: Any) -> str:
    return errors_text(_problems(keywords, document))


def _bound(comparison: str, limit: float) -> dict[str, Any]:
    return {"comparison": comparison, "limit": limit, "exclusive": "=" not in comparison}


DATE_TIME = {"format": "date-time"}


@pytest.mark.parametrize(
    ("keywords", "document", "message", "params"),
    [
        ({"type": "string"}, 1, "should be string", {"type": "string"}),
        ({"type": ["string", "null"]}, 1, "should be string,null", {"type": "string,null"}),
        ({"minimum": 0}, -1, "should be >= 0", _bound(">=", 0)),
        ({"maximum": 0.5}, 1, "should be <= 0.5", _bound("<=", 0.5)),
        ({"exclusiveMinimum": 0}, 0, "should be > 0", _bound(">", 0)),
        ({"exclusiveMaximum": 0}, 0, "should be < 0", _bound("<", 0)),
        ({"multipleOf": 2}, 1, "should be multiple of 2", {"multipleOf": 2}),
        ({"minLength": 1}, "", "should NOT be shorter than 1 characters", {"limit": 1}),
        ({"maxLength": 1}, "ab", "should NOT be longer than 1 characters", {"limit": 1}),
        ({"pattern": "^a"}, "b", 'should match pattern "^a"', {"pattern": "^a"}),
        (DATE_TIME, "now", 'should match format "date-time"', DATE_TIME),
        ({"minItems": 1}, [], "should NOT have fewer than 1 items", {"limit": 1}),
        ({"maxItems": 0}, [1], "should NOT have more than 0 items", {"limit": 0}),
        (
            {"items": [{}], "additionalItems": False},
            [1, 2],
            "should NOT have more than 1 items",
            {"limit": 1},
        ),
        (
            {"uniqueItems": True},
            [1, 2, 1],
            "should NOT have duplicate items (items ## 0 and 2 are identical)",
            {"i": 2, "j": 0},
        ),
        ({"minProperties": 1}, {}, "should NOT have fewer than 1 properties", {"limit": 1}),
        ({"maxProperties": 0}, {"a": 1}, "should NOT have more than 0 properties", {"limit": 0}),
        ({"required": ["a"]}, {}, "should have required property 'a'", {"missingProperty": "a"}),
        (
            {"dependencies": {"a": ["b"]}},
            {"a": 1},
            "should have property b when property a is present",
            {"property": "a", "missingProperty": "b", "depsCount": 1, "deps": "b"},
        ),
        (
            {"additionalProperties": False},
            {"a": 1},
            "should NOT have additional properties",
            {"additionalProperty": "a"},
        ),
        (
            {"enum": ["a", 1]},
            "b",
            "should be equal to one of the allowed values",
            {"allowedValues": ["a", 1]},
        ),
        ({"const": 1}, 2, "should be equal to constant", {"allowedValue": 1}),
        ({"not": {}}, 1, "should NOT be valid", {}),
        (
            {"oneOf": [{}, {}]},
            1,
            "should match exactly one schema in oneOf",
            {"passingSchemas": [0, 1]},
        ),
        ({"properties": {"a": False}}, {"a": 1}, "boolean schema is false", {}),
    ],
)  # fmt: skip
def test_messages_and_params_equal_ajvs(
    keywords: dict[str, Any], document: Any, message: str, params: dict[str, Any]
) -> None:
    [problem] = _problems(keywords, document)
    assert (problem.message, dict(problem.params)) == (message, params)
    assert problem.as_dict()["message"] == message


@pytest.mark.parametrize(
    ("keywords", "document", "texts"),
    [
        (
            {"anyOf": [{"type": "string"}, {"minimum": 5}]},
            1,
            ["should be string", "should be >= 5", "should match some schema in anyOf"],
        ),
        (
            {"oneOf": [{"type": "string"}, {"minimum": 5}]},
            1,
            ["should be string", "should be >= 5", "should match exactly one schema in oneOf"],
        ),
        (
            {"contains": {"const": 1}},
            [2],
            ["should be equal to constant", "should contain a valid item"],
        ),
        (
            {"if": {"type": "string"}, "then": {"minLength": 2}},
            "a",
            ["should NOT be shorter than 2 characters", 'should match "then" schema'],
        ),
        (
            {"propertyNames": {"maxLength": 2}},
            {"abc": 1},
            ["should NOT be longer than 2 characters", "property name 'abc' is invalid"],
        ),
    ],
)
def test_problems_of_branches_come_first(
    keywords: dict[str, Any], document: Any, texts: list[str]
) -> None:
    assert [problem.message for problem in _problems(keywords, document)] == texts


def test_all_problems_of_an_event_are_reported_with_their_paths() -> None:
    keywords = schema(
        "/a/1.0.0",
        required=["id"],
        properties={
            "meta": {"properties": {"dt": {"type": "string"}}},
            "tags": {"items": {"maxLength": 1}},
            "headers": {"additionalProperties": {"type": "string"}},
        },
    )
    document = {"meta": {"dt": 1}, "tags": ["a", "bc"], "headers": {"user-agent": 1, "it's": 2}}
    assert set(_text(keywords, document).split(", ")) == {
        "'' should have required property 'id'",
        "'.meta.dt' should be string",
        "'.tags[1]' should NOT be longer than 1 characters",
        "'.headers['user-agent']' should be string",
        "'.headers['it's']' should be string",
    }
    paths = {problem.schema_path for problem in _problems(keywords, document)}
    assert "#/properties/meta/properties/dt/type" in paths


def test_paths_are_written_as_by_ajv() -> None:
    assert "".join(map(static_step, ["a", "$b_1", "c d", "0", "it's"])) == (
        ".a.$b_1['c d']['0']['it\\'s']"
    )
    assert dynamic_step("a") + dynamic_step("it's") == "['a']['it's']"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("2026-01-31T12:00:00Z", True),
        ("2026-01-31T12:00:00.123+01:00", True),
        ("2021-19-39T29:59:59Z", False),
        ("2026-02-30T12:00:00Z", False),
        ("2026-01-31T12:00:00", False),
        ("2026-01-31", False),
    ],
)
def test_date_times_must_exist(text: str, valid: bool) -> None:
    assert (_text({"format": "date-time"}, text) == "") == valid


@pytest.mark.parametrize(
    "draft", ["draft-04", "draft-06", "draft-07", "draft/2019-09", "draft/2020-12"]
)
@pytest.mark.parametrize(
    "form", ["http://json-schema.org/{}/schema#", "https://json-schema.org/{}/schema"]
)
def test_drafts_from_4_on_are_supported(draft: str, form: str) -> None:
    keywords = {"$schema": form.format(draft), "$id": "/a/1.0.0", "type": "string"}
    assert _text(keywords, "a") == ""
    assert _text(keywords, 1) == "'' should be string"


def test_each_draft_follows_its_own_rules() -> None:
    draft_04 = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1}
    assert _text({**draft_04, "exclusiveMinimum": True}, 1) == "'' should be > 1"
    with pytest.raises(SchemaError, match="exclusiveMinimum"):
        Validator({"minimum": 1, "exclusiveMinimum": True}, "f")


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "f#/$schema: "),
        ({"$schema": "http://example.org/schema"}, "f#/$schema: "),
        ({"$schema": 7}, "f#/$schema: "),
        ({"type": "x", "required": True}, "f#/required: true is not of type"),
        ({"pattern": "(?=a)b"}, "f#/pattern: cannot be compiled"),
        (
            {"properties": {"a": {"pattern": "(a)\\1"}}},
            "f#/properties/a/pattern: cannot be compiled",
        ),
        ({"format": "nonsense"}, "f#/format: cannot be compiled: Unknown format"),
        ({"$ref": "http://127.0.0.1:9/x"}, "f: cannot be compiled: "),
        ({"$ref": "file:///etc/passwd"}, "f: cannot be compiled: "),
    ],
)
def test_unusable_schemas_are_reported_when_compiled(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(SchemaError) as raised:
        Validator(keywords, "f")
    assert said in str(raised.value)


def test_patterns_take_linear_time() -> None:
    assert _text({"pattern": "^(a+)+$"}, "a" * 200_000 + "b") != ""


def test_the_number_of_problems_is_bounded() -> None:
    many = dict.fromkeys(map(str, range(900)), 1)
    assert len(_problems({"additionalProperties": False}, many)) == PROBLEMS_MAX


def _numbered(value: Any) -> dict[str, Any]:
    return {f"key {n}": value for n in range(10_000)}


_LIST = ["as long as a text can be"] * 10_000
_REQUIRED: dict[str, Any] = {"required": [f"name {n}" for n in range(100)]}
EXPENSIVE: list[tuple[dict[str, Any], Any, str]] = [
    ({"additionalProperties": {"type": "string"}}, _numbered(1), "should be string"),
    ({"items": {"type": "object"}}, _LIST, "should be object"),
    ({"propertyNames": {"maxLength": 1}}, _numbered(1), "should NOT be longer than 1 characters"),
    ({"propertyNames": {"anyOf": [{"maxLength": 1}]}}, _numbered(1), IN_A_BRANCH.message),
    (_REQUIRED, _numbered(1), "should have required property"),
    (_REQUIRED, {"text": "x" * 1_000_000}, "should have required property"),
    ({"oneOf": [{"additionalProperties": {"type": "string"}}] * 3}, _numbered(1), "oneOf"),
    ({"allOf": [{"anyOf": [{"items": {"type": "object"}}]}]}, _LIST, "anyOf"),
    ({"then": {"anyOf": [{"items": {"type": "object"}}]}, "if": {}}, _LIST, "anyOf"),
    ({"not": {"anyOf": [{"items": {}}, {}]}}, _LIST, "should NOT be valid"),
    ({"items": {"anyOf": [{"type": "null"}, {"type": "object"}]}}, _LIST, "anyOf"),
]


@pytest.mark.parametrize(("keywords", "document", "said"), EXPENSIVE)
def test_not_all_problems_of_large_documents_are_listed(
    keywords: dict[str, Any], document: Any, said: str
) -> None:
    validator = Validator(keywords, "f")
    problems = validator.validate(document)
    assert 1 <= len(problems) <= 2  # an invalid property name counts as two
    assert said in problems[0].message
    taken_s = least_quiet_s(lambda: validator.validate(document), enough_s=0.02)
    assert taken_s <= 0.02  # listing all takes from 40 ms to a minute


@pytest.mark.parametrize(
    ("keywords", "document", "count"),
    [
        ({"additionalProperties": {"type": "string"}}, dict.fromkeys(map(str, range(90)), 1), 90),
        ({"propertyNames": {"maxLength": 1}}, {f"key {n}": n for n in range(30)}, 60),
        ({"required": [f"name {n}" for n in range(60)]}, {"a": [1] * 50}, 60),
        ({"anyOf": [{"items": {"type": "string"}}] * 2}, [1] * 40, 81),
    ],
)
def test_all_problems_of_ordinary_documents_are_listed(
    keywords: dict[str, Any], document: Any, count: int
) -> None:
    assert len(_problems(keywords, document)) == count


def test_clients_names_are_truncated() -> None:
    long = "x" * 1_000_000
    for keywords in (
        {"additionalProperties": {"type": "string"}},
        {"additionalProperties": False},
        {"propertyNames": {"maxLength": 1}},
    ):
        problems = _problems(keywords, {long: 1})
        assert problems
        assert len(str(problems)) < 1500


SUBSCHEMAS = st.recursive(
    st.sampled_from([{}, {"type": "string"}, {"maxProperties": 1}, {"required": ["a"]}, True]),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "contains": inner,
            "items": inner,
            "additionalProperties": inner,
            "propertyNames": inner,
            "properties": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
            "dependencies": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
        },
    ),
    max_leaves=6,
)
NAMED_DOCUMENTS = st.recursive(
    st.sampled_from([None, 1, "x"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner)
    ),
    max_leaves=8,
)


@given(SUBSCHEMAS, NAMED_DOCUMENTS)
def test_the_simplified_schema_accepts_valid_documents(schema_: Any, document: Any) -> None:
    keywords = schema_ if isinstance(schema_, dict) else {"allOf": [schema_]}
    if not _problems(keywords, document):
        assert not _problems(without_branches(keywords), document)


@given(SUBSCHEMAS, NAMED_DOCUMENTS)
def test_the_first_problem_is_one_of_all(schema_: Any, document: Any) -> None:
    keywords = schema_ if isinstance(schema_, dict) else {"allOf": [schema_]}
    problems = _problems(keywords, document)
    padded = [document, [0] * 2000]
    alone = _problems({"items": [keywords, {}]}, padded)
    assert bool(problems) == bool(alone)
    if alone and alone != [IN_A_BRANCH]:
        reported = {(problem.keyword, problem.message) for problem in problems}
        assert {(problem.keyword, problem.message) for problem in alone} <= reported


@given(documents)
def test_any_document_can_be_validated(document: Any) -> None:
    assert _problems({"not": {}}, document)
    assert _problems({}, document) in ([], [HALF_A_PAIR])


def test_unencodable_text_is_invalid() -> None:
    assert _problems({"not": {}}, "\ud800") == [HALF_A_PAIR]


def test_a_schema_is_compiled_once(tmp_path: Path) -> None:
    put(tmp_path, "a/1.0.0.yaml", schema("/a/1.0.0"))
    validators = Validators(SchemaRepository([tmp_path]))
    first = validators.get("/a/1.0.0")
    assert validators.get("/a/1.0.0") is first
    assert first.validate({"name": "x"}) == []
    assert errors_text(first.validate({"name": 1})) == "'.name' should be string"
    with pytest.raises(SchemaNotFound):
        validators.get("/a/1.0.1")


def test_an_uncompilable_schema_is_an_error_each_time(tmp_path: Path) -> None:
    put(tmp_path, "a/1.0.0.yaml", schema("/a/1.0.0", pattern="("))
    validators = Validators(SchemaRepository([tmp_path]))
    for _ in range(2):
        with pytest.raises(SchemaError, match="is not a"):
            validators.get("/a/1.0.0")
