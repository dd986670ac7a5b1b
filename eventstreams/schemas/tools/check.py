"""Runs all checks of a folder of schemas and reports every problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from eventstreams.errors import SchemaError
from eventstreams.model.problem import Problem
from eventstreams.schemas.fields import meta_advice
from eventstreams.schemas.tools.compatibility import CHECK, incompatibilities
from eventstreams.schemas.tools.folder import SchemaFolder
from eventstreams.schemas.tools.materialize import Materializer
from eventstreams.schemas.tools.robustness import robustness_problems
from eventstreams.schemas.tools.structure import structure_problems
from eventstreams.schemas.uri import SchemaUri

_FRAGMENTS = "fragment/"


def check(folders: Sequence[SchemaFolder], *, strict: bool = False) -> list[Problem]:
    """Return the problems of the first folder, each once.

    The other folders only supply schemas that its references name.
    """
    folder = folders[0]
    materializer = Materializer(folders)
    problems: list[Problem] = []
    for title in folder.titles:
        problems += structure_problems(folder, title, materializer)
        problems += _robustness(folder, title, strict=strict)
        problems += _compatibility(folder, title, strict=strict)
    return list(dict.fromkeys(problems))


def advice(folder: SchemaFolder) -> Iterator[str]:
    """Yield advice on the newest version of each event schema: harmless gaps that lose information.

    Fragments, which only other schemas refer to, are skipped.
    """
    for title in folder.titles:
        versions = folder.versions(title)
        file = folder.released(SchemaUri(title, versions[-1])) if versions else None
        if file is None or title.startswith(_FRAGMENTS):
            continue
        try:
            advised = meta_advice(folder.read(file))
        except SchemaError:
            continue  # reported by the structure checks
        if advised is not None:
            yield f"{file.place}: {advised}"


def _robustness(folder: SchemaFolder, title: str, *, strict: bool) -> Iterator[Problem]:
    """Yield the problems of one content type of each version. Another check compares content
    types."""
    released = [folder.released(SchemaUri(title, v)) for v in folder.versions(title)]
    for file in (*released, folder.current(title)):
        if file is None:
            continue
        try:
            schema = folder.read(file)
        except SchemaError:
            continue  # reported by the structure checks
        current = file.version is None
        yield from robustness_problems(
            schema, file.place, folder.config, current=current, strict=strict
        )


def _compatibility(folder: SchemaFolder, title: str, *, strict: bool) -> Iterator[Problem]:
    for before, after in pairwise(folder.versions(title)):
        if before.major != after.major:
            continue
        files = [folder.released(SchemaUri(title, version)) for version in (before, after)]
        try:
            [old, new] = [folder.read(file) for file in files if file]
        except SchemaError:
            continue
        if folder.config.skips(str(new.get("$id", "")), CHECK):
            continue
        for pointer, message in incompatibilities(new, old, strict=strict):
            yield Problem(f"{title}/{after}", pointer, f"{message} since {before}", CHECK)
