"""Schema folders, made for one test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eventstreams.schemas.document import read_document
from eventstreams.schemas.tools.check import check
from eventstreams.schemas.tools.folder import open_folders
from eventstreams.schemas.tools.materialize import Materializer, Plan, plan, write

DRAFT_07 = "https://json-schema.org/draft-07/schema#"


def schema(uri: str, **keywords: Any) -> dict[str, Any]:
    """Return a valid schema with this URI. `keywords` are added or replace its own."""
    return {
        "title": uri[1:].rpartition("/")[0],
        "$id": uri,
        "$schema": DRAFT_07,
        "type": "object",
        "properties": {"$schema": {"type": "string"}, "name": {"type": "string"}},
        **keywords,
    }


def put(base: Path, place: str, document: object) -> Path:
    """Write a file. Text is written unchanged; anything else as JSON, which is YAML too."""
    path = base / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    return path


def put_current(base: Path, *schemas: Mapping[str, Any]) -> None:
    for one in schemas:
        put(base, f"{one['title']}/current.yaml", one)


def planned(base: Path, *, force: bool = False, bases: tuple[Path, ...] = ()) -> Plan:
    folders = open_folders(base, bases)
    return plan(folders[0], Materializer(folders), force=force)


def materialize(base: Path, *, force: bool = False, bases: tuple[Path, ...] = ()) -> list[str]:
    """Materialize a folder; return what was written. Fails if there are problems."""
    made = planned(base, force=force, bases=bases)
    assert not made.problems
    for one in made.writes:
        write(one)
    return [str(one) for one in made.writes]


def problems(base: Path, *, strict: bool = False) -> list[str]:
    return [str(problem) for problem in check(open_folders(base), strict=strict)]


def read(base: Path, place: str) -> dict[str, Any]:
    return read_document(base / place, place)


def snapshot(base: Path) -> dict[str, object]:
    """Return the content of all files and the targets of all symlinks in a folder."""
    found: dict[str, object] = {}
    for path in sorted(base.rglob("*")):
        place = path.relative_to(base).as_posix()
        if path.is_symlink():
            found[place] = path.readlink()
        elif path.is_file():
            found[place] = path.read_bytes()
    return found
