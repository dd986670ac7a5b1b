"""Compares two versions of a schema: what changed, and whether the change is compatible."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from eventstreams.errors import SchemaError, SchemaNotFound
from eventstreams.model.problem import Problem, below
from eventstreams.schemas.tools.compatibility import Finding, incompatibilities
from eventstreams.schemas.tools.folder import SchemaFolder
from eventstreams.schemas.tools.materialize import Materializer
from eventstreams.schemas.tools.merge import equal
from eventstreams.schemas.uri import SchemaUri, Version, parse_version

_SHOWN_MAX = 120
"""Maximum characters shown of a value."""


class Side(NamedTuple):
    title: str
    version: Version
    asked: str
    """The keyword current or latest, if the version was requested by it."""
    document: dict[str, Any]


class Change(NamedTuple):
    sign: str
    """+ for added, - for removed, ~ for changed."""
    pointer: str
    text: str

    def __str__(self) -> str:
        return f"{self.sign} {self.pointer}  {self.text}"


class Comparison(NamedTuple):
    old: Side
    new: Side
    changes: list[Change]
    lenient: list[Finding]
    """Incompatibilities that jsonschema-tools would report."""
    strict: list[Finding]


def compare(folders: Sequence[SchemaFolder], title: str, old: str, new: str) -> Comparison:
    """Compare two versions, each given as X.Y.Z, latest or current. Raises SchemaError if one is
    missing."""
    older, newer = _side(folders, title, old), _side(folders, title, new)
    before, after = older.document, newer.document
    return Comparison(
        older,
        newer,
        list(changes(after, before)),
        list(incompatibilities(after, before)),
        list(incompatibilities(after, before, strict=True)),
    )


def _side(folders: Sequence[SchemaFolder], title: str, asked: str) -> Side:
    folder = folders[0]
    if title not in folder.titles:
        raise SchemaNotFound([Problem(title, "", f"the schema does not exist in {folder.base}")])
    if asked == "current":
        made = Materializer(folders).current(title)
        return Side(title, made.version, asked, made.document)
    versions = folder.versions(title)
    version = versions[-1] if asked == "latest" and versions else parse_version(asked)
    file = folder.released(SchemaUri(title, version)) if version else None
    if file is None or version is None:
        there = ", ".join(map(str, versions)) or "none"
        raise SchemaError([Problem(title, "", f"there is no version {asked}; there are: {there}")])
    return Side(title, version, "" if asked == str(version) else asked, folder.read(file))


def changes(new: Any, old: Any, pointer: str = "") -> Iterator[Change]:
    """Yield each value that only one of the two has, or that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        for key in dict.fromkeys((*before, *after)):
            where = below(pointer, key)
            if key not in after:
                yield Change("-", where, _shown(before[key]))
            elif key not in before:
                yield Change("+", where, _shown(after[key]))
            else:
                yield from changes(after[key], before[key], where)
    elif not equal(old, new):
        yield Change("~", pointer or "/", f"{_shown(old)} -> {_shown(new)}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."
