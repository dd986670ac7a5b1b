"""Formats in large documents are checked in short steps, with the same results."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.model.steps import finished
from eventstreams.schemas.format_checks import FormatChecks
from eventstreams.schemas.validation import Validator
from tests.support.schema_folders import schema

_ADDRESS = {"type": "string", "format": "ipv6"}
VALIDATOR = Validator(
    schema(
        "/a/1.0.0",
        properties={
            "all": {"type": "array", "items": _ADDRESS},
            "some": {"anyOf": [{"items": _ADDRESS}, {"items": {"format": "uuid"}}]},
            "none": {"items": {"not": _ADDRESS}},
        },
    ),
    "",
)
TEXTS = st.lists(
    st.sampled_from(
        ["::1", "1::", "::x", "", "123e4567-e89b-12d3-a456-426614174000", "\ud800", 1, None]
    ),
    max_size=8,
)


@given(st.dictionaries(st.sampled_from(["all", "some", "none"]), TEXTS))
def test_validating_in_steps_finds_the_same_problems(document: Any) -> None:
    assert finished(VALIDATOR.validating(document)) == VALIDATOR.validate(document)


@pytest.mark.parametrize(("length", "most"), [(2, 64), (1000, 2), (100_000, 1)])
def test_each_step_checks_few_characters(length: int, most: int) -> None:
    checked: list[str] = []

    def check(text: str) -> bool:
        checked.append(text)
        return True

    checks = FormatChecks({"any": check})
    texts = [str(n).rjust(length) for n in range(90)]
    counts: list[int] = []
    steps = checks.in_steps(lambda: [checks.functions["any"](text) for text in texts])
    for _ in steps:
        counts.append(len(checked))
    counts.append(len(checked))
    assert checked == texts
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) <= most


def test_known_results_are_used_only_while_they_are_known() -> None:
    checks = FormatChecks({"any": lambda text: text == "b"})
    check = checks.functions["any"]
    with checks.known({"any": {"a": True}}):
        assert [check(text) for text in "abc"] == [True, True, False]
    assert [check(text) for text in "abc"] == [False, True, False]
