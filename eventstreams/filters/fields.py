"""Keeps parts of an event: `fields=title,user,meta.dt` keeps these paths, in the event's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, cast

from eventstreams.errors import InvalidFields

LENGTH_MAX = 1_024
PATHS_MAX = 64
PARTS_MAX = 32
"""How deep a path may go: deeper than events, and far below Python's recursion limit."""

Tree: TypeAlias = dict[str, "Tree | None"]
"""Names of fields to keep, each with the tree of what to keep of it; None for all of it."""


def parse_fields(text: str) -> tuple[str, ...]:
    """Return sorted paths, without those that lie within another one. Raises InvalidFields."""
    _check_text(text)
    paths: set[str] = set()
    for path, begin in _split(text, ",", 1):
        name = path.strip(" ")
        if not name:
            raise InvalidFields(f"Invalid fields at position {begin}: a name is empty")
        position = begin + path.index(name)
        parts = list(_split(name, ".", position))
        for part, begins in parts:
            if not part:
                raise InvalidFields(
                    f"Invalid fields at position {begins}: a part of {name} is empty"
                )
        if len(parts) > PARTS_MAX:
            raise InvalidFields(
                f"Invalid fields at position {position}: a path has {len(parts)} parts; "
                f"the limit is {PARTS_MAX}"
            )
        paths.add(name)
        if len(paths) > PATHS_MAX:
            raise InvalidFields(
                f"Invalid fields at position {position}: there may be {PATHS_MAX} names at most"
            )
    return tuple(sorted(path for path in paths if not _is_covered(path, paths)))


def tree_of(paths: tuple[str, ...]) -> Tree:
    """Return the tree of these paths, none of which lies within another one."""
    root: Tree = {}
    for path in paths:
        *parents, last = path.split(".")
        tree = root
        for parent in parents:
            below = tree.setdefault(parent, {})
            assert below is not None
            tree = below
        tree[last] = None
    return root


def project(fields: Mapping[str, Any], tree: Tree) -> dict[str, Any]:
    """Return the parts of `fields` that the tree names. Missing fields are left out."""
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in tree:
            continue
        below = tree[name]
        if below is None:
            kept[name] = value
        elif isinstance(value, dict):
            inner = project(cast("dict[str, Any]", value), below)
            if inner:
                kept[name] = inner
    return kept


def _check_text(text: str) -> None:
    if len(text) > LENGTH_MAX:
        raise InvalidFields(f"The fields have {len(text)} characters; the limit is {LENGTH_MAX}")
    for i, character in enumerate(text):
        code = ord(character)
        if code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000:
            raise InvalidFields(
                f"Invalid fields at position {i + 1}: the character U+{code:04X} is not allowed "
                "in a name"
            )


def _split(text: str, separator: str, position: int) -> Iterator[tuple[str, int]]:
    """Yield the pieces with their positions; `position` is that of the text."""
    for piece in text.split(separator):
        yield piece, position
        position += len(piece) + 1


def _is_covered(path: str, paths: set[str]) -> bool:
    return any(path[:i] in paths for i, c in enumerate(path) if c == ".")
