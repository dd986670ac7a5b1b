"""Aliases and merges cannot make a small YAML file large, and merged keys are no duplicates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventstreams.config.yaml_file import ALIASED_MAX, read_places, read_yaml
from eventstreams.errors import ConfigError, SchemaError
from eventstreams.schemas.document import parse_document


def read_settings(text: str, folder: Path) -> Any:
    path = folder / "f"
    path.write_text(text)
    return read_yaml(path)


def read_schema(text: str, _: Path) -> Any:
    return parse_document(text.encode(), "f")


READERS = pytest.mark.parametrize("read", [read_settings, read_schema])


def levels(first: str, item: Callable[[str], str], count: int) -> str:
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {item(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, count)]
    return "\n".join(lines)


def chain(length: int) -> str:
    merges = "".join(f"  - &m{n} {{<<: *m{n - 1}}}\n" for n in range(1, length))
    return f"m:\n  - &m0 {{x: 1}}\n{merges}last: {{<<: *m{length - 1}}}\n"


@READERS
@pytest.mark.parametrize(
    ("text", "place"),
    [
        (levels("[1, 1, 1, 1, 1, 1, 1, 1, 1]", "[{}]".format, 40), "f:5:5:"),
        (levels("{x: 1}", "{{<<: [{}]}}".format, 40), "f:6:14:"),
        (levels("{x: 1}", "{{y: 1, <<: [{}], z: 2}}".format, 40), "f:6:20:"),
        (chain(3_000), "f:2:3:"),
        ("a: {b: &b {c: {<<: *b}}}", "f:1:8:"),
        ("a: &a [[*a]]", "f:1:4:"),
        ("a: &a {<<: *a}", "f:1:4:"),
    ],
)
def test_values_that_aliases_and_merges_add_are_bounded(
    read: Callable[[str, Path], Any], text: str, place: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, SchemaError)) as refused:
        read(text, tmp_path)
    problem = str(refused.value)
    assert f"{place} not YAML: a" in problem
    assert "itself" in problem or f"more than {ALIASED_MAX:,} values" in problem


@READERS
def test_the_longest_chain_of_merges_is_read(
    read: Callable[[str, Path], Any], tmp_path: Path
) -> None:
    assert read(chain(400), tmp_path)["last"] == {"x": 1}


@READERS
def test_a_key_beside_a_merge_of_the_same_key_is_no_repeat(
    read: Callable[[str, Path], Any], tmp_path: Path
) -> None:
    text = """
        a: &a {x: 1, y: 1}
        outer: {inner: &b {<<: *a, x: 2}}
        c: {<<: *b}
    """
    assert read(text, tmp_path) == {
        "a": {"x": 1, "y": 1},
        "outer": {"inner": {"x": 2, "y": 1}},
        "c": {"x": 2, "y": 1},
    }


def test_a_large_file_without_aliases_is_read(tmp_path: Path) -> None:
    text = "a: [" + "1," * (ALIASED_MAX + 1) + "]"
    assert len(read_schema(text, tmp_path)["a"]) == ALIASED_MAX + 1


def test_merged_values_have_the_places_where_they_are_written(tmp_path: Path) -> None:
    text = "a: &a {x: 1}\nb:\n  <<: *a\n  y: 2\n"
    read_settings(text, tmp_path)
    places = read_places(tmp_path / "f")
    assert (places["b", "x"], places["b", "y"]) == ((1, 8), (4, 3))
