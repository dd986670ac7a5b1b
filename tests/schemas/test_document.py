"""Schema files are read, and written so that they are read back unchanged."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import SchemaError
from eventstreams.model.problem import below, tokens_of
from eventstreams.schemas.document import FILE_BYTES_MAX, NODES_MAX, parse_document
from eventstreams.schemas.text import in_order, to_text
from eventstreams.schemas.tools.merge import equal

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["no", "On", "1.0", "0x1f", "1_000", "12:30", "2020-01-01", "null", "~", "<<", "", " a", "a ",
     "a: b", "a #b", "- a", "'", '"', "\n", "\n\n", " \n a\n\n", "a\n b", "\u2028", "\x85",
     "\ufeff",
     "word " * 30, "word " * 30 + "\n", "x" * 200, " " + "word " * 30, "a\n\n" + "word " * 30,
     ".inf", "1e3", "+1", "=", "!a", "&a", "*a", "%a", "@a", "`a", "emoji 😀"]
)  # fmt: skip
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)
documents = st.dictionaries(texts, values, max_size=4)


@given(documents, st.sampled_from(["yaml", "json"]))
def test_written_files_are_read_back(document: dict[str, Any], kind: str) -> None:
    text = to_text(document, kind)
    assert equal(parse_document(text.encode(), "f", is_json=kind == "json"), document)


@given(st.dictionaries(texts, st.lists(texts | st.booleans() | st.integers() | st.none())))
def test_other_yaml_parsers_read_the_same(document: dict[str, Any]) -> None:
    assert yaml.safe_load(to_text(document, "yaml")) == document


@given(documents)
def test_output_does_not_depend_on_key_order(document: dict[str, Any]) -> None:
    backwards = dict(reversed(document.items()))
    assert to_text(backwards, "yaml") == to_text(document, "yaml")


def test_keys_are_in_the_usual_order() -> None:
    keys = ["zeta", "examples", "properties", "required", "additionalProperties", "type"]
    keys += ["$schema", "$id", "description", "title", "allOf", "Alpha", "alpha", "_x", "$x", "0"]
    assert list(in_order(dict.fromkeys(keys))) == [
        "title", "description", "$id", "$schema", "type", "additionalProperties", "required",
        "properties", "allOf", "examples", "_x", "$x", "0", "alpha", "Alpha", "zeta",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "k: plain\n"),
        ("a, b", "k: 'a, b'\n"),
        ("it's: so", "k: 'it''s: so'\n"),
        ("12", "k: '12'\n"),
        ("1.2.3", "k: 1.2.3\n"),
        ("no", "k: 'no'\n"),
        ("tab\t", 'k: "tab\\t"\n'),
        ("", "k: ''\n"),
        ("two\nlines", "k: |-\n  two\n  lines\n"),
        ("two\nlines\n", "k: |\n  two\n  lines\n"),
        ("word " * 16, f"k: >-\n  {('word ' * 15).strip()}\n  word \n"),
        ("word " * 16 + "end\n", f"k: >\n  {('word ' * 15).strip()}\n  word end\n"),
        ([], "k: []\n"),
        ({}, "k: {}\n"),
        ([1, {"b": 2, "a": [3]}], "k:\n  - 1\n  - a:\n      - 3\n    b: 2\n"),
        (1.0, "k: 1\n"),
        (0.5, "k: 0.5\n"),
    ],
)
def test_yaml_has_the_layout_of_existing_repositories(value: Any, text: str) -> None:
    assert to_text({"k": value}, "yaml") == text


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "12:30", "2020-01-01", "1_000", "0b1"])
def test_only_json_literals_are_not_text(word: str) -> None:
    assert parse_document(f"k: {word}".encode(), "f") == {"k": word}


@pytest.mark.parametrize(
    ("text", "value"),
    [("~", None), ("", None), ("True", True), ("0x1F", 31), ("-7", -7), ("007", 7), (".5", 0.5)],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = parse_document(f"k: {text}".encode(), "f")["k"]
    assert (type(read), read) == (type(value), value)


def _bomb() -> str:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "\n".join(levels)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", "f:2:1: not YAML: the key 'a' appears twice"),
        ("a:\n  1: x", "f:2:3: not YAML: a key must be text; put it in quotes"),
        ("a: [1", "f:2:1: not YAML: did not find expected ',' or ']'"),
        ("a: !!python/object:os.system x", "f:1:4: not YAML: could not determine a constructor"),
        ("a: .nan", "f#/a: nan is not a JSON number"),
        ("a/b: [.inf]", "f#/a~1b/0: inf is not a JSON number"),
        ('a: "\\ud800"', "f"),
        ("a: &a [*a]", "f:1:4: not YAML: an alias (*NAME) inside this value refers to"),
        ("a: " + "[" * 200 + "]" * 200, "f: nested deeper than 100"),
        ("a: " + "[" * 50_000, "f: nested deeper than 100"),
        ("a: " + "[" * 50_000 + "]" * 50_000, "f: nested deeper than 100"),
        (_bomb(), "f:5:5: not YAML: aliases (*NAME) and merges (<<) in this value"),
        ("- 1", "f: does not contain an object"),
        ("", "f: does not contain an object"),
        ("a: 1\n---\na: 2", "f:2:1: not YAML: but found another document"),
    ],
)
def test_values_outside_json_are_refused_with_their_place(text: str, said: str) -> None:
    with pytest.raises(SchemaError) as raised:
        parse_document(text.encode(), "f")
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a": 1, "a": 2}', "f: not JSON: the key 'a' appears twice"),
        (b'{"a": 1,}', "f:1:"),
        (b'{"a": NaN}', "f#/a: nan is not a JSON number"),
        (b'{"a": [' + b"1," * NODES_MAX + b"1]}", f"f: more than {NODES_MAX} values"),
        (b'{"a": "\\ud800"}', "f#/a: contains half of a surrogate pair"),
        (b'{"a": ' + b"[" * 100_000, "f: not JSON: "),
        (b"\xff", "f: not UTF-8"),
        (b" " * (FILE_BYTES_MAX + 1), f"f: larger than {FILE_BYTES_MAX} bytes"),
        (b"[]", "f: does not contain an object"),
    ],
)
def test_invalid_json_is_refused_with_its_place(data: bytes, said: str) -> None:
    with pytest.raises(SchemaError) as raised:
        parse_document(data, "f", is_json=True)
    assert str(raised.value).startswith(said)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_document_or_a_problem(data: bytes, is_json: bool) -> None:
    with contextlib.suppress(SchemaError):
        assert isinstance(parse_document(data, "f", is_json=is_json), dict)


@given(st.lists(texts))
def test_pointers_can_be_split_into_keys(keys: list[str]) -> None:
    assert tokens_of(below("", *keys)) == keys
