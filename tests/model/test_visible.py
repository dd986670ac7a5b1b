"""Control characters become visible; everything else is unchanged."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstreams.model.visible import visible

CONTROLS = {"Cc", "Zl", "Zp"}
"""The categories of control characters, line separators and paragraph separators."""


@given(st.text())
@example("".join(map(chr, range(0x2100))))
def test_visible_text_has_no_control_characters(text: str) -> None:
    assert not CONTROLS & set(map(unicodedata.category, visible(text)))
    lines = visible(text, keeps_lines=True).split("\n")
    assert len(lines) == text.count("\n") + 1
    assert not CONTROLS & set(map(unicodedata.category, "".join(lines)))


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Zl", "Zp"])))
def test_text_without_control_characters_is_unchanged(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\tc", r"a\x0ab\x09c"),
        ("\x9b31m", r"\u009b31m"),
        ("\u202egnp", r"\u202egnp"),
        ("\u2066x\u2069", r"\u2066x\u2069"),
    ],
)
def test_control_characters_become_escapes(text: str, expected: str) -> None:
    assert visible(text) == expected
